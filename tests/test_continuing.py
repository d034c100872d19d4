"""Continuing a run from its folder, and starting a new one from a trained model."""

import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from absl import app, flags
from absl.testing import flagsaver
from errors import error_of
from test_whole_runs import CACHE, ROOT, contents
from trees import assert_same_bits, random_like
from whole_runs import copy_of, leaves_of, small_config, write_text

from configs import default
from pf_jax.data import encoding_to_json, load_encoding, save_encoding
from pf_jax.experiment import command_line, loop
from pf_jax.experiment.build import create_state, load_experiment
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.config_history import (
    HISTORY,
    Change,
    keep_history,
    keep_source,
    kept_source,
    read_history,
)
from pf_jax.experiment.first_state import new_start
from pf_jax.experiment.loop import train_and_evaluate
from pf_jax.experiment.run_config import run_config
from pf_jax.experiment.runs import load_model, load_run
from pf_jax.experiment.saved_config import read_config, write_config
from pf_jax.experiment.saved_files import checked_config, trained_config
from pf_jax.players import create_player

pytestmark = pytest.mark.usefixtures("compiled_programs_are_kept")

DONE = {"train__num_steps": 6}


def write_model(workdir, config, optimizer=None):
    """A run with random weights, whose optimizer may be another than the config's."""
    experiment = load_experiment(config)
    # Without signs: an optimizer's second moments have none.
    state = jax.tree.map(jax.numpy.abs, random_like(create_state(experiment)))
    state = state.replace(step=jax.numpy.asarray(6, jax.numpy.int32))
    if optimizer is not None:
        player = create_player(state.generator.params, optimizer)
        state = state.replace(generator=player)
    workdir.mkdir()
    write_config(config, workdir)
    encoding = encoding_to_json(experiment.encoding)
    save_encoding(experiment.encoding, workdir / "encoding.json")
    (workdir / "metrics.jsonl").write_text("")
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(state, encoding, 1.0, settings=config.to_dict())
    checkpoints.close()
    return state


def to_objects(drawings):
    """Drawings as the arrays of a sketch-rnn file hold them."""
    array = np.empty(len(drawings), object)
    array[:] = drawings
    return array


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "words.txt")


@pytest.fixture(scope="module")
def base(text, tmp_path_factory):
    """The state and the workdir of a finished run of six updates, never written to."""
    workdir = tmp_path_factory.mktemp("base") / "run"
    return write_model(workdir, small_config(text, **DONE)), workdir


@pytest.fixture
def untrained(monkeypatch):
    """Leaves the updates out: what comes before them is tested."""
    monkeypatch.setattr(loop, "_train", lambda start, *others: start.state)


@pytest.fixture
def workdir(base, tmp_path):
    return copy_of(base[1], tmp_path)


# Changes


@pytest.mark.usefixtures("untrained")
def test_changes_of_a_continued_run_are_told_and_kept(text, workdir, capsys):
    fields = {"train__num_steps": 9, "train__batch_size": 16, "seed": 5}
    train_and_evaluate(small_config(text, **fields), workdir)
    output = capsys.readouterr().out
    assert f"{workdir}: continues from step 6\n" in output
    for line in (
        "seed: 0 in the run, 5 from now on",
        "train.num_steps: 6 in the run, 9 from now on",
        "train.batch_size: 8 in the run, 16 from now on",
    ):
        assert f"{line}\n" in output
    assert output.count("from now on") == 3
    changes = {
        "seed": {"before": 0, "after": 5},
        "train.num_steps": {"before": 6, "after": 9},
        "train.batch_size": {"before": 8, "after": 16},
    }
    assert read_history(workdir) == [{"step": 6, "changes": changes}]
    assert read_config(workdir).seed == 5


@pytest.mark.slow
def test_clipping_turned_on_goes_on_and_the_next_change_is_about_the_run_by_now(
    text, workdir, capsys
):
    fields = {"train__num_steps": 7, "train__max_gradient_norm": 1.0}
    state = train_and_evaluate(small_config(text, **fields), workdir)
    # Clipping is no other optimizer: its state goes on.
    assert int(state.step) == 7
    fields["train__num_steps"] = 8
    train_and_evaluate(small_config(text, **fields), workdir)
    assert capsys.readouterr().out.count("from now on") == 2 + 1
    history = [(line["step"], len(line["changes"])) for line in read_history(workdir)]
    assert history == [(6, 2), (7, 1)]


def test_finished_run_says_how_to_go_on_and_changes_nothing(
    base, text, workdir, capsys
):
    before = contents(workdir)
    config = small_config(text, **DONE, train__learning_rate=0.5)
    state = train_and_evaluate(config, workdir)
    assert leaves_of(state) == leaves_of(base[0])
    message = (
        f"{workdir}: nothing left to do: 6 updates are done, and train.num_steps is 6: "
        "give --config.train.num_steps=12 to go on\n"
    )
    assert message in capsys.readouterr().out
    assert contents(workdir) == before
    assert not (workdir / HISTORY).exists()


def test_finished_run_loses_lines_of_updates_that_it_does_not_have(
    text, workdir, capsys
):
    path = workdir / "metrics.jsonl"
    before = path.read_text()
    # As of a run that was killed later, and goes on to this step alone.
    path.write_text(before + '{"step": 9, "split": "train", "nll": 1.0}\n')
    train_and_evaluate(small_config(text, **DONE), workdir)
    assert "nothing left to do: 6 updates" in capsys.readouterr().out
    assert path.read_text() == before


def test_keep_history_drops_what_was_lost(tmp_path):
    change = Change("train.batch_size", 8, 16)
    keep_history(tmp_path, 4, [change], {"train.batch_size": 8})
    # Killed at once, and asked for again: once in the file.
    keep_history(tmp_path, 4, [change], {"train.batch_size": 8})
    assert [line["step"] for line in read_history(tmp_path)] == [4]
    keep_history(tmp_path, 9, [Change("seed", 0, 1)], {"train.batch_size": 16})
    assert [line["step"] for line in read_history(tmp_path)] == [4, 9]
    # From an older checkpoint than that of step 9, with what changed at 4.
    keep_history(tmp_path, 6, [], {"train.batch_size": 16, "seed": 0})
    assert [line["step"] for line in read_history(tmp_path)] == [4]
    # A change at a step whose checkpoint was saved with it stays.
    keep_history(tmp_path, 4, [], {"train.batch_size": 16, "seed": 0})
    assert [line["step"] for line in read_history(tmp_path)] == [4]
    with (tmp_path / HISTORY).open("a") as file:
        file.write('{"step": 5, "chan')
    assert [line["step"] for line in read_history(tmp_path)] == [4]


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 4, "chan',
        '{"step": 4, "changes": 5}',
        '{"step": 4, "changes": {"seed": 5}}',
        '{"step": 4, "changes": {"seed": {"before": 0}}}',
        '{"step": true, "changes": {}}',
        '{"step": 0, "init_from": 5}',
        "5",
        "[" * 100_000,
    ],
)
def test_read_history_leaves_damaged_lines_out(tmp_path, line):
    whole = {"step": 2, "changes": {"seed": {"before": 0, "after": 1}}}
    (tmp_path / HISTORY).write_text(f"{line}\n{json.dumps(whole)}\n")
    assert read_history(tmp_path) == [whole]
    assert kept_source(tmp_path) is None
    keep_history(tmp_path, 4, [], {"seed": 1})
    assert read_history(tmp_path) == [whole]


@pytest.mark.usefixtures("untrained")
def test_changes_survive_a_stop_before_the_next_checkpoint(text, workdir, capsys):
    fields = {"train__num_steps": 9, "train__learning_rate": 0.5}
    train_and_evaluate(small_config(text, **fields), workdir)
    lines = capsys.readouterr().out.splitlines()
    # Nothing was saved. The run's own config has what was typed, without a warning.
    config = run_config((str(workdir),), default.get_config())
    assert config is not None
    assert (config.train.num_steps, config.train.learning_rate) == (9, 0.5)
    assert checked_config(workdir).train.num_steps == 9
    assert trained_config(workdir).train.num_steps == 6
    train_and_evaluate(config, workdir)
    output = capsys.readouterr()
    assert output.out.splitlines() == lines
    assert "warning" not in output.out + output.err
    assert len(read_history(workdir)) == 1


@pytest.mark.usefixtures("untrained")
def test_change_that_is_not_recorded_is_still_told(text, workdir, capsys):
    train_and_evaluate(small_config(text, train__num_steps=9), workdir)
    capsys.readouterr()
    config = read_config(workdir)
    config.train.num_steps = 99
    write_config(config, workdir)
    checked_config(workdir)
    path = workdir / "config.json"
    assert f"{path}: train.num_steps is 99 there and 6 in checkpoint 6: " in (
        capsys.readouterr().err
    )
    config = run_config((str(workdir),), default.get_config())
    assert config is not None and config.train.num_steps == 6


@pytest.mark.usefixtures("untrained")
def test_rows_start_anew_with_another_file(text, tmp_path, capsys):
    workdir, fields = tmp_path / "run", {"train__carry": "passed_on"}
    trained = write_model(workdir, small_config(text, **DONE, **fields))
    fields["train__num_steps"] = 9
    state = train_and_evaluate(small_config(text, **fields), workdir)
    assert "starts anew" not in capsys.readouterr().out
    assert_same_bits(state.carry, trained.carry)
    other = write_text(tmp_path / "other.txt")
    state = train_and_evaluate(small_config(other, **fields), workdir)
    told = "data.path: changed, so every row starts anew with a zero carry\n"
    assert told in capsys.readouterr().out
    assert all(not leaf.any() for leaf in jax.tree.leaves(state.carry))


@pytest.mark.usefixtures("untrained")
def test_rows_go_on_from_the_checkpoint_that_is_whole(text, tmp_path, capsys):
    workdir = tmp_path / "run"
    fields = {"train__carry": "passed_on", "train__num_steps": 12}
    state = write_model(workdir, small_config(text, **fields))
    newest = state.replace(step=jax.numpy.asarray(9, jax.numpy.int32))
    changed = small_config(text, seed=1, **fields)
    checkpoints = Checkpoints(workdir / "checkpoints")
    encoding = checkpoints.restore_encoding(6)
    checkpoints.save(newest, encoding, 1.0, settings=changed.to_dict())
    checkpoints.close()
    shutil.rmtree(workdir / "checkpoints" / "9" / "state")
    state = train_and_evaluate(changed, workdir)
    told = capsys.readouterr().out
    assert "continues from step 6" in told
    assert "seed: changed, so every row starts anew with a zero carry\n" in told
    assert all(not leaf.any() for leaf in jax.tree.leaves(state.carry))


@pytest.mark.usefixtures("untrained")
def test_run_without_its_config_goes_on_with_that_of_its_checkpoint(
    text, workdir, capsys
):
    (workdir / "config.json").unlink()
    config = run_config((str(workdir),), default.get_config())
    assert config is not None and "missing" not in capsys.readouterr().err
    assert config.generator.hidden_size == small_config(text).generator.hidden_size
    train_and_evaluate(config, workdir)
    assert "config.json: missing: it is written anew\n" in capsys.readouterr().err
    assert read_config(workdir).to_dict() == config.to_dict()


@pytest.mark.usefixtures("untrained")
def test_field_that_nothing_reads_is_left_out_of_a_run_that_had_it(
    text, workdir, capsys
):
    checkpoints = Checkpoints(workdir / "checkpoints")
    digests, state = checkpoints.digests(6), load_run(workdir).state
    assert digests is not None
    settings = json.loads(json.dumps(digests.settings))
    settings["train"]["note"] = settings["mark"] = "x"
    encoding = checkpoints.restore_encoding(6)
    state = create_state(load_experiment(small_config(text)))
    state = state.replace(step=jax.numpy.asarray(9, jax.numpy.int32))
    checkpoints.save(state, encoding, 1.0, settings=settings)
    checkpoints.close()
    (workdir / "config.json").write_text(json.dumps(settings))
    capsys.readouterr()
    assert "note" not in checked_config(workdir).train
    config = run_config((str(workdir),), default.get_config())
    assert config is not None and "mark" not in config
    train_and_evaluate(config, workdir)
    assert "config.json" not in capsys.readouterr().err
    assert "note" not in (workdir / "config.json").read_text()


@pytest.mark.usefixtures("untrained")
def test_change_is_known_where_the_newest_checkpoint_is_damaged(text, workdir, capsys):
    checkpoints = Checkpoints(workdir / "checkpoints")
    newest, _ = load_model(workdir, "latest")[1], capsys.readouterr()
    digests = checkpoints.digests(6)
    assert digests is not None
    nine = newest.replace(step=jax.numpy.asarray(9, jax.numpy.int32))
    encoding = checkpoints.restore_encoding(6)
    checkpoints.save(nine, encoding, 1.0, settings=digests.settings)
    checkpoints.close()
    shutil.rmtree(workdir / "checkpoints" / "9" / "state")
    train_and_evaluate(small_config(text, train__num_steps=12), workdir)
    capsys.readouterr()
    assert checked_config(workdir).train.num_steps == 12
    assert "config.json" not in capsys.readouterr().err


@pytest.mark.usefixtures("untrained")
def test_trace_before_the_step_that_a_run_continues_from_is_an_error(text, workdir):
    before = contents(workdir)
    fields = {"train__num_steps": 9, "train__profile": (5, 8)}
    assert error_of(train_and_evaluate, small_config(text, **fields), workdir) == (
        "train.profile=5,8: the run continues from step 6, and a trace must start there or "
        "later: set train.profile=6,9, or leave it out"
    )
    after = contents(workdir)
    assert {path: after[path] for path in before} == before
    fields["train__profile"] = (6, 8)
    train_and_evaluate(small_config(text, **fields), workdir)


@pytest.mark.usefixtures("untrained")
def test_trace_of_the_run_so_far_does_not_stop_it(text, tmp_path):
    workdir, fields = tmp_path / "run", {"train__profile": (2, 4)}
    write_model(workdir, small_config(text, **DONE, **fields))
    train_and_evaluate(small_config(text, train__num_steps=9, **fields), workdir)


# The config of a folder


def parsed(*arguments):
    """The config that `train.py` sees."""
    seen = []
    app.define_help_flags()
    with flagsaver.flagsaver():
        command_line.run(
            lambda: seen.append((flags.FLAGS.config, command_line.config_name())),
            ["train.py", *arguments],
            default_config=str(ROOT / "configs" / "default.py"),
            own_config=lambda typed: run_config(
                (typed("folder"), typed("other_folder")), default.get_config()
            ),
        )
    return seen[0]


@pytest.fixture(scope="module", autouse=True)
def folder_flags():
    with flagsaver.flagsaver():
        flags.DEFINE_string("folder", None, "A folder.")
        flags.DEFINE_string("other_folder", None, "Another folder.")
        yield


def test_folder_of_a_run_gives_the_config_and_flags_change_it(text, tmp_path):
    write_config(small_config(text, seed=7), tmp_path)
    config, name = parsed(
        f"--folder={tmp_path}",
        "--config.train.num_steps=99",
        "--config.discriminator.learning_rate=0.5",
        "--config.behavior.fields=hidden",
        "--config.objective",
        "scheduled_sampling",
        "--config.scheduled_sampling.floor=0.25",
    )
    assert (config.seed, config.generator.hidden_size) == (7, 8)
    assert config.train.num_steps == 99 and config.discriminator.learning_rate == 0.5
    assert config.behavior.fields == ("hidden",)
    assert config.scheduled_sampling.floor == 0.25
    assert (config.is_locked, name) == (True, "default")
    # Another run counts only where the first folder holds none.
    empty = tmp_path / "empty"
    assert parsed("--folder", f"{empty}", f"--other_folder={tmp_path}")[0].seed == 7
    assert parsed("--folder", f"{empty}")[0].seed == 0


def test_config_that_is_given_is_used_in_a_folder_of_a_run(text, tmp_path):
    write_config(small_config(text, seed=7), tmp_path)
    path = ROOT / "configs" / "lorenz.py"
    config, name = parsed(f"--config={path}", f"--folder={tmp_path}")
    assert (config.data.name, config.seed, name) == ("lorenz63", 0, "lorenz")


def test_older_run_gets_the_fields_that_it_lacks(text, tmp_path):
    config = small_config(text, seed=7).to_dict()
    del config["scheduled_sampling"], config["train"]["warmup_steps"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    config, _ = parsed(f"--folder={tmp_path}", "--config.scheduled_sampling.floor=0.5")
    assert (config.seed, config.train.warmup_steps) == (7, 0)
    assert config.scheduled_sampling.floor == 0.5


def test_unknown_field_in_a_folder_of_a_run_is_one_line(text, tmp_path, capsys):
    write_config(small_config(text), tmp_path)
    with pytest.raises(SystemExit):
        parsed(f"--folder={tmp_path}", "--config.train.num_step=3")
    assert capsys.readouterr().err == (
        "error: unknown field --config.train.num_step: did you mean "
        "--config.train.num_steps?\n"
    )


# A trained model


@pytest.mark.usefixtures("untrained")
def test_new_run_starts_from_a_trained_model_and_again_before_its_first_checkpoint(
    base, text, tmp_path, capsys
):
    workdir, config = tmp_path / "new", small_config(text, seed=3)
    first = train_and_evaluate(config, workdir, init_from=base[1])
    source = f"starts from {base[1]}, step 6: the generator with its optimizer's state"
    assert f"{source}\n" in capsys.readouterr().out
    assert_same_bits(first.generator, base[0].generator)
    history = [{"step": 0, "init_from": str(base[1]), "init_step": 6}]
    assert read_history(workdir) == history
    again = train_and_evaluate(config, workdir)
    assert source in capsys.readouterr().out
    assert_same_bits(again.generator, base[0].generator)
    assert read_history(workdir) == history
    keep_source(workdir, tmp_path / "gone", 6)
    message = error_of(train_and_evaluate, config, workdir)
    assert message.startswith(f"--init_from: {tmp_path / 'gone'}: no such folder")
    assert message.endswith(
        f"; {workdir} was started with it before: use another --workdir to start without"
    )


@pytest.mark.usefixtures("untrained")
def test_source_is_found_from_another_folder(base, text, tmp_path, monkeypatch):
    monkeypatch.chdir(base[1].parent)
    config = small_config(text, seed=3)
    train_and_evaluate(config, tmp_path / "new", init_from=base[1].name)
    assert kept_source(tmp_path / "new") == base[1]


def test_source_is_not_read_where_the_workdir_holds_a_run(
    base, text, workdir, tmp_path, capsys
):
    gone = tmp_path / "gone"
    state = train_and_evaluate(small_config(text, **DONE), workdir, init_from=gone)
    assert_same_bits(state.generator, base[0].generator)
    message = f"--init_from={gone}: not read: {workdir} holds a run by now\n"
    assert message in capsys.readouterr().out


def test_new_start_takes_the_parameters_and_where_they_fit_the_optimizer(base, text):
    start = new_start(small_config(text), base[1])
    assert int(start.state.step) == 0
    assert_same_bits(start.state.generator, base[0].generator)
    # A schedule counts the player's updates, and starts anew.
    start = new_start(small_config(text, train__schedule="cosine"), base[1])
    assert_same_bits(start.state.generator.params, base[0].generator.params)
    assert optax.tree.get(start.state.generator.optimizer_state, "count") == 0


def test_new_start_reads_other_text_in_the_alphabet_of_the_model(
    base, tmp_path, capsys
):
    other = tmp_path / "other.txt"
    other.write_text("abc xyz\n" * 600)
    start = new_start(small_config(other), base[1])
    encoding = load_encoding(base[1] / "encoding.json")
    assert start.experiment.encoding == encoding
    assert "x" not in encoding.symbols and start.experiment.dataset.unknown["train"]
    output = capsys.readouterr().out
    assert f"values mean what they mean in {base[1]}, {encoding.size} symbols" in output


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"generator__hidden_size": 9},
            "generator.hidden_size is 8 there and 9 here: give "
            "--config.generator.hidden_size=8",
        ),
        (
            {"data__name": "digits", "data__path": ""},
            "its model is of characters, {size} symbols, and data.name=digits are pixels: "
            "give data like that of the model",
        ),
    ],
)
def test_new_start_error_for_a_model_that_does_not_fit(base, text, fields, message):
    size = load_encoding(base[1] / "encoding.json").size
    expected = f"--init_from={base[1]}: {message.format(size=size)}"
    assert error_of(new_start, small_config(text, **fields), base[1]) == expected


def test_new_start_error_for_a_field_that_the_models_encoding_settles(base, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("abc xyz\n" * 600)
    config = small_config(other, data__min_count=2)
    assert error_of(new_start, config, base[1]) == (
        f"--init_from={base[1]}: data.min_count is 1 there and 2 here, and the new run "
        "keeps that run's encoding: give --config.data.min_count=1"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pen_states": 2}, "data.pen_states is 3 there and 2 here"),
        ({"pen_states": 3, "max_offset": 5.0}, "data.max_offset is 10.0 there and 5.0"),
        ({"pen_states": 3}, None),
    ],
)
def test_new_start_of_drawings_keeps_the_states_of_the_pen(tmp_path, fields, message):
    def config_of(name, **fields):
        drawings = np.random.default_rng(len(name)).integers(-9, 9, (4, 60, 3))
        drawings[..., 2] %= 2
        path, parts = tmp_path / f"{name}.npz", iter(drawings.astype(np.int16))
        np.savez(
            path, **{s: to_objects([next(parts)]) for s in ("train", "valid", "test")}
        )
        others = {f"data__{name}": value for name, value in fields.items()}
        return small_config(path, data__name="sketch_rnn", **others)

    run = tmp_path / "run"
    write_model(run, config_of("first", pen_states=3))
    config = config_of("another", **fields)
    if message is None:
        assert new_start(config, run).experiment.encoding.pen_states == 3
    else:
        assert error_of(new_start, config, run).startswith(
            f"--init_from={run}: {message}"
        )


def test_new_start_error_for_a_folder_without_a_run(text, tmp_path):
    message = error_of(new_start, small_config(text), tmp_path)
    assert message.startswith(f"--init_from: {tmp_path}: no run here")


def test_new_start_takes_a_discriminator_that_fits(text, tmp_path):
    small = {
        "objective": "professor_forcing",
        "discriminator__hidden_size": 3,
        "discriminator__mlp_size": 3,
        "train__update": "separate",
    }
    config = small_config(text, **small)
    trained = write_model(tmp_path / "run", config)
    state = new_start(config, tmp_path / "run").state
    assert_same_bits(state.discriminator, trained.discriminator)
    assert float(state.accuracy_average) == float(trained.accuracy_average)
    for changed in ({"discriminator__mlp_size": 4}, {"behavior__fields": ("hidden",)}):
        config = small_config(text, **{**small, **changed})
        state = new_start(config, tmp_path / "run").state
        assert_same_bits(state.generator.params, trained.generator.params)
        assert optax.tree.get(state.discriminator.optimizer_state, "count") == 0


def test_state_of_another_optimizer_is_told_and_its_parameters_are_of_use(
    text, tmp_path
):
    workdir, config = tmp_path / "run", small_config(text)
    trained = write_model(workdir, config, optax.sgd(0.1, momentum=0.9))
    assert error_of(train_and_evaluate, config, workdir) == (
        f"{workdir}/checkpoints: the checkpoint of step 6 has the state of another "
        "optimizer: go on with the optimizer it was trained with, or start a new run from "
        "its parameters, with train.py --init_from"
    )
    for state in (load_run(workdir).state, load_model(workdir).state):
        assert_same_bits(state.generator.params, trained.generator.params)
    state = new_start(config, workdir).state
    assert_same_bits(state.generator.params, trained.generator.params)
    assert optax.tree.get(state.generator.optimizer_state, "count") == 0


# The program


@pytest.mark.slow
def test_program_goes_on_from_a_folder_alone(workdir, tmp_path):
    def train(*arguments):
        return subprocess.run(
            [sys.executable, ROOT / "train.py", *arguments],
            env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | CACHE,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    done = train(f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert f"{workdir}: nothing left to do: 6 updates are done" in done.stdout
    done = train("--workdir", str(workdir), "--config.train.num_steps=7")
    assert done.returncode == 0, done.stderr
    assert "train.num_steps: 6 in the run, 7 from now on" in done.stdout
    assert read_history(workdir)[0]["step"] == 6
    done = train(f"--init_from={workdir}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: --init_from={workdir}: needs a folder for the new run: give "
        "--workdir=FOLDER\n"
    )
