"""Wrong inputs of every kind for the programs, in an order that a seed settles.

A case is what a user types, and the files that are there. `cases(seed)` has no end, and its
start is the same for the same seed.
"""

import json
import os
import pathlib
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.io
from hostile_files import FILES, IDX, NAMES, npy_bytes, wav_bytes, write_zip
from ml_collections import config_dict
from study_runs import write_run
from whole_runs import SIZES, write_text

from configs import default

SLOW_FILES = {
    "gzip",
    "gzip_text",
    "gzip_texts",
    "zip_of_bytes",
    "mat_packed",
    "lzma",
    "bzip2",
    "pickle_nested",
}
"""Hostile files that take seconds to write or to refuse."""


class Case(NamedTuple):
    """A wrong input.

    Attributes:
        name: What is wrong.
        program: Name of the program, such as "train".
        arguments: What is typed after it; "{here}" is the folder of the case.
        prepare: Function that writes files into that folder, and returns arguments that
            come after the others.
        environment: Settings of JAX, by their names in lower case.
        is_slow: Whether the case takes seconds.
    """

    name: str
    program: str
    arguments: tuple[str, ...]
    prepare: Callable[[pathlib.Path], list[str]] = lambda here: []
    environment: tuple[tuple[str, Any], ...] = ()
    is_slow: bool = False


_SMALL_FIELDS = {
    **SIZES,
    "data.path": "text.txt",
    "discriminator.hidden_size": 4,
    "discriminator.mlp_size": 4,
    "train.num_steps": 2,
    "train.log_every": 2,
}
"""Fields of a training that takes no time."""


def small_arguments() -> tuple[str, ...]:
    """The arguments of a training that takes no time."""
    return tuple(f"--config.{name}={value}" for name, value in _SMALL_FIELDS.items())


def fields_of(config: config_dict.ConfigDict, prefix: str = "") -> Iterator[tuple]:
    """The full name and the type of every field."""
    for name in config:
        value = config.get_ref(name).get() if name in config else None
        if isinstance(value, config_dict.ConfigDict):
            yield from fields_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", config.get_type(name)


FIELDS = sorted(fields_of(default.get_config()))

_MARKS = (
    "abc",
    "",
    " ",
    "None",
    "nan",
    "\u0661\u0662",
    "1_0",
    "0x10",
    "\udcff",
    "a\nb",
)
_COUNTS = (-1, 0, 2**31 - 1, 2**31, 2**32, 2**63, 10**30, 10**400, "1.5", "1e3", "True")
_NUMBERS = (-1, "nan", "inf", "-inf", "1e-46", "1e-300", "1e39", "1e308", "1e400")
_NEAR = ("0.99999999999", "1.0000001", "-1e-9", "1e-20", "1,5", "0", "1e-9")
_NAMES = (
    "[[]]",
    "(",
    "(" * 300,
    "()",
    "1",
    "-1",
    "{}",
    "hidden,hidden",
    "b'x'",
    "1e400",
)
VALUES: dict[type, tuple[Any, ...]] = {
    int: _COUNTS + _MARKS,
    float: _NUMBERS + _NEAR + _MARKS,
    # No folder outside of a case's own that a privileged user could write to.
    str: (*_MARKS, "a" * 300, "../..", "/proc", "*", "-", "~nosuchuser/x", "a,b"),
    bool: (*_MARKS, "2", "maybe", "-1"),
    tuple: _NAMES + _MARKS,
}
"""Wrong values by type of field; some are right for some fields."""

FLAGS: dict[str, dict[str, type]] = {
    "train": {
        "workdir": str,
        "config": str,
        "flagfile": str,
        "init_from": str,
        "coordinator": str,
        "num_processes": int,
        "process_id": int,
    },
    "evaluate": {
        "workdir": str,
        "split": str,
        "checkpoint": str,
        "num_samples": int,
        "sample_length": int,
        "temperature": float,
        "bias": float,
        "prompt": str,
        "beam": int,
        "length_normalization": float,
        "bleu": bool,
        "critic": bool,
        "judge": str,
        "data_path": str,
        "tfds_manual_dir": str,
        "flagfile": str,
    },
    "sample": {
        "workdir": str,
        "out": str,
        "checkpoint": str,
        "seed": int,
        "num_samples": int,
        "sample_length": int,
        "temperature": float,
        "prompt": str,
        "bias": float,
        "label": int,
        "source": str,
        "beam": int,
        "length_normalization": float,
    },
    "rate": {
        "a": str,
        "b": str,
        "out": str,
        "pairs": int,
        "repeats": int,
        "catches": int,
        "raters": int,
        "max_failed_catches": float,
        "min_answered": float,
        "seed": int,
        "split": str,
        "sample_length": int,
        "temperature": float,
        "port": int,
    },
    "report": {"out": str, "baseline": str, "primary": str, "title": str},
    "study": {
        "workdir": str,
        "seeds": int,
        "jobs": int,
        "split": str,
        "judge": str,
        "vary": str,
        "variant": str,
        "critic": bool,
    },
}
"""Flags of each program, with their types."""

_WORDS = (
    "train.num_steps=1",
    "--",
    "-",
    "--nope",
    "--config",
    "--config.",
    "--config.train=1",
    "--config.train.nope=1",
    "--noconfig.generator.kernels=1",
    "--noconfig.adversarial.teacher_forced_term=1",
    "--noconfig.train.num_steps",
    "--config.train.num_steps",
    "--config=nowhere.py",
    "--config=" + "a" * 300,
    "--config=/dev/null",
    "--config=/",
    "--config=:",
    "--stderrthreshold=abc",
    "--flagfile=/dev/zero",
    "--flagfile=/nowhere",
    "--flagfile=/",
    "--noflagfile",
    "\udcff",
    "",
)
"""What is no flag."""

_VARY = (
    "objective",
    "objective=",
    "=",
    "objective=teacher_forcing",
    "objective=teacher_forcing,teacher_forcing",
    "objective=nope,teacher_forcing",
    "seed=1,2",
    "data.name=text,wav",
    "train.nope=1,2",
    "train=1,2",
    "train.learning_rate=1e-46,1e-3",
    "train.batch_size=-1,8",
    "generator.hidden_size=8,2147483648",
    "behavior.fields=[[]],hidden",
    "behavior.fields=nope,hidden",
    "train.num_steps=" + ",".join(map(str, range(1, 1500))),
    "data.path=a,b",
    "train.schedule=" + "a" * 300 + ",constant",
    "\udcff=1,2",
)

_CONFIGS = (
    b"",
    b"def get_config(",
    b"\0\0",
    b"\xff\xfe",
    b"raise SystemExit(3)",
    b"def get_config():\n    return 1\n",
    b"def get_config():\n    return get_config()\n",
    b"def get_config(name):\n    return name\n",
    b"from ml_collections import config_dict\nget_config = config_dict.ConfigDict\n",
    b"1 / 0",
    b"import nowhere",
    b"raise MemoryError",
)
_IN_CONFIG = (
    "del config.data",
    "del config.train.log_every",
    "del config.scheduled_sampling",
    "config.train = 5",
    "config.generator.recompute = 'yes'",
    "config.seed = 1.5",
    "config.train.unlock()",
    "config.data.path = None",
)

_ENVIRONMENTS = (
    ("jax_platforms", "nowhere"),
    ("jax_platforms", "cuda"),
    ("jax_platforms", "tpu"),
    ("jax_platforms", ","),
    ("jax_enable_x64", True),
)

_JSON = (
    b"",
    b"null",
    b"[]",
    b"{}",
    b"1",
    b'"text"',
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"a": ' * 5000,
    b"1" * 5000,
    b"{" + b'"a": 1,' * 3,
    b"\xef\xbb\xbf{}",
    b"NaN",
)
RUN_FILES = (
    "config.json",
    "encoding.json",
    "metrics.jsonl",
    "evaluation/metrics.json",
    "study.json",
)


def cases(seed: int = 0) -> Iterator[Case]:
    """Wrong inputs without end; each program, field and loader has its turn."""
    source = random.Random(seed)
    makers: list[Iterator[Case]] = [
        _endless(source, maker)
        for maker in (
            _field_cases,
            _file_cases,
            _field_cases,
            _damage_cases,
            _flag_cases,
            _run_cases,
            _other_cases,
        )
    ]
    while True:
        for maker in makers:
            yield next(maker)


def _endless(
    source: random.Random, maker: Callable[[random.Random], list[Case]]
) -> Iterator[Case]:
    """The cases in another order each time they come to an end."""
    while True:
        made = maker(source)
        source.shuffle(made)
        yield from made


def _field_cases(source: random.Random) -> list[Case]:
    """A wrong value of each field, for the programs that have a config."""
    made = []
    for field, kind in FIELDS:
        for value in source.sample(VALUES[kind], 3):
            program = "study" if source.random() < 0.1 else "train"
            arguments = [*small_arguments(), *_program_arguments(program)]
            section = field.split(".")[0]
            if section in ("scheduled_sampling", "state_matching", "input_noise"):
                arguments.append(f"--config.objective={section}")
            arguments.append(f"--config.{field}={value}")
            name = f"{program}: {field}={value}"
            made.append(Case(name, program, tuple(arguments), _with_text))
    return made


def _file_cases(source: random.Random) -> list[Case]:
    """Each hostile file."""
    del source
    return [
        Case(
            f"file: {name}",
            "train",
            (*small_arguments(), "--workdir={here}/run"),
            lambda here, name=name: _data_arguments(FILES[name](_folder(here))),
            is_slow=name in SLOW_FILES,
        )
        for name in FILES
        if name != "path_nul"  # Nobody can type it.
    ]


def _damage_cases(source: random.Random) -> list[Case]:
    """A file of each loader, damaged."""
    made = []
    for name in SAMPLES:
        for kind in ("cut", "flipped", "garbage", "repeated", "empty", "text"):
            number = source.getrandbits(32)
            made.append(
                Case(
                    f"damage: {name} {kind} {number}",
                    "train",
                    (*small_arguments(), "--workdir={here}/run"),
                    lambda here, name=name, kind=kind, number=number: _data_arguments(
                        _damaged(_folder(here), name, kind, random.Random(number))
                    ),
                )
            )
    return made


def _flag_cases(source: random.Random) -> list[Case]:
    """A wrong value of each flag, and what is no flag."""
    made = []
    for program, flags in FLAGS.items():
        base = _base_arguments(program)
        for flag, kind in flags.items():
            values = _VARY if flag == "vary" else VALUES[kind]
            for value in source.sample(values, 3):
                arguments = (*base, f"--{flag}={value}")
                made.append(
                    Case(f"{program}: {flag}={value}", program, arguments, _all)
                )
        for word in source.sample(_WORDS, 6):
            made.append(Case(f"{program}: {word}", program, (*base, word), _all))
    return made


def _run_cases(source: random.Random) -> list[Case]:
    """A file of a run, damaged, for the programs that read runs."""
    made = []
    for program in ("evaluate", "sample", "rate", "report", "train", "study"):
        for file in RUN_FILES:
            for content in source.sample(
                (*_JSON, "typed", "typed", "pipe", "folder"), 3
            ):
                number = source.getrandbits(32)
                shown = content if isinstance(content, str) else content[:20]
                made.append(
                    Case(
                        f"{program}: {file} is {shown!r} {number}",
                        program,
                        _base_arguments(program),
                        lambda here, file=file, content=content, number=number: [
                            *_all(here),
                            *_spoil(
                                here / "run" / file, content, random.Random(number)
                            ),
                        ],
                    )
                )
    return made


def _other_cases(source: random.Random) -> list[Case]:
    """Config files, variants of a study, devices, and folders that cannot be used."""
    made = []
    for content in _CONFIGS:
        made.append(_config_case(content))
    for line in _IN_CONFIG:
        text = (
            "from configs import default\ndef get_config():\n"
            "    config = default.get_config()\n"
            f"    config.update_from_flattened_dict({_SMALL_FIELDS})\n"
            f"    {line}\n    return config\n"
        )
        made.append(_config_case(text.encode(), line))
    for value in source.sample(_VARY, len(_VARY)):
        base = _base_arguments("study")[:-1]
        made.append(
            Case(f"study: vary {value}", "study", (*base, f"--vary={value}"), _all)
        )
    for pair in _ENVIRONMENTS:
        for program in ("train", "evaluate"):
            made.append(
                Case(
                    f"{program}: {pair[0]}={pair[1]}",
                    program,
                    _base_arguments(program),
                    _all,
                    (pair,),
                )
            )
    for program in FLAGS:
        for folder in (
            "{here}/file",
            "{here}/file/x",
            "{here}/" + "a" * 300,
            "/proc/x",
        ):
            flag = "out" if program == "report" else "workdir"
            arguments = (*_base_arguments(program), f"--{flag}={folder}")
            made.append(Case(f"{program}: {flag} {folder}", program, arguments, _all))
        made.append(
            Case(f"{program}: twice", program, _base_arguments(program) * 2, _all)
        )
    return made


def _config_case(content: bytes, name: str = "") -> Case:
    def prepare(here: pathlib.Path) -> list[str]:
        (here / "wrong.py").write_bytes(content)
        return _with_text(here)

    arguments = ("--config={here}/wrong.py", "--workdir={here}/run")
    return Case(f"config: {name or content!r}", "train", arguments, prepare)


def _program_arguments(program: str) -> list[str]:
    """The arguments that a program needs."""
    return {
        "train": ["--workdir={here}/run"],
        "evaluate": ["--workdir={here}/run"],
        "sample": ["--workdir={here}/run"],
        "rate": ["make", "--a={here}/run", "--b={here}/other", "--out={here}/rating"],
        "report": ["{here}/run", "--out={here}/report.html"],
        "study": [
            "--workdir={here}/study",
            "--judge=none",
            "--vary=objective=teacher_forcing,professor_forcing",
        ],
    }[program]


def _base_arguments(program: str) -> tuple[str, ...]:
    has_config = program in ("train", "study")
    return (*(small_arguments() if has_config else ()), *_program_arguments(program))


def _with_text(here: pathlib.Path) -> list[str]:
    write_text(here / "text.txt")
    return []


def _all(here: pathlib.Path) -> list[str]:
    """A text, a run that was never trained, and a file."""
    (here / "file").write_text("x")
    write_run(here / "run")
    return _with_text(here)


def _folder(here: pathlib.Path) -> pathlib.Path:
    (here / "data").mkdir()
    return here / "data"


def _data_arguments(data: dict[str, Any]) -> list[str]:
    return [f"--config.data.{name}={value}" for name, value in data.items()]


def _spoil(path: pathlib.Path, content: bytes | str, source: random.Random) -> list:
    path.parent.mkdir(exist_ok=True)
    if content == "typed":
        text = path.read_text() if path.exists() else "{}"
        values = json.loads(text.splitlines()[0] if path.suffix == ".jsonl" else text)
        _retype(values, source)
        path.write_text(json.dumps(values))
        return []
    path.unlink(missing_ok=True)
    if content == "folder":
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    else:
        assert isinstance(content, bytes)
        path.write_bytes(content)
    return []


def _retype(values: Any, source: random.Random) -> None:
    """Gives one value of nested JSON another type."""
    while isinstance(values, dict) and values:
        name = source.choice(sorted(values))
        if isinstance(values[name], dict) and values[name] and source.random() < 0.9:
            values = values[name]
            continue
        wrong = (None, "many", -1, 1.5, [], {}, [[]], True, 1e300, 10**30)
        values[name] = source.choice(wrong)
        return


def _text_file(here):
    (here / "a.txt").write_text("ab cab dad bee " * 400)
    return {"name": "text", "path": here / "a.txt"}


def _ptb(here, name="ptb_char"):
    for split in NAMES:
        (here / f"ptb.{split}.txt").write_text("ab cab dad\nbee ab\n" * 200)
    return {"name": name, "path": here / "ptb.train.txt"}


def _wav_file(here):
    signal = (np.sin(np.arange(6000) / 9) * 2**14).astype("<i2")
    (here / "a.wav").write_bytes(wav_bytes(signal.tobytes()))
    return {"name": "wav", "path": here / "a.wav"}


def _array(here):
    values = np.random.default_rng(0).normal(size=(600, 2))
    (here / "a.npy").write_bytes(npy_bytes((600, 2), "<f8", values.tobytes()))
    return {"name": "series", "path": here / "a.npy"}


def _arrays(here):
    values = np.random.default_rng(0).normal(size=(100, 2))
    content = npy_bytes((100, 2), "<f8", values.tobytes())
    path = write_zip(here / "a.npz", dict.fromkeys(NAMES, content))
    return {"name": "series", "path": pathlib.Path(path)}


def _table(here):
    values = np.random.default_rng(0).normal(size=(600, 2))
    np.savetxt(here / "a.csv", values, delimiter=",", header="a,b", comments="")
    return {"name": "series", "path": here / "a.csv"}


def _drawings(here):
    strokes = np.zeros((20, 3), np.int16)
    strokes[:, 0], strokes[-1, 2] = np.arange(20), 1
    made = np.empty(4, object)
    made[:] = [strokes] * 4
    np.savez(here / "a.npz", **dict.fromkeys(NAMES, made))
    return {"name": "sketch_rnn", "path": here / "a.npz"}


def _rolls(here):
    cells = np.empty((1, 3), object)
    for number in range(3):
        cells[0, number] = np.eye(88)[:20]
    names = ("traindata", "validdata", "testdata")
    scipy.io.savemat(here / "a.mat", dict.fromkeys(names, cells), do_compression=True)
    return {"name": "piano_roll", "path": here / "a.mat"}


def _idx(here):
    head = struct.pack(">4I", 0x803, 30, 4, 4)
    for name in IDX:
        (here / name).write_bytes(head + bytes(range(240)) * 2)
    return {"name": "mnist", "path": here / IDX[0]}


def _amat(here):
    for name in NAMES:
        lines = (" ".join("01"[(i + j) % 2] for j in range(784)) for i in range(8))
        (here / f"binarized_mnist_{name}.amat").write_text("\n".join(lines) + "\n")
    name = "binarized_mnist"
    return {"name": name, "path": here / "binarized_mnist_train.amat"}


SAMPLES: dict[str, Callable[[pathlib.Path], dict[str, Any]]] = {
    "text": _text_file,
    "ptb_char": _ptb,
    "ptb_word": lambda here: _ptb(here, "ptb_word"),
    "wav": _wav_file,
    "npy": _array,
    "npz": _arrays,
    "csv": _table,
    "sketch_rnn": _drawings,
    "piano_roll": _rolls,
    "mnist": _idx,
    "binarized_mnist": _amat,
}
"""Small right files of each loader: settings of `data`, whose path is one file."""


def _damaged(
    here: pathlib.Path, name: str, kind: str, source: random.Random
) -> dict[str, Any]:
    data = SAMPLES[name](here)
    path = data["path"]
    content = bytearray(path.read_bytes())
    place = source.randrange(len(content))
    if kind == "cut":
        content = content[:place]
    elif kind == "flipped":
        # Headers are at the start.
        for _ in range(source.choice((1, 3, 30))):
            reach = source.choice((64, 512, len(content)))
            content[source.randrange(min(reach, len(content)))] ^= source.randrange(
                1, 256
            )
    elif kind == "garbage":
        content[place:place] = source.randbytes(200)
    elif kind == "repeated":
        content = content + content[place:]
    elif kind == "empty":
        content = bytearray()
    else:
        content = bytearray(b"not what the name says\n" * 20)
    path.write_bytes(bytes(content))
    is_folder = data["name"] in ("ptb_char", "ptb_word", "mnist", "binarized_mnist")
    return {**data, "path": here if is_folder else path}
