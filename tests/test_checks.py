import os

import jax
import pytest
from errors import error_of
from ml_collections import config_dict

from configs import default
from pf_jax.data import load_dataset, waveform
from pf_jax.data.dataset import UNITS
from pf_jax.data.loud import TOO_LOUD
from pf_jax.errors import UserError
from pf_jax.experiment import build, checks, environment, memory


def _config(**overrides):
    config = default.get_config()
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in overrides.items()}
    )
    return config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"seed": -1}, "seed=-1: must be from 0 to 4294967295"),
        ({"seed": 2**32}, "seed=4294967296: must be from 0 to 4294967295"),
        (
            {"objective": "professor"},
            "objective=professor: must be one of professor_forcing, teacher_forcing, "
            "scheduled_sampling, state_matching, input_noise, "
            "noisy_professor_forcing",
        ),
        ({"dtype": "float16"}, "dtype=float16: must be one of float32, bfloat16"),
        (
            {"train__chunks": "shuffled"},
            "train.chunks=shuffled: must be one of consecutive, random",
        ),
        (
            {"train__carry": "kept"},
            "train.carry=kept: must be one of zeros, passed_on",
        ),
        (
            {"train__carry": "passed_on", "train__chunks": "random"},
            "train.chunks=random: with train.carry=passed_on windows follow one another: "
            "set train.chunks=consecutive, or train.carry=zeros",
        ),
        (
            {"train__carry": "passed_on", "adversarial__free_running_steps": 200},
            "adversarial.free_running_steps=200: with train.carry=passed_on a free run "
            "ends with its window, after train.sequence_length=100 steps: leave it out, or "
            "set train.carry=zeros",
        ),
        (
            {"train__carry": "passed_on", "discriminator__kind": "convolutional"},
            "train.carry=passed_on: discriminator.kind=convolutional sees whole images, "
            "after which nothing follows: set train.carry=zeros",
        ),
        (
            {"data__units": "runes"},
            "data.units=runes: must be one of characters, bytes, words",
        ),
        ({"data__min_count": 0}, "data.min_count=0: must be at least 1"),
        (
            {"data__units": "bytes", "data__min_count": 2},
            "data.min_count=2: data.units=bytes knows every byte: leave it at 1",
        ),
        (
            {"data__too_loud": "cut"},
            "data.too_loud=cut: must be one of clip, normalize, skip",
        ),
        (
            {"train__update": "both"},
            "train.update=both: must be one of joint, separate",
        ),
        (
            {"train__learning_rate": 0.0},
            "train.learning_rate=0.0: must be a finite number above 0",
        ),
        (
            {"scheduled_sampling__speed": float("nan")},
            "scheduled_sampling.speed=nan: must be a number",
        ),
        (
            {"train__learning_rate": float("nan")},
            "train.learning_rate=nan: must be a finite number above 0",
        ),
        (
            {"train__max_gradient_norm": -1.0},
            "train.max_gradient_norm=-1.0: must be a finite number, at least 0",
        ),
        (
            {"adversarial__weight": -0.5},
            "adversarial.weight=-0.5: must be a finite number, at least 0",
        ),
        (
            {"adversarial__weight": float("inf")},
            "adversarial.weight=inf: must be a finite number, at least 0",
        ),
        (
            {"adversarial__start_step": -1},
            "adversarial.start_step=-1: must be at least 0",
        ),
        (
            {"adversarial__warmup_steps": -1},
            "adversarial.warmup_steps=-1: must be at least 0",
        ),
        (
            {"generator__cell": "elman"},
            "generator.cell=elman: must be one of gru, lstm",
        ),
        (
            {"generator__dropout": 1.0},
            "generator.dropout=1.0: must be at least 0 and below 1",
        ),
        (
            {"generator__feedback": "hard"},
            "generator.feedback=hard: must be one of sample, soft, straight_through, "
            "reparameterized",
        ),
        (
            {"generator__feedback_temperature": 0.0},
            "generator.feedback_temperature=0.0: must be a finite number above 0",
        ),
        (
            {"generator__readout_bias": "zero"},
            "generator.readout_bias=zero: must be one of data, zeros",
        ),
        (
            {"train__schedule": "step"},
            "train.schedule=step: must be one of constant, cosine, linear",
        ),
        ({"train__warmup_steps": -1}, "train.warmup_steps=-1: must be at least 0"),
        (
            {"train__weight_decay": float("inf")},
            "train.weight_decay=inf: must be a finite number, at least 0",
        ),
        (
            {"discriminator__learning_rate": 0.0},
            "discriminator.learning_rate=0.0: must be a finite number above 0",
        ),
        (
            {"discriminator__schedule": "step"},
            "discriminator.schedule=step: must be one of constant, cosine, linear",
        ),
        (
            {"discriminator__warmup_steps": -1},
            "discriminator.warmup_steps=-1: must be at least 0",
        ),
        ({"generator__unroll": -1}, "generator.unroll=-1: must be at least 0"),
        ({"evaluation__context": -1}, "evaluation.context=-1: must be at least 0"),
        (
            {"gate__generator_lower": -0.1},
            "gate.generator_lower=-0.1: must be from 0 to 1",
        ),
        (
            {"gate__generator_upper": 1.1},
            "gate.generator_upper=1.1: must be from 0 to 1",
        ),
        (
            {"gate__discriminator_upper": float("nan")},
            "gate.discriminator_upper=nan: must be from 0 to 1",
        ),
        (
            {"gate__generator_lower": 0.8, "gate__generator_upper": 0.8},
            "gate.generator_lower=0.8: must be below gate.generator_upper=0.8, "
            "or the gate never opens",
        ),
        (
            {"gate__average_decay": 1.0},
            "gate.average_decay=1.0: must be at least 0 and below 1",
        ),
        (
            {"behavior__fields": ()},
            "behavior.fields=: must be one or more of preactivation, outputs, hidden, "
            "context, each once",
        ),
        (
            {"behavior__fields": ("hidden", "hidden")},
            "behavior.fields=hidden,hidden: must be one or more of preactivation, "
            "outputs, hidden, context, each once",
        ),
        (
            {"behavior__fields": ("hidden", "gates")},
            "behavior.fields=hidden,gates: must be one or more of preactivation, "
            "outputs, hidden, context, each once",
        ),
    ],
)
def test_check_config_names_the_field_and_the_fix(overrides, message):
    with pytest.raises(UserError) as raised:
        checks.check_config(_config(**overrides))
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("train.num_step", ": did you mean train.num_steps?"),
        ("train.xyz", ""),
        ("sed", ": did you mean seed?"),
        ("scheduled_sampling.slop", ": did you mean scheduled_sampling.slope?"),
    ],
)
def test_check_config_refuses_fields_that_nothing_reads(field, hint):
    config = default.get_config()
    config.objective = "scheduled_sampling"
    section, _, name = field.rpartition(".")
    (config[section] if section else config)[name] = 1
    with pytest.raises(UserError) as raised:
        checks.check_config(config)
    assert str(raised.value) == f"unknown field {field}{hint}"


def test_check_config_leaves_other_sections_to_who_reads_them():
    config = default.get_config()
    config.my_objective = {"weight": 1.0}
    checks.check_config(config)


@pytest.mark.parametrize(
    "field",
    [
        "generator.num_layers",
        "generator.hidden_size",
        "generator.embedding_size",
        "generator.num_components",
        "data.sample_rate",
        "discriminator.hidden_size",
        "discriminator.mlp_size",
        "train.num_steps",
        "train.batch_size",
        "train.sequence_length",
        "train.updates_per_dispatch",
        "train.log_every",
        "train.eval_every",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "evaluation.num_streams",
        "evaluation.sample_length",
    ],
)
def test_check_config_refuses_sizes_below_one(field):
    checks.check_config(_config(**{field: 1}))
    with pytest.raises(UserError) as raised:
        checks.check_config(_config(**{field: 0}))
    assert str(raised.value) == f"{field}=0: must be at least 1"


def test_check_config_takes_the_edges_of_every_range():
    checks.check_config(default.get_config())
    checks.check_config(
        _config(
            seed=2**32 - 1,
            objective="teacher_forcing",
            dtype="bfloat16",
            behavior__fields=("hidden", "outputs", "preactivation"),
            adversarial__weight=0.0,
            adversarial__start_step=0,
            gate__generator_lower=0.0,
            gate__generator_upper=1.0,
            gate__discriminator_upper=0.0,
            gate__average_decay=0.999,
            train__chunks="random",
            train__update="separate",
            train__max_gradient_norm=0.0,
            evaluation__context=0,
            generator__dropout=0.0,
            generator__readout_bias="zeros",
        )
    )
    checks.check_config(
        _config(
            generator__cell="lstm",
            generator__feedback="soft",
            generator__feedback_steps=0,
        )
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"generator__cell": "lstm", "dtype": "bfloat16"},
            "dtype=bfloat16: has no effect with generator.cell=lstm: leave it at float32",
        ),
        (
            {"generator__cell": "lstm", "generator__recompute": True},
            "generator.recompute=True: has no effect with generator.cell=lstm: leave it "
            "at False",
        ),
        (
            {"generator__feedback": "soft", "generator__unroll": 4},
            "generator.unroll=4: has no effect with generator.feedback=soft: leave it at "
            "0",
        ),
        (
            {"generator__feedback_steps": 10},
            "generator.feedback_steps=10: has no effect with generator.feedback=sample: "
            "leave it at 0",
        ),
        (
            {"generator__cell": "lstm", "generator__feedback_temperature": 0.5},
            "generator.feedback_temperature=0.5: has no effect with "
            "generator.feedback=sample: leave it at 1.0",
        ),
        (
            {
                "generator__feedback": "reparameterized",
                "generator__feedback_temperature": 0.5,
            },
            "generator.feedback_temperature=0.5: has no effect with "
            "generator.feedback=reparameterized: leave it at 1.0",
        ),
    ],
)
def test_check_config_error_for_what_would_have_no_effect(overrides, message):
    assert error_of(checks.check_config, _config(**overrides)) == message


@pytest.mark.parametrize(
    ("objective", "field", "value", "message"),
    [
        ("scheduled_sampling", "start", 1.5, "from 0 to 1: it is a probability"),
        ("scheduled_sampling", "floor", -0.1, "from 0 to 1: it is a probability"),
        ("scheduled_sampling", "slope", -1.0, "a finite number, at least 0"),
        ("scheduled_sampling", "decay", 1.1, "from 0 to 1: its powers are"),
        ("scheduled_sampling", "speed", 0.5, "a finite number, at least 1"),
        (
            "scheduled_sampling",
            "schedule",
            "cosine",
            "one of linear, exponential, inverse_sigmoid",
        ),
        ("state_matching", "distance", "mmd", "one of energy, mse"),
        ("state_matching", "weight", -1.0, "a finite number, at least 0"),
        ("input_noise", "probability", 1.1, "from 0 to 1"),
        ("input_noise", "deviation", float("inf"), "a finite number, at least 0"),
    ],
)
def test_check_config_asks_the_objective(objective, field, value, message):
    overrides = {"objective": objective, f"{objective}__{field}": value}
    expected = f"{objective}.{field}={value}: must be {message}"
    assert error_of(checks.check_config, _config(**overrides)) == expected
    # Another objective does not read the field.
    checks.check_config(_config(**overrides | {"objective": "teacher_forcing"}))


OVERRIDES = {
    "discriminator__learning_rate": 1e-4,
    "discriminator__schedule": "cosine",
    "discriminator__warmup_steps": 0,
    "discriminator__weight_decay": 0.0,
    "discriminator__max_gradient_norm": 0.0,
}


def test_check_config_takes_overrides_of_the_discriminators_optimizer():
    checks.check_config(_config(**OVERRIDES))


@pytest.mark.parametrize("name", OVERRIDES)
def test_check_config_refuses_overrides_without_a_discriminator(name):
    value = OVERRIDES[name]
    message = error_of(
        checks.check_config, _config(objective="teacher_forcing", **{name: value})
    )
    assert message == (
        f"{name.replace('__', '.')}={value}: objective=teacher_forcing has no "
        "discriminator: leave it out, or set objective=professor_forcing"
    )


def test_check_config_names_a_missing_field():
    config = default.get_config()
    del config.train.log_every
    with pytest.raises(UserError) as raised:
        checks.check_config(config)
    assert str(raised.value) == (
        "train.log_every is missing from the config: "
        "start from get_config() of configs/default.py"
    )


# Each is checked by the objective of its name.
OBJECTIVE_SECTIONS = {"scheduled_sampling", "state_matching", "input_noise"}


def test_check_config_checks_every_field_that_has_a_range():
    sections = default.get_config()
    for section in set(sections) - OBJECTIVE_SECTIONS:
        if not isinstance(sections[section], config_dict.ConfigDict):
            continue
        for name in sections[section]:
            kind = sections[section].get_type(name)
            field = f"{section}.{name}"
            if kind in (int, float):
                with pytest.raises(UserError, match=f"^{field}=-1"):
                    checks.check_config(_config(**{field: kind(-1)}))
            elif kind is str and section != "data":
                with pytest.raises(UserError, match=f"^{field}=unheard-of"):
                    checks.check_config(_config(**{field: "unheard-of"}))


def test_check_config_wants_free_runs_of_whole_windows():
    checks.check_config(
        _config(train__sequence_length=50, adversarial__free_running_steps=150)
    )
    with pytest.raises(UserError) as raised:
        checks.check_config(
            _config(train__sequence_length=50, adversarial__free_running_steps=120)
        )
    assert str(raised.value) == (
        "adversarial.free_running_steps=120: must be a multiple of "
        "train.sequence_length=50, such as 150"
    )


@pytest.mark.parametrize(
    ("batch_size", "num_devices", "legal"),
    [(12, 8, "8 or 16"), (3, 8, "8"), (31, 2, "30 or 32")],
)
def test_check_devices_offers_the_nearest_multiples(batch_size, num_devices, legal):
    with pytest.raises(UserError) as raised:
        checks.check_devices(batch_size, num_devices)
    assert str(raised.value) == (
        f"train.batch_size={batch_size}: must be a multiple of the {num_devices} "
        f"devices, such as {legal}"
    )


def test_check_devices_counts_the_sequences_that_an_objective_needs():
    checks.check_devices(16, 8, 2)
    with pytest.raises(UserError) as raised:
        checks.check_devices(8, 8, 2)
    assert str(raised.value) == (
        "train.batch_size=8: the objective needs 2 sequences on each of 8 devices: give at "
        "least 16"
    )


def test_check_devices_takes_multiples():
    checks.check_devices(32, 8)
    checks.check_devices(3, 1)


def test_names_are_those_that_there_are():
    assert set(checks.DISCRIMINATORS) == set(build.DISCRIMINATORS)
    assert set(checks.COMPANDINGS) == set(waveform.COMPANDINGS)
    assert set(checks.CELLS) == set(build.CELLS)
    assert checks.MAX_SAMPLE_RATE == waveform.MAX_SAMPLE_RATE


EFFECT = "others have no effect in float32 or overflow there"
SHARES = "from 1e-07 to 0.9999999: float32 takes others for 0 or 1"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "train.learning_rate",
            1e-46,
            "from 1e-10 to 3e+38: lower ones change no parameter in float32",
        ),
        (
            "discriminator.learning_rate",
            1e39,
            "from 1e-10 to 3e+38: lower ones change no parameter in float32",
        ),
        ("train.max_gradient_norm", 1e-300, f"0 or from 1e-06 to 1e+09: {EFFECT}"),
        ("train.weight_decay", 1e-46, f"0 or from 1e-08 to 1e+06: {EFFECT}"),
        ("adversarial.weight", 1e-46, f"0 or from 1e-08 to 1e+08: {EFFECT}"),
        (
            "generator.feedback_temperature",
            1e39,
            f"from 1e-06 to 1e+06: {EFFECT}",
        ),
        ("generator.dropout", 0.99999999999, f"0 or {SHARES}"),
        ("gate.average_decay", 1e-46, f"0 or {SHARES}"),
        ("gate.generator_lower", 1e-46, f"0, 1 or {SHARES}"),
        ("data.noise", 1e-46, f"0 or from 1e-06 to 1e+06: {EFFECT}"),
        ("data.max_offset", 1e39, "from 0.001 to 1e+06: in deviations"),
        ("data.sample_rate", 10**9, "at most 500000"),
        ("generator.hidden_size", 2**31, "at most 65536"),
        ("generator.num_layers", 2**31, "at most 64"),
        ("generator.unroll", 2**31, "at most 64"),
        ("discriminator.mlp_size", 2**31, "at most 65536"),
        ("train.batch_size", 2**31, "at most 2147483647"),
        ("train.num_steps", 2**63, "at most 2147483647"),
        ("train.updates_per_dispatch", 2**31, "at most 10000"),
        ("evaluation.sample_length", 2**31, "at most 1000000"),
        ("behavior.fields", ([],), "one or more of preactivation, outputs, hidden, "),
        ("data.columns", (-1,), "names or numbers of columns"),
    ],
)
def test_check_config_refuses_what_would_have_no_effect_or_no_room(
    field, value, message
):
    error = error_of(checks.check_config, _config(**{field: value}))
    typed = f"{value[0]}" if isinstance(value, tuple) else f"{value}"
    assert error.startswith(f"{field}={typed}: must be {message}")


def test_check_config_asks_for_gates_that_differ_in_float32():
    fields = {"gate.generator_lower": 0.75, "gate.generator_upper": 0.75 + 1e-9}
    message = error_of(checks.check_config, _config(**fields))
    assert "must be below gate.generator_upper=0.750000001" in message


WRONG_TYPES = {int: (1.5, "many", True), float: ("many", []), bool: (0, "yes")}


def test_check_config_names_every_field_of_another_type():
    sections = default.get_config()
    checked = 0
    for section in sections:
        if not isinstance(sections[section], config_dict.ConfigDict):
            continue
        for name in sections[section]:
            kind, field = sections[section].get_type(name), f"{section}.{name}"
            for wrong in WRONG_TYPES.get(kind, (5,)):
                config = default.get_config()
                if section in OBJECTIVE_SECTIONS:
                    config.objective = section
                with config[section].ignore_type():
                    config[section][name] = wrong
                message = error_of(checks.check_config, config)
                assert message.startswith(f"{field}={wrong}: must be "), message
                checked += 1
    assert checked > 100


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        (
            {"generator__hidden_size": 65536},
            "generator.num_layers=1, generator.hidden_size=65536, ",
        ),
        (
            {"train__batch_size": 2**31 - 8},
            "train.batch_size=2147483640, train.sequence_length=100: need at least ",
        ),
        (
            {
                "train__batch_size": 10**5,
                "train__sequence_length": 1,
                "train__updates_per_dispatch": 10**4,
                "train__log_every": 10**4,
                "train__num_steps": 10**4,
            },
            "train.updates_per_dispatch=10000, train.batch_size=100000: need at least "
            "100.0 GB of memory, and there are 8.0 GB: lower them",
        ),
    ],
)
def test_check_memory_names_the_fields_that_do_not_fit(monkeypatch, overrides, start):
    monkeypatch.setattr(memory, "host_bytes", lambda: 8 * 10**9)
    config = _config(**overrides)
    experiment = build.make_experiment(config, load_dataset(config.data))
    assert error_of(memory.check_memory, experiment).startswith(start)


def test_check_memory_takes_what_fits():
    config = _config()
    experiment = build.make_experiment(config, load_dataset(config.data))
    memory.check_memory(experiment)
    # The alphabet of the language reference depends on Python's version.
    symbols = experiment.encoding.output(1).num_outputs
    # An embedding, a GRU with two biases of the candidate, and a readout, by hand.
    generator = symbols * 64 + 3 * 256 * (64 + 256 + 1) + 256 + symbols * 257
    state = build.state_shapes(experiment)
    count = memory.parameter_bytes(experiment)
    assert sum(x.size for x in jax.tree.leaves(state.generator.params)) == generator
    discriminator = sum(x.size for x in jax.tree.leaves(state.discriminator.params))
    assert count == pytest.approx(16 * (generator + discriminator), abs=100)
    # 64 rows of 256 hidden units, and 32 rows of logits, at 100 steps.
    assert memory.step_bytes(experiment) == 100 * 4 * (64 * 256 + 32 * symbols)


def test_check_environment_refuses_64_bits():
    environment.check_environment()
    with jax.enable_x64(True):
        message = error_of(environment.check_environment)
    assert message.startswith("JAX_ENABLE_X64 is set: ") and message.endswith(
        "unset it"
    )


@pytest.mark.parametrize("error", [RuntimeError("no cuda\nmore"), AssertionError()])
def test_check_environment_names_the_platform_that_is_not_there(monkeypatch, error):
    def refuse():
        raise error

    monkeypatch.setattr(jax, "devices", refuse)
    message = error_of(environment.check_environment)
    assert message.startswith(
        f"JAX_PLATFORMS={os.environ['JAX_PLATFORMS']}: JAX cannot"
    )
    assert ("(no cuda)" in message) == bool(str(error))


def test_settings_of_data_are_those_that_its_readers_know():
    assert set(checks.UNITS) == UNITS.keys()
    assert set(checks.TOO_LOUD) == TOO_LOUD.keys()
