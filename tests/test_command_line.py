import pathlib
import re
import subprocess
import sys

import pytest
from absl import app, flags
from absl.testing import flagsaver

from pf_jax.errors import UserError
from pf_jax.experiment import command_line
from pf_jax.experiment.config_files import (
    field_comments,
    find_config,
    load_config,
)
from pf_jax.rules import field_names, value_of

ROOT = pathlib.Path(__file__).parent.parent
DEFAULT = str(ROOT / "configs" / "default.py")


@pytest.fixture(autouse=True)
def flags_as_before():
    app.define_help_flags()
    with flagsaver.flagsaver():
        yield


def _parsed(*arguments: str):
    """The config that a program sees."""
    seen = []
    command_line.run(
        lambda: seen.append((flags.FLAGS.config, command_line.config_name())),
        ["program", *arguments],
        default_config=DEFAULT,
    )
    return seen[0]


def _error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a program ends with, when it may not reach its main."""
    with pytest.raises(SystemExit) as exit_:
        _parsed(*arguments)
    assert exit_.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    start, _, message = output.err.rstrip("\n").partition("error: ")
    assert start == ""
    return message


def test_run_without_flags_takes_the_default_config():
    config, name = _parsed()
    assert config.train.num_steps == 500
    assert config.is_locked
    assert name == "default"


def test_run_applies_overrides():
    config, _ = _parsed(
        "--config.train.num_steps=7",
        "--config.train.learning_rate",
        "1",
        "--config.adversarial.teacher_forced_term",
        "--config.data.path=12",
    )
    assert config.train.num_steps == 7
    assert config.train.learning_rate == 1.0
    assert config.adversarial.teacher_forced_term is True
    assert config.data.path == "12"


TYPED = {
    bool: ("true", True),
    int: ("7", 7),
    float: ("0.25", 0.25),
    str: ("other", "other"),
    tuple: ("a,b", ("a", "b")),
}
"""A value as typed and as parsed, for each type of field."""


def test_run_sets_every_field():
    # Among them train.update, which ConfigDict has a method of the same name for.
    default, expected = load_config(DEFAULT), {}
    for field in field_names(default):
        section, _, name = field.rpartition(".")
        holder = default[section] if section else default
        expected[field] = TYPED[holder.get_type(name)]
    config, _ = _parsed(
        *(f"--config.{f}={typed}" for f, (typed, _) in expected.items())
    )
    assert "train.update" in expected
    for field, (_, value) in expected.items():
        assert value_of(config, field) == value, field


def test_run_takes_the_last_value_of_a_field_named_like_a_method():
    config, _ = _parsed(
        "--config.train.update", "both", "--config.train.update=separate"
    )
    assert config.train["update"] == "separate"


def test_run_sets_a_field_named_like_a_method_of_a_runs_own_config():
    seen = []
    command_line.run(
        lambda: seen.append(flags.FLAGS.config.train["update"]),
        ["program", "--config.train.update=separate", "--config.seed=3"],
        default_config=DEFAULT,
        own_config=lambda typed: load_config(DEFAULT),
    )
    assert seen == ["separate"]


def test_run_takes_values_of_fields_that_are_none_by_default():
    config, _ = _parsed(
        "--config.discriminator.learning_rate=1",
        "--config.discriminator.schedule=cosine",
        "--config.discriminator.warmup_steps=5",
    )
    assert config.discriminator.learning_rate == 1.0
    assert isinstance(config.discriminator.learning_rate, float)
    assert config.discriminator.schedule == "cosine"
    assert config.discriminator.warmup_steps == 5
    assert config.discriminator.max_gradient_norm is None
    assert config.discriminator.weight_decay is None


def test_run_takes_overrides_on_either_side_of_the_config(tmp_path):
    small = tmp_path / "small.py"
    small.write_text(
        "from configs import default\n"
        "def get_config():\n"
        "    config = default.get_config()\n"
        "    config.generator.hidden_size = 16\n"
        "    return config\n"
    )
    config, name = _parsed(
        "--config.seed=1", f"--config={small}", "--config.train.num_steps=2"
    )
    assert (config.seed, config.train.num_steps) == (1, 2)
    assert config.generator.hidden_size == 16
    assert name == "small"


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (["hidden"], ("hidden",)),
        (["preactivation,hidden"], ("preactivation", "hidden")),
        (["preactivation, hidden"], ("preactivation", "hidden")),
        (["(preactivation,hidden)"], ("preactivation", "hidden")),
        (["('preactivation', 'hidden')"], ("preactivation", "hidden")),
        (["('hidden',)"], ("hidden",)),
        (["preactivation", "hidden"], ("preactivation", "hidden")),
        ([""], ()),
    ],
)
def test_run_takes_tuples_in_every_form(arguments, fields):
    config, _ = _parsed(*(f"--config.behavior.fields={value}" for value in arguments))
    assert config.behavior.fields == fields


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config.train.num_stps=1"],
            "unknown field --config.train.num_stps: "
            "did you mean --config.train.num_steps?",
        ),
        (
            ["--config.hidden_size=1"],
            "unknown field --config.hidden_size: "
            "did you mean --config.generator.hidden_size?",
        ),
        (
            ["--config.discriminater.hidden_size=1"],
            "unknown field --config.discriminater.hidden_size: "
            "did you mean --config.discriminator.hidden_size?",
        ),
        (
            ["--config.behavior.nope=1"],
            "unknown field --config.behavior.nope: "
            "known after --config.behavior. are fields",
        ),
        (
            ["--config.train=1"],
            "--config.train is a group: set its fields, "
            "such as --config.train.batch_size",
        ),
        (
            ["--config.train.num_steps=abc"],
            "--config.train.num_steps=abc: must be an integer",
        ),
        (
            ["--config.train.num_steps=1.5"],
            "--config.train.num_steps=1.5: must be an integer",
        ),
        (
            ["--config.discriminator.warmup_steps=few"],
            "--config.discriminator.warmup_steps=few: must be an integer",
        ),
        (
            ["--config.train.learning_rate=fast"],
            "--config.train.learning_rate=fast: must be a number",
        ),
        (
            ["--config.adversarial.teacher_forced_term=maybe"],
            "--config.adversarial.teacher_forced_term=maybe: must be true or false",
        ),
        (
            ["--config.train.num_steps"],
            "Missing value for flag --config.train.num_steps: write --NAME=VALUE",
        ),
        (
            ["--train.num_steps=1"],
            "unknown flag --train.num_steps: did you mean --config.train.num_steps?",
        ),
        (["--zzz=1"], "unknown flag --zzz; --help lists the flags"),
        (
            ["train.num_steps=1"],
            "unexpected argument 'train.num_steps=1': write flags as --NAME=VALUE, "
            "without spaces around =",
        ),
        (
            ["--config=nowhere.py"],
            "--config=nowhere.py: no such file; give a Python file with a "
            "get_config(), or one of default, digits_by_class, handwriting, lorenz, "
            "lorenz_full, multi30k_chars, multi30k_words, music, ptb_char, ptb_char_small, "
            "ptb_word, reverse, seq_digits, seq_mnist, waveform, waveform_digits",
        ),
    ],
)
def test_run_reports_a_flag_error_in_one_line(capsys, arguments, message):
    assert _error(capsys, *arguments) == message


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def get_config(:\n", "SyntaxError: invalid syntax (broken.py, line 1)"),
        (
            "def get_config():\n    return nope\n",
            "line 2: NameError: name 'nope' is not defined",
        ),
        (
            "\nimport nowhere\n",
            "line 2: ModuleNotFoundError: No module named 'nowhere'",
        ),
        (
            "from configs import default\n"
            "def get_config():\n"
            "    config = default.get_config()\n"
            "    config.train.num_steps = 'many'\n"
            "    return config\n",
            "line 4: TypeError: ",
        ),
        (
            "settings = {}\n",
            "no get_config() that returns a ConfigDict; configs/default.py shows one",
        ),
        (
            "def get_config():\n    pass\n",
            "no get_config() that returns a ConfigDict; configs/default.py shows one",
        ),
    ],
)
def test_run_reports_a_broken_config_in_one_line(capsys, tmp_path, code, message):
    broken = tmp_path / "broken.py"
    broken.write_text(code)
    line = _error(capsys, f"--config={broken}")
    assert line.startswith(f"--config={broken}: {message}")


def test_run_reports_a_missing_required_flag(capsys):
    flags.DEFINE_string("required_folder", None, "A folder.", required=True)
    assert (
        _error(capsys) == "--required_folder is missing: give --required_folder=VALUE"
    )


def test_run_reports_a_user_error_of_the_program_in_one_line(capsys):
    def fail() -> None:
        raise UserError("the folder is empty:\n    give another")

    with pytest.raises(SystemExit) as exit_:
        command_line.run(fail, ["program"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "error: the folder is empty: give another\n"


def test_run_lets_other_errors_through():
    def fail() -> None:
        raise ValueError("a bug, not a mistake of the user")

    with pytest.raises(ValueError, match="a bug"):
        command_line.run(fail, ["program"])


def test_run_without_a_default_config_has_no_config_flag(capsys):
    with pytest.raises(SystemExit) as exit_:
        command_line.run(lambda: None, ["program", "--config=x.py"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("error: unknown flag --config")


def test_train_refuses_bad_settings_and_writes_nothing(tmp_path):
    result = subprocess.run(
        [
            sys.executable,
            str(ROOT / "train.py"),
            "--workdir=run",
            "--config.train.batch_size=0",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr == "error: train.batch_size=0: must be at least 1\n"
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--workdir="], ["--workdir=x", "--init_from="]])
def test_train_refuses_an_empty_path_and_writes_nothing(tmp_path, arguments):
    result = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout) == (2, "")
    flag = arguments[-1].removesuffix("=")
    message = f"error: {flag}: is empty: give a path, or leave the flag out\n"
    assert result.stderr == message
    assert list(tmp_path.iterdir()) == []


def test_help_lists_flags_and_fields(capsys):
    with pytest.raises(SystemExit) as exit_:
        _parsed("--help", "--config.train.num_steps=7")
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    fields = re.findall(r"^  --config\.([\w.]+)=.*: .", printed, re.MULTILINE)
    assert sorted(fields) == sorted(field_names(load_config(DEFAULT)))
    assert "  --config.train.num_steps=500: number of updates\n" in printed
    assert "  --config.data.columns='': columns of a series" in printed


def test_train_help_lists_its_flags(tmp_path):
    result = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0
    assert "--workdir:" in result.stdout
    assert "--config:" in result.stdout
    assert result.stderr == ""


def test_field_comments_are_above_a_field_or_beside_it(tmp_path):
    (tmp_path / "config.py").write_text(
        "def get_config():\n"
        "    config = ConfigDict()\n"
        "    config.seed = 0  # a seed\n"
        "    # Of the whole section.\n"
        "    config.a = a = ConfigDict()\n"
        "    a.without = 1\n"
        "    # Above,\n"
        "    # in two lines.\n"
        "    a.first = 1\n"
        "    a.second = 2\n"
        "    a.third = (\n"
        "        3  # inside\n"
        "    )\n"
        "    a.fourth = 4\n"
    )
    assert field_comments(str(tmp_path / "config.py")) == {
        "seed": "a seed",
        "a.without": "",
        "a.first": "Above, in two lines.",
        "a.second": "Above, in two lines.",
        "a.third": "inside",
        "a.fourth": "",
    }


@pytest.mark.parametrize(
    "typed", ["seq_digits", "seq_digits.py", "configs/seq_digits.py", "seq_digits:7"]
)
def test_config_is_found_by_its_name_from_any_folder(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, colon, argument = typed.partition(":")
    expected = f"{ROOT / 'configs' / 'seq_digits.py'}{colon}{argument}"
    assert find_config(typed, DEFAULT) == expected
    if not colon:
        config, name = _parsed("--config", typed)
        assert (config.data.name, name) == ("digits", "seq_digits")
    (tmp_path / "seq_digits").write_text("")
    assert find_config("seq_digits", DEFAULT) == "seq_digits"


def test_run_hands_over_arguments_where_a_program_takes_them(capsys):
    seen = []
    command_line.run(seen.append, ["program", "a", "b"], arguments="RUN")
    assert seen == [["a", "b"]]
    with pytest.raises(SystemExit):
        command_line.run(seen.append, ["program"], arguments="RUN")
    message = "error: no RUN given: name at least one; --help shows how\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            MemoryError(),
            "error: not enough memory (no more of it): lower sizes, such as ",
        ),
        (
            RuntimeError("RESOURCE_EXHAUSTED: out of\nmemory"),
            "error: not enough memory (",
        ),
        (
            PermissionError(13, "Permission denied", "/run/config.json"),
            "error: /run/config.json: Permission denied: give another path or change its "
            "mode",
        ),
        (UserError("x" * 5000), "error: xxx"),
    ],
)
def test_run_reports_what_the_machine_lacks_in_one_line(capsys, error, message):
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as exit_:
        command_line.run(fail, ["program"])
    assert exit_.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith(message) and line.count("\n") == 1 and len(line) < 1100


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--noconfig.adversarial.teacher_forced_term=1", "does not take an argument"),
        ("--noconfig.generator.kernels=1", "unknown flag --noconfig.generator.kernels"),
        ("--config.behavior.fields={}", "must be names, such as a,b"),
        ("--config.data.observed=b'x'", "must be names, such as a,b"),
        ("--config=" + "a" * 300, "no such file"),
        ("--config=/dev/null", "no such file"),
        ("--flagfile=/dev/zero", "is a device: must be a file"),
        ("--flagfile=/nowhere", "cannot be read (No such file or directory)"),
        ("--config.train.num_steps=" + "1" * 5000, "must be an integer"),
    ],
)
def test_run_reports_what_is_typed_wrongly_in_one_line(capsys, argument, message):
    assert message in _error(capsys, argument)


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "raise MemoryError"])
def test_run_reports_a_config_that_ends_the_program(capsys, tmp_path, code):
    (tmp_path / "ends.py").write_text(code)
    path = tmp_path / "ends.py"
    assert _error(capsys, f"--config={path}").startswith(f"--config={path}: line 1: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "config.train.learning_rat = 0.1",
            "unknown field train.learning_rat: did you mean train.learning_rate?",
        ),
        ("config.trian = 3", "unknown field trian: did you mean train?"),
        (
            "config.trian = {'num_steps': 3}",
            "unknown field trian.num_steps: did you mean train.num_steps?",
        ),
        ("config.xyzzy = 3", "unknown field xyzzy: --help lists the fields"),
    ],
)
def test_run_error_for_a_config_file_that_adds_a_field(capsys, tmp_path, line, message):
    path = tmp_path / "mine.py"
    path.write_text(
        "from configs import default\n\n\n"
        f"def get_config():\n    config = default.get_config()\n    {line}\n"
        "    return config\n"
    )
    assert _error(capsys, f"--config={path}") == f"--config={path}: {message}"
