"""The flags of the command-line programs, and one line for each mistake in them.

A tuple field takes any of these forms:

    --config.behavior.fields=hidden
    --config.behavior.fields=preactivation,hidden
    --config.behavior.fields="('preactivation', 'hidden')"
    --config.behavior.fields=preactivation --config.behavior.fields=hidden
"""

import itertools
import pathlib
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from absl import app, flags
from ml_collections import config_dict, config_flags
from ml_collections.config_flags import tuple_parser

from pf_jax.errors import UserError
from pf_jax.experiment.config_files import (
    field_comments,
    find_config,
    load_config,
)
from pf_jax.experiment.console import protect_output
from pf_jax.reading import check_file
from pf_jax.rules import field_names, nearest_name, value_of

# Flags that this module defines count as the program's own: --help lists them.
flags.disclaim_key_flags()

USER_ERROR_STATUS = 2

MOST_SHOWN = 1000
"""Largest number of characters of an error."""

_ILLEGAL_VALUE = re.compile(r"flag (--[\w.]+)=(.*?): (.*)", re.DOTALL)
_REASONS = (
    ("invalid literal for int()", "must be an integer"),
    ("Exceeds the limit", "must be an integer"),
    ("could not convert string to float", "must be a number"),
    ("('Non-boolean argument", "must be true or false"),
)


class _NamesParser(tuple_parser.TupleParser):
    """Parses a tuple; its strings may be bare and separated by commas."""

    def parse(self, argument: Any) -> tuple[Any, ...]:
        values = []
        # Bytes would be read as numbers, and a mapping as its keys.
        if isinstance(argument, str) and re.match(r"\s*(\{|b['\"])", argument):
            raise ValueError("must be names, such as a,b")
        try:
            parsed = super().parse(argument)
        except Exception as error:  # Of Python's own parser, such as a MemoryError.
            raise ValueError("must be names, such as a,b") from error
        for value in parsed:
            if isinstance(value, str):
                values += [part for part in re.split(r"[,\s()\[\]]+", value) if part]
            else:
                values.append(value)
        return tuple(values)


Typed = Callable[[str], str | None]
"""Function from a flag's name to its value as typed; None where it is not given."""

OwnConfig = Callable[[Typed], config_dict.ConfigDict | None]
"""Function from the flags as typed to the config that they imply, if they imply one."""


def run(
    main: Callable[..., None],
    argv: Sequence[str] | None = None,
    *,
    default_config: str | None = None,
    own_config: OwnConfig | None = None,
    arguments: str | None = None,
) -> None:
    """Parses the flags and runs a program.

    A mistake of the user is printed as one line, `error: ...`, on standard error. What
    cannot be printed ends nothing, see `protect_output`.

    Args:
        main: Function to run; it reads `absl.flags.FLAGS`. It is called with nothing, or
            with a list of the arguments that are not flags, where `arguments` names them.
        argv: Name of the program and its arguments; `sys.argv` by default.
        default_config: Config file to use where `--config` is not given. With None the
            program has no flag `--config`.
        own_config: Function that is asked for a config where `--config` is not given,
            before `default_config` is used.
        arguments: What the arguments are that are not flags, such as "RUN": the program
            needs at least one. With None it takes none.

    Raises:
        SystemExit: With status 2, after a flag error or a `UserError`.
    """
    protect_output()
    argv = list(sys.argv if argv is None else argv)
    try:
        rest = _parse(argv, default_config, own_config)
        _check_paths()
        if arguments is None:
            _check_no_arguments(rest)
            main()
        else:
            _check_arguments(rest, arguments)
            main(rest)
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(USER_ERROR_STATUS)


_PATHS = ("workdir", "out", "dir", "init_from", "judge", "data_path", "tfds_manual_dir")
"""Flags that name a file or a folder, in any of the programs."""


def _check_paths() -> None:
    """Raises a UserError where a path is empty, such as a shell's unset variable."""
    for name in _PATHS:
        if name in flags.FLAGS and flags.FLAGS[name].value == "":
            raise UserError(f"--{name}: is empty: give a path, or leave the flag out")


def config_name() -> str:
    """The name of the experiment: the config file's, without its suffix.

    Where the config is not from a file it is that of the default file.
    """
    return _config_names[-1]


_config_names: list[str] = []


def set_field(config: config_dict.ConfigDict, field: str, text: str) -> None:
    """Gives a field of a config a value as typed after `--config.FIELD=`.

    Args:
        config: Config to change.
        field: Full name of the field, such as `train.num_steps`.
        text: The value. Plus signs separate the names of a tuple.

    Raises:
        UserError: If there is no such field, or the value has another type.
    """
    _check_field(field, field_names(config))
    section, _, name = field.rpartition(".")
    holder = config[section] if section else config
    parser, kind = _PARSERS[holder.get_type(name)]
    try:
        holder[name] = parser(text.replace("+", ",") if kind == "names" else text)
    except (TypeError, ValueError) as error:
        raise UserError(f"{field}={text}: must be {kind}") from error


_PARSERS: dict[type, tuple[Callable[[str], Any], str]] = {
    bool: (flags.BooleanParser().parse, "true or false"),
    int: (flags.IntegerParser().parse, "an integer"),
    float: (flags.FloatParser().parse, "a number"),
    str: (str, "text"),
    tuple: (_NamesParser().parse, "names"),
}
"""The parser of each type of field, and what it accepts."""


def _parse(
    argv: list[str], default_config: str | None, own_config: OwnConfig | None
) -> list[str]:
    """Defines the flags that every program has and parses them all.

    Returns:
        The arguments that are not flags.
    """
    app.define_help_flags()
    argv = _with_flag_files(argv)
    fields: list[str] = []
    shadowed: dict[str, str] = {}
    if default_config is not None:
        fields, shadowed = _define_config(argv, default_config, own_config)
    if not _HELP.isdisjoint(argv):
        _print_help("--helpfull" not in argv, default_config)
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        known = [*flags.FLAGS, *(f"config.{field}" for field in fields)]
        hint = _did_you_mean(error.flagname, known) or "; --help lists the flags"
        raise UserError(f"unknown flag --{error.flagname}{hint}") from error
    except flags.Error as error:
        raise UserError(_reworded(error)) from error
    except ValueError as error:
        raise UserError(str(error)) from error
    for field, text in shadowed.items():
        set_field(flags.FLAGS.config, field, text)
    return rest[1:]


_HELP = {"--help", "-help", "-h", "-?", "--helpshort", "--helpfull"}


def _print_help(is_short: bool, default_config: str | None) -> None:
    """Prints what the program does, its flags, and the fields of its config."""
    app.usage(shorthelp=is_short, writeto_stdout=True)
    if default_config is None:
        return
    print("\nFields of the config, and what they are by default:\n")
    config = load_config(default_config)
    for field, comment in field_comments(default_config).items():
        value = value_of(config, field)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        line = f"--config.{field}={text or repr('')}: {comment}"
        wrapped = textwrap.fill(line, 80, subsequent_indent=" " * 6)
        print(textwrap.indent(wrapped, "  "))


def _with_flag_files(argv: Sequence[str]) -> list[str]:
    """The arguments, with those that the files of `--flagfile` have."""
    for argument, following in itertools.pairwise([*argv, ""]):
        name, equals, value = argument.partition("=")
        if name in ("--flagfile", "-flagfile"):
            check_file(pathlib.Path(value if equals else following))
    try:
        return flags.FLAGS.read_flags_from_files(argv, force_gnu=False)
    except (OSError, ValueError) as error:
        raise UserError(f"--flagfile: cannot be read ({error})") from error


def _check_no_arguments(rest: Sequence[str]) -> None:
    if rest:
        raise UserError(
            f"unexpected argument {rest[0]!r}: write flags as --NAME=VALUE, "
            "without spaces around ="
        )


def _check_arguments(rest: Sequence[str], name: str) -> None:
    if not rest:
        raise UserError(f"no {name} given: name at least one; --help shows how")
    if "" in rest:
        raise UserError(f"an argument is empty: give a {name}, or leave it out")


def _define_config(
    argv: list[str], default_config: str, own_config: OwnConfig | None
) -> tuple[list[str], dict[str, str]]:
    """Defines `--config` and a flag for each field that is overridden.

    Args:
        argv: The program's name and its arguments. `--config` moves to their front, and the
            fields that are returned with their values are removed.
        default_config: Config file to use where no other one is given.
        own_config: As for `run`.

    Returns:
        The names of all fields, and the values as typed of those that are removed.
    """
    # Checked before ml_collections reads them: its own errors are a bare KeyError, or
    # come only when the config is used.
    path, rest = _take_value(argv, "config")
    config = None
    if path is None and own_config is not None:
        config = own_config(lambda name: _take_value(argv, name)[0])
    file = default_config if path is None else find_config(path, default_config)
    fields = field_names(load_config(file) if config is None else config)
    if config is None:
        # A saved config may have fields of a later version; a file may not.
        _check_file_fields(file, fields, field_names(load_config(default_config)))
    for override in _overrides(rest):
        _check_field(override, fields)
    _config_names.append(pathlib.Path(file.split(":", 1)[0]).stem)
    config_flags.register_flag_parser_for_type(tuple, _NamesParser())
    help_string = (
        "The experiment: one of pf_jax's by its name, such as seq_digits, or a Python "
        "file with a function get_config(). --config.FIELD=VALUE changes a field."
    )
    argv[:], shadowed = _take_shadowed(rest, fields)
    if config is None:
        # First: ml_collections needs the file before the overrides of its fields.
        argv.insert(1, f"--config={file}")
        config_flags.DEFINE_config_file(
            "config", default_config, help_string, sys_argv=argv
        )
    else:
        config_flags.DEFINE_config_dict("config", config, help_string, sys_argv=argv)
    return fields, shadowed


def _take_value(argv: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    """The last value of a flag, if it is given, and the other arguments."""
    value, rest = None, []
    arguments = iter(argv)
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if name not in (f"--{flag}", f"-{flag}"):
            rest.append(argument)
        else:
            value = text if equals else next(arguments, "")
    return value, rest


def _take_shadowed(
    argv: list[str], fields: Iterable[str]
) -> tuple[list[str], dict[str, str]]:
    """Splits off the fields that have the name of a method of `ConfigDict`.

    ml_collections looks for an attribute before it looks for a field, and so takes
    `train.update` for `ConfigDict.update`.

    Returns:
        The other arguments, and the values of these fields as typed.
    """
    values = {}
    for field in fields:
        if hasattr(config_dict.ConfigDict, field.rpartition(".")[2]):
            text, argv = _take_value(argv, f"config.{field}")
            if text is not None:
                values[field] = text
    return argv, values


def _overrides(argv: Sequence[str]) -> list[str]:
    """The fields that `--config.FIELD=VALUE` arguments name."""
    matches = (re.match(r"--?(?:no)?config\.([^=]*)", argument) for argument in argv)
    return [match[1] for match in matches if match]


def _check_field(field: str, known: Sequence[str]) -> None:
    """Checks that a field exists and is not a group of fields."""
    if field in known:
        return
    inside = [name for name in known if name.startswith(f"{field}.")]
    if inside:
        raise UserError(
            f"--config.{field} is a group: set its fields, such as --config.{inside[0]}"
        )
    hint = _did_you_mean(f"config.{field}", [f"config.{name}" for name in known])
    if not hint:
        group = field.rpartition(".")[0]
        start = f"{group}." if any(n.startswith(f"{group}.") for n in known) else ""
        names = {
            n.removeprefix(start).split(".")[0] for n in known if n.startswith(start)
        }
        hint = f": known after --config.{start} are {', '.join(sorted(names))}"
    raise UserError(f"unknown field --config.{field}{hint}")


def _check_file_fields(file: str, fields: Iterable[str], known: Sequence[str]) -> None:
    """Checks that a config file adds no fields, which nothing would read."""
    sections = {name.partition(".")[0] for name in known if "." in name}
    for field in fields:
        # A section that is none any more has a message of its own.
        if field in known or field in sections:
            continue
        nearest = nearest_name(field, [*known, *sections])
        hint = f"did you mean {nearest}?" if nearest else "--help lists the fields"
        raise UserError(f"--config={file}: unknown field {field}: {hint}")


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known name whose last part is the most similar, as a question."""
    nearest = nearest_name(name, known)
    return f": did you mean --{nearest}?" if nearest else ""


def _reworded(error: flags.Error) -> str:
    """The message of absl for a missing or illegal value, with the fix."""
    match = _ILLEGAL_VALUE.fullmatch(str(error))
    if match is None:
        missing = str(error).startswith("Missing value for flag")
        return f"{error}: write --NAME=VALUE" if missing else str(error)
    flag, value, reason = match.groups()
    if value == "None":
        return f"{flag} is missing: give {flag}=VALUE"
    for start, message in _REASONS:
        if reason.startswith(start):
            return f"{flag}={value}: {message}"
    return f"{flag}={value}: {reason}"


def _message(error: Exception) -> str | None:
    """One line for what a user, or the machine, is the cause of; None for a bug."""
    cause = " ".join(line.strip() for line in str(error).splitlines())
    if (
        len(cause) > MOST_SHOWN
    ):  # Such as a number of 5,000 digits; the fix is at the end.
        cause = f"{cause[: MOST_SHOWN // 2]} ... {cause[-MOST_SHOWN // 2 :]}"
    if isinstance(error, UserError | flags.Error):
        return cause
    # The allocator of JAX has no exception of its own.
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in cause:
        return (
            f"not enough memory ({cause or 'no more of it'}): lower sizes, such as "
            "train.batch_size, or the number and length of samples; or use a machine with "
            "more"
        )
    if isinstance(error, OSError) and error.filename is not None:
        return (
            f"{error.filename}: {error.strerror}: give another path or change its mode"
        )
    return None
