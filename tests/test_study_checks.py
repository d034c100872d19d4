"""What a study refuses before anything is trained or written."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from errors import error_of
from study_runs import write_run

from configs import default
from pf_jax.data import Vocabulary, save_encoding
from pf_jax.experiment.checks import MAX_SEED
from pf_jax.study.checks import check_study
from pf_jax.study.conduct import run_study
from pf_jax.study.plan import Study, Variant, judge_config, make_variants

ROOT = pathlib.Path(__file__).parent.parent
SMALL = {
    "data.name": "text",
    "generator.hidden_size": 8,
    "discriminator.hidden_size": 4,
    "train.batch_size": 8,
    "train.sequence_length": 10,
}
BOTH = make_variants(["objective=teacher_forcing,professor_forcing"], [])
NO_JUDGE = Study(judge="none")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "abc.txt"
    path.write_text("abcdefgh " * 200)
    config = default.get_config()
    config.update_from_flattened_dict({**SMALL, "data.path": str(path)})
    return config


def judge_of(folder):
    """A run on characters a, b and c, with what an old checkpoint left."""
    workdir = write_run(folder / "judge_run")
    save_encoding(Vocabulary.from_text("abc"), workdir / "encoding.json")
    (workdir / "checkpoints" / "500").mkdir(parents=True)
    return workdir


def test_check_study_takes_a_judge_on_the_same_data(config, tmp_path):
    pathlib.Path(config.data.path).write_text("abc" * 500)
    check_study(config, BOTH, Study(judge=str(judge_of(tmp_path))))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("", "--judge={}: its data is characters, encoded in another alphabet"),
        ("checkpoints", "--judge: {}: no checkpoint here yet: run"),
        ("config.json", "--judge: {}: no run here (no config.json): give"),
        ("encoding.json", "--judge: {}/encoding.json: cannot read the run's encoding"),
        (".", "--judge={}: no such folder: give the workdir of a run, auto or none"),
    ],
)
def test_run_study_refuses_a_judge_that_cannot_judge(config, tmp_path, damage, words):
    judge = judge_of(tmp_path)
    if damage:
        (judge / damage).rename(tmp_path / "gone")
    study = Study(judge=str(judge))
    message = error_of(run_study, config, tmp_path / "study", BOTH, study)
    assert message.startswith(words.format(judge))
    assert not (tmp_path / "study").exists()


def test_check_study_names_the_data_that_a_judge_has_not_seen(config, tmp_path):
    judge = judge_of(tmp_path)
    message = error_of(check_study, config, BOTH, Study(judge=str(judge)))
    assert message.endswith("size: give a run on the data of this study")


@pytest.mark.parametrize("judge", ["auto", "somewhere"])
def test_check_study_refuses_a_judge_of_data_with_conditions(tmp_path, judge):
    config = default.get_config()
    config.data.name = "transduction"
    if judge != "auto":
        judge = str(judge_of(tmp_path))
    message = error_of(check_study, config, BOTH, Study(judge=judge))
    assert message.startswith(f"--judge={judge}: does not know conditions")
    assert message.endswith("give --judge=none")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("generator.feedback=reparameterized", "has no meaning for text"),
        ("behavior.fields=context", "behavior.fields=context: data.name=text has no"),
        ("discriminator.kind=convolutional", "data.name=text has no images"),
        ("train.carry=passed_on train.batch_size=900", "train.batch_size=900: the"),
        ("train.sequence_length=90000", "train.sequence_length=90000"),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_run_study_refuses_a_variant_that_does_not_fit_the_data(
    config, tmp_path, fields, words, together
):
    named = ["plain: objective=teacher_forcing", f"other: {fields}"]
    variants = make_variants([], named)
    study = NO_JUDGE._replace(together=together)
    message = error_of(run_study, config, tmp_path / "study", variants, study)
    assert words in message
    assert not (tmp_path / "study").exists()


def test_run_study_refuses_a_judge_that_does_not_fit_the_data(config, tmp_path):
    config.behavior.fields = ("context",)
    variants = make_variants(["behavior.fields=hidden,preactivation"], [])
    check_study(config, variants, NO_JUDGE)
    message = error_of(run_study, config, tmp_path / "study", variants, Study())
    assert message.startswith("behavior.fields=context: data.name=text has no")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 1e-4),
        ("schedule", "cosine"),
        ("warmup_steps", 3),
        ("weight_decay", 1e-2),
        ("max_gradient_norm", 1.0),
    ],
)
def test_check_study_takes_overrides_that_the_judge_cannot_have(config, field, value):
    config.discriminator[field] = value
    variants = make_variants(
        ["objective=professor_forcing,noisy_professor_forcing"], []
    )
    check_study(config, variants, Study())
    assert judge_config(config).discriminator[field] is None
    assert config.discriminator[field] == value


def test_judge_config_is_teacher_forcing_with_another_seed(config):
    config.seed = 3
    expected = config.copy_and_resolve_references()
    expected.seed, expected.objective = 1003, "teacher_forcing"
    assert judge_config(config).to_dict() == expected.to_dict()


PROGRAM = """
import json, sys
from configs import default
from pf_jax.study.checks import check_study
from pf_jax.study.plan import Study, make_variants
config = default.get_config()
config.update_from_flattened_dict(json.loads(sys.argv[1]))
variants = make_variants(["objective=teacher_forcing,professor_forcing"], [])
check_study(config, variants, Study(judge=sys.argv[2]))
"""


def test_check_study_uses_no_device(config, tmp_path):
    pathlib.Path(config.data.path).write_text("abc" * 500)
    fields = json.dumps({**SMALL, "data.path": config.data.path})
    subprocess.run(
        [sys.executable, "-c", PROGRAM, fields, str(judge_of(tmp_path))],
        cwd=ROOT,
        # Whatever asks for a device fails.
        env={**os.environ, "JAX_PLATFORMS": "absent", "PYTHONPATH": "."},
        check=True,
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("..", "starts with a dot"),
        (".", "starts with a dot"),
        (".lock", "starts with a dot"),
        ("study.json", "is what the study calls a file of its own"),
        ("study.json.partial", "is what the study calls a file of its own"),
        ("report.html", "is what the study calls a file of its own"),
        ("judge", "is what the study calls a file of its own"),
        ("Judge", "is what the study calls a file of its own"),
        ("judge.log", "is what the study calls a file of its own"),
        ("plain_x2.5", "is what the study calls a longer training of plain"),
        ("plain_x1e+03", "is what the study calls a longer training of plain"),
    ],
)
def test_run_study_refuses_names_that_are_its_own(config, tmp_path, name, words):
    variants = make_variants(
        [], ["plain: objective=teacher_forcing", f"{name}: train.num_steps=3"]
    )
    message = error_of(run_study, config, tmp_path / "study", variants, NO_JUDGE)
    assert message.startswith(f"variant {name}: {words}")
    assert ": rename it with --variant='NAME: FIELD=VALUE'" in message
    assert not (tmp_path / "study").exists()


def test_check_study_takes_names_that_are_almost_its_own(config):
    names = ["judged", "study", "report", "plain_x", "plain_xs", "x_x2", "a.partial"]
    variants = [Variant(name, {}) for name in ("plain", *names)]
    check_study(config, variants, NO_JUDGE)
    variants.append(Variant("plain_x2", {}))
    check_study(config, variants, NO_JUDGE._replace(equal_seconds=False))


def test_check_study_bounds_the_bytes_of_a_name(config):
    fields = {"objective": "teacher_forcing"}
    check_study(config, [Variant("\u00e9" * 100, fields), *BOTH], NO_JUDGE)
    variants = [Variant("\u00e9" * 101, fields), *BOTH]
    message = error_of(check_study, config, variants, NO_JUDGE)
    assert "...: has 202 bytes" in message and "must be at most 200" in message


def test_check_study_refuses_a_long_name_that_was_made_of_values(config):
    fields = ("temperature", "steps")
    vary = [f"generator.feedback_{name}={'0' * 100}1,1" for name in fields]
    message = error_of(check_study, config, make_variants(vary, []), NO_JUDGE)
    assert message.startswith("variant feedback_temperature=0000")
    assert message.endswith("rename it with --variant='NAME: FIELD=VALUE'")
    assert len(message) < 250


@pytest.mark.parametrize(
    ("below", "seeds", "judge", "words"),
    [
        (0, 2, "none", "the last of --seeds=2 would be 4294967296: must be at"),
        (4, 6, "none", "the last of --seeds=6 would be 4294967296: must be at"),
        (0, 1, "auto", "with --seeds=1 the judge's would be 4294968295: must be at"),
        (999, 6, "auto", "with --seeds=6 the judge's would be 4294967296: must be at"),
    ],
)
def test_run_study_refuses_seeds_that_end_beyond_the_largest(
    config, tmp_path, below, seeds, judge, words
):
    config.seed = MAX_SEED - below
    study = Study(seeds=seeds, judge=judge)
    message = error_of(run_study, config, tmp_path / "study", BOTH, study)
    assert message.startswith(f"seed={config.seed}: {words} most 4294967295: give a")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("below", "seeds", "judge"), [(0, 1, "none"), (5, 6, "none"), (1000, 6, "auto")]
)
def test_check_study_takes_seeds_up_to_the_largest(config, below, seeds, judge):
    config.seed = MAX_SEED - below
    check_study(config, BOTH, Study(seeds=seeds, judge=judge))


def test_check_study_refuses_a_first_seed_that_is_not_legal(config):
    config.seed = -1
    message = error_of(check_study, config, BOTH, Study())
    assert message == f"seed=-1: must be from 0 to {MAX_SEED}"
