"""Functions and classes of the user's own code, named as `package.module:name`."""

import importlib
import os
import pathlib
import sys
import traceback
from typing import Any

from pf_jax.errors import UserError

_PACKAGE = str(pathlib.Path(__file__).parents[1])


class OwnCodeError(UserError):
    """A function or class of the user's own that cannot be imported or fails."""


def is_own(name: str) -> bool:
    """Whether a name is that of something in the user's own code."""
    return ":" in name


def load_own(name: str, where: str) -> Any:
    """What a name stands for, such as `package.module:function`.

    Modules of the current folder are found, as with `python -m`.

    Args:
        name: Name of a module, a colon, and a name in it.
        where: Start of error messages: what the name was given for.

    Raises:
        OwnCodeError: If the module cannot be imported, or has no such name.
    """
    module_name, _, inside = name.partition(":")
    words = [*module_name.split("."), *inside.split(".")]
    if not all(word.isidentifier() for word in words):
        raise OwnCodeError(
            f"{where}: {name}: must be the name of a module, a colon, and a name in it, "
            "such as package.module:name"
        )
    found: Any = _import(module_name, where)
    for word in inside.split("."):
        if not hasattr(found, word):
            file = getattr(sys.modules.get(module_name), "__file__", None)
            raise OwnCodeError(
                f"{where}: {file or module_name} has no {inside}: define it there, or "
                "correct the name"
            )
        found = getattr(found, word)
    return found


def own_name(kind: type) -> str:
    """The name that `load_own` finds a class by; `__main__` is named as its file is.

    Raises:
        OwnCodeError: If there is no such name, such as of a class inside of a function.
    """
    module, inside = kind.__module__, kind.__qualname__
    if module == "__main__":
        module = _main_name()
    if not module or "<locals>" in inside:
        raise OwnCodeError(
            f"encoding {inside}: is not defined at the top of a module, so that no other "
            "process could import it: move it to a file of Python"
        )
    return f"{module}:{inside}"


def call_own(function: Any, name: str, *arguments: Any, **options: Any) -> Any:
    """The result of one of the user's own functions.

    Args:
        function: The function.
        name: Start of error messages.
        *arguments: Arguments of the function.
        **options: Keyword arguments of the function.

    Raises:
        OwnCodeError: If it raises anything, or exits.
    """
    try:
        return function(*arguments, **options)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise OwnCodeError(f"{name}: {_cause(error)}") from error


def _main_name() -> str:
    """The name that the module of the running program could be imported by."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return spec.name
    return pathlib.Path(file).stem if file else ""


def _import(name: str, where: str) -> Any:
    if name == _main_name():
        # A second copy would have other classes, and run the program again.
        return sys.modules["__main__"]
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        importlib.invalidate_caches()
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise OwnCodeError(
                f"{where}: no module {missing} in {folder} or among installed packages: "
                "run the command in the module's folder, or correct the name"
            ) from error
        raise OwnCodeError(f"{where}: {_cause(error)}") from error
    # A module is code: it can fail in any way, or exit.
    except (Exception, SystemExit) as error:
        raise OwnCodeError(f"{where}: {_cause(error)}") from error
    finally:
        sys.path.remove(folder)
        # For what the module imports later; last, so that it hides no other module.
        if folder not in sys.path:
            sys.path.append(folder)


def _cause(error: BaseException) -> str:
    """An error in one line, with the last place in the user's code that it passed."""
    if isinstance(error, SyntaxError):
        place = f"{error.filename}, line {error.lineno}: "
    else:
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if not frame.filename.startswith(("<", _PACKAGE))
            and not {"importlib", "site-packages"}
            & set(pathlib.Path(frame.filename).parts)
        ]
        place = f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
    message = " ".join(str(error).split())
    return f"{place}{type(error).__name__}: {message}".removesuffix(": ")
