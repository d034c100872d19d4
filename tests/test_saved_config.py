import json
import pathlib
import shutil

import pytest
from errors import error_of

from configs import default
from pf_jax.experiment.checks import check_config
from pf_jax.experiment.saved_config import (
    OPTIONAL_FIELDS,
    check_same_model,
    read_config,
    write_config,
)

# The config of the default experiment before `generator.cell` and its like existed.
OLD = pathlib.Path(__file__).parent / "old_config.json"
WORKDIR = pathlib.Path("run")


def config_with(**fields):
    config = default.get_config()
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in fields.items()}
    )
    return config


def test_read_config_is_the_config_that_was_written(tmp_path):
    config = config_with(
        behavior__fields=("hidden",),
        discriminator__learning_rate=1e-4,
        discriminator__schedule="linear",
    )
    write_config(config, tmp_path)
    saved = read_config(tmp_path)
    assert saved.to_dict() == config.to_dict()
    for field in config.to_dict():
        assert saved.get_type(field) == config.get_type(field)
    check_same_model(saved, config, WORKDIR)


def test_read_config_adds_what_older_runs_lack(tmp_path):
    shutil.copy(OLD, tmp_path / "config.json")
    saved = read_config(tmp_path)
    expected = config_with(generator__readout_bias="zeros").to_dict()
    # The sections of objectives are read by their own objective alone, which older runs
    # cannot have.
    expected = {name: expected[name] for name in json.loads(OLD.read_text())}
    assert saved.to_dict() == expected
    assert saved.behavior.fields == ("preactivation", "outputs")
    check_config(saved)
    check_same_model(saved, default.get_config(), WORKDIR)


def test_read_config_adds_what_the_oldest_runs_lack(tmp_path):
    values = json.loads(OLD.read_text())
    del values["generator"]["kernels"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read_config(tmp_path).generator.kernels == "auto"


def test_read_config_keeps_the_types_of_optional_fields(tmp_path):
    write_config(config_with(discriminator__learning_rate=0.5), tmp_path)
    config = read_config(tmp_path)
    for field, kind in OPTIONAL_FIELDS.items():
        section, name = field.split(".")
        assert default.get_config()[section].get_type(name) is kind
        assert config[section].get_type(name) is kind
    config.discriminator.learning_rate = None
    config.discriminator.learning_rate = 1
    assert config.discriminator.learning_rate == 1.0


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "{}", '{"behavior": 3}', '{"behavior": {}}']
)
def test_read_config_error_for_a_damaged_file(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    message = error_of(read_config, tmp_path)
    assert message.startswith(f"{tmp_path / 'config.json'}: damaged: ")


def test_read_config_error_for_a_section_that_is_none(tmp_path):
    values = json.loads(OLD.read_text()) | {"generator": 3}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert "damaged" in error_of(read_config, tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"data__path": "elsewhere"},
        {"generator__dropout": 0.5},
        {"generator__feedback": "soft"},
        {"generator__feedback_steps": 3},
        {"generator__feedback_temperature": 0.5},
        {"generator__kernels": "none"},
        {"generator__readout_bias": "zeros"},
        {"discriminator__learning_rate": 1e-4},
        {"discriminator__schedule": "cosine"},
        {"discriminator__warmup_steps": 3},
        {"discriminator__weight_decay": 0.1},
        {"discriminator__max_gradient_norm": 1.0},
        {"train__schedule": "linear", "train__learning_rate": 0.1},
    ],
)
def test_check_same_model_takes_what_leaves_the_shapes_alone(fields):
    check_same_model(default.get_config(), config_with(**fields), WORKDIR)
    check_same_model(config_with(**fields), default.get_config(), WORKDIR)


def test_check_same_model_error_for_another_cell():
    config = config_with(generator__cell="lstm")
    message = error_of(check_same_model, default.get_config(), config, WORKDIR)
    assert message == (
        "run: holds a checkpoint of another model (generator.cell is 'gru' there, "
        "'lstm' here): use another --workdir, or --config.generator.cell=gru"
    )


def test_check_same_model_error_names_a_tuple_as_it_is_typed():
    config = config_with(behavior__fields=("hidden",))
    message = error_of(check_same_model, default.get_config(), config, WORKDIR)
    assert message.endswith(" or --config.behavior.fields=preactivation,outputs")
