import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trees import random_like

from configs import default
from pf_jax.analysis.measures.measurement import Curve, Measured, Measurement
from pf_jax.analysis.request import Sampling
from pf_jax.analysis.samples import sample_text
from pf_jax.data import Vocabulary
from pf_jax.data.pixels import Pixels
from pf_jax.errors import UserError
from pf_jax.experiment import evaluation, measuring
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.loop import train_and_evaluate
from pf_jax.experiment.measuring import Measures, describe_judge
from pf_jax.experiment.restoring import RemovedError, Restored
from pf_jax.experiment.run_log import read_metrics
from pf_jax.experiment.runs import load_model, load_run
from pf_jax.experiment.streams import Stream
from pf_jax.study.results import read_result
from pf_jax.study.samples import read_sample
from pf_jax.unroll import unroll_teacher_forced

ROOT = pathlib.Path(__file__).parent.parent
PICTURES = {"learning_curves.png", "gate.png", "hidden_gap.png"}
FEW = Sampling(num_samples=2, sample_length=30)


def make_config(data):
    config = default.get_config()
    config.data.name, config.data.path = "text", str(data)
    config.generator.hidden_size, config.generator.embedding_size = 8, 4
    config.discriminator.hidden_size, config.discriminator.mlp_size = 4, 4
    config.train.num_steps, config.train.eval_every = 4, 2
    config.train.batch_size, config.train.sequence_length = 8, 10
    config.train.log_every, config.train.updates_per_dispatch = 1, 1
    config.evaluation.num_streams, config.evaluation.sample_length = 1, 30
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir, never written to by a test."""
    folder = tmp_path_factory.mktemp("trained")
    words = np.random.default_rng(0).choice(["ab", "cab", "a", "dad", "bee"], 3600)
    text = " ".join(words)
    # "z" is in the validation split alone, so that it is an unknown character.
    position = len(text) * 92 // 100
    (folder / "text.txt").write_text(text[:position] + "zz" + text[position:])
    train_and_evaluate(make_config(folder / "text.txt"), folder / "run")
    return folder / "run"


@pytest.fixture
def workdir(trained, tmp_path):
    return pathlib.Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(trained, workdir)
    return workdir, evaluation.evaluate(workdir, FEW)


def edit_config(workdir, **fields):
    path = workdir / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_evaluate_writes_everything_it_should(evaluated):
    workdir, metrics = evaluated
    folder = workdir / "evaluation"
    files = {file.name for file in (folder / "valid").iterdir()}
    assert files == {"metrics.json", "samples.txt", "states.npz"} | PICTURES
    assert {file.name for file in folder.iterdir()} == {"metrics.json", "valid"}
    for file in (folder / "metrics.json", folder / "valid" / "metrics.json"):
        assert json.loads(file.read_text()) == metrics


def test_evaluate_removes_the_earlier_samples_that_its_record_lists(
    evaluated, tmp_path
):
    workdir = pathlib.Path(shutil.copytree(evaluated[0], tmp_path / "run"))
    folder = workdir / "evaluation" / "valid"
    before = {file.name for file in folder.iterdir()}
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["sampling"]["files"] = ["sample_9.svg"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    for name in ("sample_8.svg", "sample_9.svg"):
        (folder / name).write_text("x")
    evaluation.evaluate(workdir, FEW)
    assert {file.name for file in folder.iterdir()} == before | {"sample_8.svg"}


def test_evaluations_of_two_splits_do_not_overwrite_one_another(evaluated, tmp_path):
    workdir = pathlib.Path(shutil.copytree(evaluated[0], tmp_path / "run"))
    before = contents_of(workdir / "evaluation" / "valid")
    metrics = evaluation.evaluate(workdir, FEW._replace(prompt="bee"), split="test")
    folder = workdir / "evaluation"
    assert contents_of(folder / "valid") == before
    assert json.loads((folder / "test" / "metrics.json").read_text()) == metrics
    # The last one is what reports show, with its own samples and states.
    result = read_result(workdir)
    assert (result.evaluation, result.evaluation_folder) == (metrics, folder / "test")
    text = read_sample(result.evaluation_folder).text
    assert text and text.startswith("bee")
    result = read_result(workdir, "valid")
    assert result.evaluation == evaluated[1]
    assert result.evaluation_folder == folder / "valid"


def contents_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_evaluate_likelihood_equals_one_unroll_over_the_split(evaluated):
    workdir, metrics = evaluated
    run = load_run(workdir)
    content = pathlib.Path(run.experiment.config.data.path).read_text()
    num_test = len(content) * 5 // 100
    valid = content[:-num_test][-num_test:]
    stream = np.append(0, run.experiment.dataset.encoding.encode(valid)).astype(
        np.int32
    )
    logits = jax.jit(unroll_teacher_forced)(
        run.state.generator.params, jnp.asarray(stream[:-1, None])
    ).logits[:, 0]
    log_probs = jax.nn.log_softmax(logits)[np.arange(num_test), stream[1:]]
    nll = -float(np.mean(log_probs))
    assert metrics["num_characters"] == num_test
    assert metrics["num_unknown"] == 2
    assert metrics["nll"] == pytest.approx(nll, rel=1e-5)
    assert metrics["bits_per_char"] == pytest.approx(nll / np.log(2), rel=1e-5)


def test_evaluate_repeats_the_validation_of_training(evaluated):
    workdir, metrics = evaluated
    valid = [line for line in read_metrics(workdir) if line["split"] == "valid"]
    best = min(valid, key=lambda line: line["nll"])
    assert [line["step"] for line in valid] == [2, 4]
    for name in ("step", "nll", "discriminator_accuracy", "discriminator_loss"):
        assert metrics[name] == pytest.approx(best[name], rel=1e-5)


def test_evaluate_sums_up_the_gap(evaluated):
    workdir, metrics = evaluated
    run = load_run(workdir)
    gap = evaluation._hidden_gap(run, "valid")
    summary = metrics["hidden_gap"]
    assert summary["num_steps"] == len(gap.gap) > 10
    assert summary["within_training_length"] == pytest.approx(np.mean(gap.gap[:10]))
    assert summary["beyond_training_length"] == pytest.approx(np.mean(gap.gap[10:]))
    means = np.mean(gap.swapped[10:], axis=0)
    assert summary["beyond_training_length_floor"] == pytest.approx(
        np.quantile(means, 0.95)
    )


def test_evaluate_measures_without_flags(evaluated):
    workdir, metrics = evaluated
    # Of the kind of data first: see tests/test_by_kind.py.
    assert list(metrics["measures"])[-2:] == ["recovery_1", "recovery_5"]
    assert list(metrics["curves"])[-2:] == ["recovery", "hidden_gap"]
    for number in metrics["measures"].values():
        assert set(number) == set(Measurement._fields)
    curve = metrics["curves"]["hidden_gap"]
    summary = metrics["hidden_gap"]
    assert curve["steps"] == list(range(1, summary["num_steps"] + 1))
    assert np.mean(curve["values"][:10]) == pytest.approx(
        summary["within_training_length"]
    )
    # A floor of the mean is below the mean of the steps' floors.
    assert (
        0 < summary["beyond_training_length_floor"] < np.mean(curve["reference"][10:])
    )
    states = np.load(workdir / "evaluation" / "valid" / "states.npz")
    assert states["teacher_forced"].shape == states["free_running"].shape
    assert states["teacher_forced"].dtype == np.float32
    np.testing.assert_array_equal(np.unique(states["steps"]), [2, 4, 6, 8])


@pytest.mark.slow
def test_evaluate_with_a_judge_and_warns_that_it_is_the_run_itself(workdir, capsys):
    metrics = evaluation.evaluate(workdir, FEW, Measures(judge=workdir))
    output = capsys.readouterr()
    assert output.err.startswith("warning: --judge: the run judges itself")
    names = ["judge_within", "excess_error", "continuation", "forward_cross_entropy"]
    assert set(names) <= set(metrics["measures"])
    judge = load_run(workdir).state
    assert metrics["trained_step"] == 4
    assert metrics["judge"] == {
        "workdir": str(workdir),
        "step": int(judge.step),
        "digest": describe_judge(Measures(), judge)["digest"],
    }
    other = judge.generator.replace(params=random_like(judge.generator.params))
    described = describe_judge(Measures(), judge.replace(generator=other))
    assert described["digest"] != metrics["judge"]["digest"]
    # Its own distribution is the judge's.
    assert metrics["measures"]["excess_error"]["value"] == 0
    assert metrics["curves"]["forward_cross_entropy"]["steps"][0] == 0.7
    for number in metrics["measures"].values():
        assert f"{number['label']}: {number['value']:.4g}" in output.out
    assert (workdir / "evaluation" / "valid" / "judge.png").stat().st_size > 10_000


@pytest.mark.slow
def test_program_trains_critics_and_models_of_samples(workdir):
    done = program(f"--workdir={workdir}", "--critic", "--reverse")
    assert done.returncode == 0, done.stderr
    measures = json.loads((workdir / "evaluation" / "metrics.json").read_text())
    names = {"critic_behavior", "critic_values", "reverse_cross_entropy"}
    assert names <= set(measures["measures"])


def test_evaluate_writes_the_samples(evaluated):
    workdir, _ = evaluated
    run = load_run(workdir)
    texts = sample_text(
        run.state,
        run.experiment.dataset.encoding,
        run.experiment.key(Stream.SAMPLES),
        num_steps=FEW.sample_length,
        num_samples=FEW.num_samples,
    )
    page = (workdir / "evaluation" / "valid" / "samples.txt").read_text()
    assert [len(text) for text in texts] == [30, 30]
    assert page == (
        f"=== sample 1 of 2 ===\n{texts[0]}\n\n=== sample 2 of 2 ===\n{texts[1]}\n"
    )


def test_load_run_takes_the_checkpoint_asked_for(trained, monkeypatch):
    monkeypatch.setattr(Checkpoints, "steps_by_loss", lambda self: [2, 4])
    best, latest = (load_run(trained, name) for name in ("best", "latest"))
    assert (int(best.state.step), int(latest.state.step)) == (2, 4)
    assert not np.allclose(
        *(run.state.generator.params.readout.bias for run in (best, latest))
    )


def test_evaluate_without_a_discriminator_leaves_its_figures_out(workdir):
    edit_config(workdir, objective="teacher_forcing")
    (workdir / "evaluation" / "test").mkdir(parents=True)
    (workdir / "evaluation" / "test" / "gate.png").touch()  # Of an earlier evaluation.
    metrics = evaluation.evaluate(workdir, FEW, split="test")
    assert not any("discriminator" in name for name in metrics)
    assert (metrics["split"], metrics["num_unknown"]) == ("test", 0)
    assert metrics["trained_step"] == 4
    files = {file.name for file in (workdir / "evaluation" / "test").iterdir()}
    assert files == {"metrics.json", "samples.txt", "states.npz"} | PICTURES - {
        "gate.png"
    }


def program(*arguments):
    # One device, where training had eight.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, ROOT / "evaluate.py", *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )


@pytest.mark.slow
def test_program_prints_figures_and_a_sample_and_warns_of_the_prompt(
    workdir, evaluated
):
    done = program(
        f"--workdir={workdir}",
        "--num_samples=1",
        "--sample_length=30",
        "--temperature=0",
        "--prompt=aQbQ",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        "warning: --prompt: 2 characters unseen in training are read as one unknown "
        "symbol: 'Q'\n"
    )
    metrics = json.loads((workdir / "evaluation" / "metrics.json").read_text())
    assert metrics["nll"] == pytest.approx(evaluated[1]["nll"], rel=1e-5)
    assert metrics["sampling"]["prompt"] == "aQbQ"
    assert f"{metrics['bits_per_char']:.4f} bits per character" in done.stdout
    assert "sample: 'aQbQ" in done.stdout
    assert (workdir / "evaluation" / "valid" / "samples.txt").read_text().count(
        "aQbQ"
    ) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: --workdir is missing: give --workdir=VALUE\n"),
        (
            ["--workdir=x", "--split=train"],
            "error: --split=train: value should be one of <valid|test>\n",
        ),
    ],
)
def test_program_ends_with_one_line(arguments, message):
    done = program(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


def error_of(workdir, sampling=FEW, measures=measuring.Measures()):
    before = sorted(workdir.rglob("*"))
    with pytest.raises(UserError) as caught:
        evaluation.evaluate(workdir, sampling, measures)
    assert sorted(workdir.rglob("*")) == before
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(num_samples=0), "--num_samples=0: must be at least 1"),
        (Sampling(sample_length=-2), "--sample_length=-2: must be at least 1"),
        (
            Sampling(bias=-1.0),
            "--bias=-1.0: must be a finite number, at least 0",
        ),
        (
            Sampling(bias=0.5),
            "--bias=0.5: is for pen strokes, and this run's data is characters: leave "
            "it out, or lower --temperature",
        ),
        *(
            (
                Sampling(temperature=value),
                f"--temperature={value}: must be a finite number, at least 0",
            )
            for value in (-0.5, float("inf"), float("nan"))
        ),
    ],
)
def test_evaluate_refuses_sampling_out_of_range(trained, sampling, message):
    assert error_of(trained, sampling) == message


def test_evaluate_refuses_a_folder_that_is_not_there(tmp_path):
    assert "nowhere: no such folder" in error_of(tmp_path / "nowhere")


def test_evaluate_refuses_a_folder_without_a_run(tmp_path):
    assert "no run here (no config.json)" in error_of(tmp_path)


def test_evaluate_refuses_a_run_without_a_checkpoint(workdir):
    shutil.rmtree(workdir / "checkpoints")
    assert "no checkpoint here yet: run train.py" in error_of(workdir)
    (workdir / "checkpoints").mkdir()
    assert "no checkpoint here yet: run train.py" in error_of(workdir)


def test_evaluate_refuses_a_run_without_metrics(workdir):
    (workdir / "metrics.jsonl").unlink()
    assert "cannot read metrics.jsonl" in error_of(workdir)


def test_program_refuses_a_config_of_another_model(workdir):
    config = json.loads((workdir / "config.json").read_text())
    edit_config(workdir, generator=config["generator"] | {"hidden_size": 9})
    done = program(f"--workdir={workdir}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "does not fit this model" in done.stderr
    assert not (workdir / "evaluation").exists()


def test_evaluate_refuses_data_that_is_gone(workdir):
    config = json.loads((workdir / "config.json").read_text())
    edit_config(workdir, data=config["data"] | {"path": "gone.txt"})
    assert error_of(workdir) == (
        "data.path=gone.txt: no such file or folder; where it lies elsewhere now, "
        "evaluate.py takes --data_path=PATH, and sample.py needs no data"
    )
    with pytest.raises(UserError) as error:
        evaluation.evaluate(workdir, FEW, data_path="elsewhere.txt")
    assert str(error.value) == "data.path=elsewhere.txt: no such file or folder"


def test_evaluate_reads_data_that_has_moved(evaluated, workdir, tmp_path):
    config = json.loads((workdir / "config.json").read_text())
    moved = shutil.copy(config["data"]["path"], tmp_path / "moved.txt")
    edit_config(workdir, data=config["data"] | {"path": "gone.txt"})
    metrics = evaluation.evaluate(workdir, FEW, data_path=str(moved))
    assert metrics["nll"] == evaluated[1]["nll"]
    assert json.loads((workdir / "config.json").read_text())["data"]["path"] == (
        "gone.txt"
    )


def test_evaluate_refuses_a_folder_it_cannot_write_to(workdir):
    (workdir / "evaluation").touch()
    assert "cannot write there" in error_of(workdir)


def test_evaluate_refuses_a_judge_without_a_run(trained, tmp_path):
    message = error_of(trained, measures=Measures(judge=tmp_path))
    assert message.startswith("--judge: ") and "no run here" in message


@pytest.mark.parametrize(
    ("encoding", "reason"),
    [
        (
            Vocabulary.from_text("xyz"),
            "its data is characters, encoded in another alphabet, scale or size",
        ),
        (Pixels(2, 2), "its data is pixels, not characters"),
    ],
)
def test_evaluate_refuses_a_judge_of_other_data(trained, monkeypatch, encoding, reason):
    def other_model(path):
        model, state = load_model(trained)
        return Restored(dataclasses.replace(model, encoding=encoding), state)

    monkeypatch.setattr(measuring, "load_model", other_model)
    message = error_of(trained, measures=Measures(judge=pathlib.Path("other")))
    assert message == f"--judge=other: {reason}: give a run on the data of this one"


def test_strict_json_has_null_for_what_json_does_not_have():
    numbers = Measured(
        {"a": Measurement("A", float("nan"), float("inf"))},
        {"b": Curve("B", np.arange(2), np.array([1.0, np.nan]))},
    )
    content = {name: x.to_json() for part in numbers for name, x in part.items()}
    strict = measuring.strict_json(content)
    assert strict["a"]["value"] is None and strict["a"]["reference"] is None
    assert strict["b"]["values"] == [1.0, None] and strict["b"]["steps"] == [0, 1]


def test_likelihood_that_no_float_holds_is_told_and_is_null_in_the_file(
    workdir, monkeypatch, capsys
):
    # As of a series whose test split has a value of 1e30.
    monkeypatch.setattr(evaluation, "validate", lambda *_: {"nll": float("inf")})
    evaluation.evaluate(workdir, FEW)
    told = capsys.readouterr().out
    assert "step 4, valid: inf bits per character (inf nats) over " in told
    content = (workdir / "evaluation" / "metrics.json").read_text()
    assert json.loads(content)["nll"] is None


def test_report_line_has_what_is_known():
    line = measuring.report_line
    assert line(Measurement("steps", 3.0)) == "steps: 3"
    full = Measurement("J, nats", 0.5, -0.125, interval=(0.25, 0.75))
    assert line(full) == ("J, nats: 0.5 (reference -0.125, 95 % interval 0.25 to 0.75)")


def test_evaluation_that_was_changed_is_reported(evaluated, tmp_path, capsys):
    workdir = pathlib.Path(shutil.copytree(evaluated[0], tmp_path / "run"))
    path = workdir / "evaluation" / "metrics.json"
    assert read_result(workdir).evaluation == evaluated[1]
    assert capsys.readouterr().err == ""
    path.write_text(json.dumps(evaluated[1] | {"nll": evaluated[1]["nll"] + 1e-9}))
    read_result(workdir)
    assert capsys.readouterr().err == (
        f"warning: {path}: edited or damaged: run evaluate.py again\n"
    )


def test_load_run_reads_on_where_a_training_removes_a_checkpoint(trained, monkeypatch):
    steps_by_loss, listed = Checkpoints.steps_by_loss, []

    def with_a_removed_one(self):
        steps = steps_by_loss(self)
        listed.append(steps)
        return [3, *steps] if len(listed) < 2 else steps

    monkeypatch.setattr(Checkpoints, "steps_by_loss", with_a_removed_one)
    assert int(load_run(trained).state.step) == 4
    assert len(listed) == 2  # Once, and once more.
    listed[:] = []
    monkeypatch.setattr(
        Checkpoints, "steps_by_loss", lambda self: [3, *steps_by_loss(self)]
    )
    with pytest.raises(RemovedError, match="step 3 was removed while it was read"):
        load_run(trained)
