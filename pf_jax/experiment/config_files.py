"""Config files: where they are found, and what their fields are for."""

import ast
import io
import os
import pathlib
import runpy
import tokenize
import traceback
from typing import Any

from ml_collections import config_dict

from pf_jax.errors import UserError


def find_config(text: str, default_config: str) -> str:
    """The file that a config is read from.

    Args:
        text: Path of a file; or the name of one of the configurations that pf_jax comes
            with, such as `seq_digits` or `configs/seq_digits.py`. Text after a colon is
            kept.
        default_config: Path of `default.py`, beside which these configurations lie.

    Raises:
        UserError: If there is no such file.
    """
    path, colon, argument = text.partition(":")
    if os.path.isfile(path):
        return text
    folder = pathlib.Path(default_config).parent
    names = sorted(file.stem for file in folder.glob("[!_]*.py"))
    for name in names:
        if path in (name, f"{name}.py", f"configs/{name}.py"):
            return f"{folder / name}.py{colon}{argument}"
    raise UserError(
        f"--config={text}: no such file; give a Python file with a get_config(), or one "
        f"of {', '.join(names)}"
    )


def load_config(path: str) -> config_dict.ConfigDict:
    """The settings that a config file describes, locked against new fields.

    Args:
        path: Path of a Python file with a function `get_config()`. Text after a colon is
            the argument of that function.

    Raises:
        UserError: If the file does not return a `ConfigDict`.
    """
    file, *argument = path.split(":", 1)
    try:
        get_config = runpy.run_path(file).get("get_config")
        config: Any = get_config(*argument) if get_config else None
    # A config file is code: it can fail in any way, or exit.
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == file]
        where = f"line {lines[-1]}: " if lines else ""
        raise UserError(
            f"--config={path}: {where}{type(error).__name__}: {error}"
        ) from error
    if not isinstance(config, config_dict.ConfigDict):
        raise UserError(
            f"--config={path}: no get_config() that returns a ConfigDict; "
            "configs/default.py shows one"
        )
    config.lock()
    return config


def field_comments(path: str) -> dict[str, str]:
    """What each field is for, by its full name: the comments of a config file.

    A field has the comment in its own lines, or else the one above it, which also holds
    for the lines without a comment that follow.

    Args:
        path: Path of a file like `configs/default.py`, in which a section has a variable:
            `config.train = train = ...`.
    """
    source = pathlib.Path(path).read_text("utf-8")
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokens
        if token.type == tokenize.COMMENT
    }
    code = source.splitlines()
    sections, found, above = {"config": ""}, {}, ""
    for statement in ast.walk(ast.parse(source)):
        if not isinstance(statement, ast.Assign):
            continue
        first, last = statement.lineno, statement.end_lineno or statement.lineno
        own = [comments[line] for line in range(first, last + 1) if line in comments]
        start = first
        while code[start - 2].strip().startswith("#"):
            start -= 1
        if own or start < first:
            above = " ".join(comments[line] for line in range(start, first))
        field, *others = statement.targets
        if not isinstance(field, ast.Attribute) or not isinstance(
            field.value, ast.Name
        ):
            continue
        name = sections[field.value.id] + field.attr
        if others and isinstance(others[0], ast.Name):
            sections[others[0].id] = f"{name}."
            above = ""
        else:
            found[name] = " ".join(own) or above
    return found
