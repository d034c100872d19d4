import pathlib

import jax
import pytest
from errors import error_of

from configs import default
from pf_jax.data import load_dataset
from pf_jax.experiment import build, first_state
from pf_jax.experiment.streams import Stream


@pytest.fixture
def config(tmp_path: pathlib.Path):
    path = tmp_path / "text.txt"
    path.write_text("abc " * 100)
    config = default.get_config()
    config.seed = 7
    config.data.name, config.data.path = "text", str(path)
    config.generator.hidden_size, config.generator.embedding_size = 4, 3
    config.discriminator.hidden_size, config.discriminator.mlp_size = 3, 3
    config.train.sequence_length = 10
    return config


def test_key_of_every_stream_is_the_one_of_its_number(config):
    # Other numbers would change every run's results.
    numbers = {
        Stream.PARAMETERS: 0,
        Stream.TRAINING: 1,
        Stream.VALIDATION: 2,
        Stream.SAMPLES: 3,
        Stream.GAP: 4,
        Stream.KIND: 5,
        Stream.STATES: 6,
        Stream.RECOVERY: 7,
        Stream.CRITIC: 8,
        Stream.JUDGE: 9,
        Stream.CONTINUATION: 10,
        Stream.FORWARD: 11,
        Stream.REVERSE: 12,
    }
    assert set(numbers) == set(Stream)
    experiment = build.load_experiment(config)
    for stream, number in numbers.items():
        expected = jax.random.fold_in(jax.random.key(7), number)
        assert experiment.key(stream) == expected


def test_load_experiment_takes_an_encoding_of_an_earlier_run(config):
    other = pathlib.Path(config.data.path).with_name("other.txt")
    other.write_text("xyz " * 100)
    encoding = load_dataset(config.data).encoding
    config.data.path = str(other)
    assert build.load_experiment(config, encoding).encoding is encoding
    assert build.load_experiment(config).encoding != encoding


def test_load_experiment_error_for_what_is_not_legal_whatever_the_data(config):
    config.generator.hidden_size, config.data.path = 0, "nowhere.txt"
    message = error_of(build.load_experiment, config)
    assert message == "generator.hidden_size=0: must be at least 1"


def test_state_shapes_are_those_of_create_state(config):
    experiment = build.load_experiment(config)
    shapes, state = build.state_shapes(experiment), build.create_state(experiment)
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    for shape, leaf in zip(*map(jax.tree.leaves, (shapes, state)), strict=True):
        assert (shape.shape, shape.dtype) == (leaf.shape, leaf.dtype)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "the last 90 of 190 characters are left out: they fill no window of "),
        (
            {"train.carry": "passed_on", "train.sequence_length": 80},
            "the last 30 of 190 ",
        ),
        ({"train.chunks": "random"}, ""),
        ({"train.sequence_length": 95}, ""),
        # 4 of 190 steps.
        ({"train.sequence_length": 62}, ""),
    ],
)
def test_the_end_of_a_text_that_fills_no_window_is_said(config, capsys, fields, line):
    # 5 % of 210 characters are valid, and as many test.
    pathlib.Path(config.data.path).write_text("ab" * 105, encoding="utf-8")
    config.train.sequence_length, config.train.batch_size = 100, 1
    config.update_from_flattened_dict(fields)
    first_state._print_sizes(build.load_experiment(config))
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == (1 if line else 0)
    for printed in lines:
        assert printed.startswith(f"train: {line}")
        length = {100: 95, 80: 63}[config.train.sequence_length]
        assert printed.endswith(f"set --config.train.sequence_length={length}")


@pytest.mark.parametrize(
    ("fields", "others"),
    [
        (("preactivation", "outputs"), "preactivation"),
        (("outputs",), "preactivation"),
        (("hidden", "outputs", "preactivation"), "hidden,preactivation"),
    ],
)
def test_a_discriminator_that_sees_thousands_of_outputs_is_warned_of(
    config, capsys, fields, others
):
    symbols = [chr(0x4E00 + index) for index in range(first_state.MANY_OUTPUTS - 1)]
    pathlib.Path(config.data.path).write_text("".join(symbols) * 2, encoding="utf-8")
    config.behavior.fields = fields
    first_state._print_sizes(build.load_experiment(config))
    assert capsys.readouterr().err == (
        f"warning: behavior.fields={','.join(fields)}: 2,000 outputs of every step enter "
        "the discriminator, which is slow: leave them out with "
        f"--config.behavior.fields={others}\n"
    )
    for name, value in (
        ("objective", "teacher_forcing"),
        ("behavior.fields", ("hidden",)),
        ("data.units", "bytes"),
        ("data.min_count", 2),
    ):
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict({name: value})
        if name == "data.min_count":
            text = "".join(symbols[1:]) * 2 + symbols[0]
            pathlib.Path(config.data.path).write_text(text, encoding="utf-8")
        first_state._print_sizes(build.load_experiment(changed))
        assert not capsys.readouterr().err
