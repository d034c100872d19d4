"""`pf-jax train|evaluate|sample|study|report|rate`: the programs, installed.

Each command is the program of that name with the same flags. Installed, the programs and
their configurations lie in the package; in a checkout they lie beside this file.
"""

import difflib
import importlib.metadata
import importlib.util
import os
import pathlib
import runpy
import sys

COMMANDS = {
    "train": "train a model, or continue a run",
    "evaluate": "score a trained model and draw samples",
    "sample": "draw samples; needs no data",
    "study": "train variants over seeds and compare them",
    "report": "compare runs on one page",
    "rate": "let people compare samples of two runs",
}
"""What each command does, by the name of its program."""

USER_ERROR_STATUS = 2


def main() -> None:
    """Runs the program that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "help"):
        print(_usage())
    elif name == "--version":
        print(importlib.metadata.version("pf_jax"))
    elif name not in COMMANDS:
        _refuse(name)
    else:
        os.environ["PF_JAX_COMMAND"] = "pf-jax"
        folder = _programs()
        # As for `python train.py`: the programs and `configs` are imported from there.
        sys.path.insert(0, str(folder))
        del sys.argv[1]
        runpy.run_path(str(folder / f"{name}.py"), run_name="__main__")


def _programs() -> pathlib.Path:
    # Without importing pf_jax, which takes seconds: the program sees to signals first.
    found = importlib.util.find_spec("pf_jax")
    assert found is not None and found.submodule_search_locations
    package = pathlib.Path(found.submodule_search_locations[0])
    installed = package / "_programs"
    return installed if installed.is_dir() else package.parent


def _usage() -> str:
    lines = [f"  pf-jax {name:9} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "Professor forcing in JAX. Commands:",
            "",
            *lines,
            "",
            "pf-jax COMMAND --help lists a command's flags, pf-jax --version the version.",
        ]
    )


def _refuse(name: str) -> None:
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"give {', '.join(COMMANDS)}"
    print(f"error: {name}: is no command: {hint}", file=sys.stderr)
    sys.exit(USER_ERROR_STATUS)


if __name__ == "__main__":
    main()
