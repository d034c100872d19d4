"""CUDA C++ to PTX by NVRTC, which jax's CUDA wheels install; no compiler is needed."""

import contextlib
import ctypes
import ctypes.util
import functools
import glob
import hashlib
import importlib.util
import os
import pathlib
import re

from pf_jax.files import write_shared

SOURCES = pathlib.Path(__file__).parent / "sources"
VERSION = "8.1"
"""Version of the PTX that drivers are given: an old one does not know NVRTC's own."""

Defines = tuple[tuple[str, int], ...]


class UnavailableError(Exception):
    """A kernel that cannot be compiled here."""


def compile_ptx(name: str, defines: Defines) -> str:
    """The PTX of a source file.

    Args:
        name: Name of a file in `sources/`.
        defines: Constants of the compilation.

    Raises:
        UnavailableError: If NVRTC is missing, or refuses the source.
    """
    headers = sorted(SOURCES.glob("*.cuh"))
    texts = tuple((path.name, path.read_text()) for path in (SOURCES / name, *headers))
    return _compiled(texts, defines)


def architecture(name: str) -> str:
    """The oldest architecture that runs a file in `sources/`; later ones run its PTX too.

    Args:
        name: Name of the file; those that end in `_l2.cu` need no clusters.
    """
    return "compute_80" if name.endswith("_l2.cu") else "compute_90"


@functools.cache
def _compiled(texts: tuple[tuple[str, str], ...], defines: Defines) -> str:
    """The PTX of a source and its headers, kept in a file for other processes."""
    key = repr((texts, defines, architecture(texts[0][0]), VERSION)).encode()
    name = f"{hashlib.sha256(key).hexdigest()[:32]}.ptx"
    # A cache is no more than that: it may be damaged, read-only, or of no user.
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        digest, _, ptx = (cache_folder() / name).read_text().partition("\n")
        if digest == _digest(ptx):
            return ptx
    ptx = _run_nvrtc(texts, defines)
    with contextlib.suppress(OSError, RuntimeError):
        write_shared(cache_folder() / name, f"{_digest(ptx)}\n{ptx}".encode())
    return ptx


def _digest(ptx: str) -> str:
    """First line of a kept file: comment of PTX with the digest of what follows."""
    return f"// {hashlib.sha256(ptx.encode()).hexdigest()}"


def cache_folder() -> pathlib.Path:
    """The folder of compiled kernels, in the user's cache.

    Raises:
        RuntimeError: If the user has no home.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(caches) / "pf_jax" / "ptx"


def _folders() -> list[str]:
    """Patterns of NVRTC's folders: those of NVIDIA's wheels, then the toolkit's."""
    spec = importlib.util.find_spec("nvidia")
    wheels = list(spec.submodule_search_locations or ()) if spec else []
    found = [
        f"{glob.escape(wheel)}/{name}/lib"
        for wheel in wheels
        for name in ("cu1*", "cuda_nvrtc")
    ]
    toolkits = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    return found + [f"{glob.escape(toolkit)}/lib*" for toolkit in toolkits if toolkit]


@functools.cache
def find_library() -> ctypes.CDLL:
    """NVRTC.

    Raises:
        UnavailableError: If it is not installed, or is no library.
    """
    try:
        return _load_library()
    except OSError as error:
        raise UnavailableError(f"NVRTC cannot be loaded: {error}") from error


def _load_library() -> ctypes.CDLL:
    for folder in _folders():
        for path in sorted(glob.glob(f"{folder}/libnvrtc.so.1[23]"), reverse=True):
            # NVRTC would search the system's folders alone for this one.
            beside = glob.escape(os.path.dirname(path))
            for builtins in glob.glob(f"{beside}/libnvrtc-builtins.so.*"):
                ctypes.CDLL(builtins, mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(path)
    name = ctypes.util.find_library("nvrtc")
    if name is None:
        raise UnavailableError("NVRTC is not installed: pip install nvidia-cuda-nvrtc")
    return ctypes.CDLL(name)


def _run_nvrtc(texts: tuple[tuple[str, str], ...], defines: Defines) -> str:
    library = find_library()
    (name, source), *headers = texts
    program = ctypes.c_void_p()
    strings = ctypes.c_char_p * len(headers)
    status = library.nvrtcCreateProgram(
        ctypes.byref(program),
        source.encode(),
        name.encode(),
        len(headers),
        strings(*(text.encode() for _, text in headers)),
        strings(*(header.encode() for header, _ in headers)),
    )
    if status:
        raise UnavailableError(f"NVRTC cannot read {name}: error {status}")
    try:
        options = [f"--gpu-architecture={architecture(name)}", "-std=c++17"]
        options += [f"-D{key}={value}" for key, value in defines]
        arguments = (ctypes.c_char_p * len(options))(*(x.encode() for x in options))
        if library.nvrtcCompileProgram(program, len(options), arguments):
            log = _text(library, program, "nvrtcGetProgramLog")
            raise UnavailableError(f"NVRTC refuses {name}: {log}")
        ptx = _text(library, program, "nvrtcGetPTX")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
    return re.sub(r"\.version \d+\.\d+", f".version {VERSION}", ptx, count=1)


def _text(library: ctypes.CDLL, program: ctypes.c_void_p, name: str) -> str:
    """What NVRTC has to say of a program."""
    size = ctypes.c_size_t()
    getattr(library, f"{name}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(library, name)(program, text)
    return text.value.decode()
