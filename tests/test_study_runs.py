"""Whole studies, in processes of their own."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from errors import error_of

from configs import default
from pf_jax.experiment.signals import stop_requests
from pf_jax.study.conduct import run_study
from pf_jax.study.plan import Study, make_variants
from pf_jax.study.workers import run_side_by_side

ROOT = pathlib.Path(__file__).parent.parent
VARIANTS = ("teacher_forcing", "professor_forcing")
SMALL = {
    "data.name": "text",
    "generator.hidden_size": 8,
    "generator.embedding_size": 4,
    "discriminator.hidden_size": 4,
    "discriminator.mlp_size": 4,
    "gate.generator_lower": 0.1,
    "train.num_steps": 24,
    "train.batch_size": 8,
    "train.sequence_length": 10,
    "train.updates_per_dispatch": 2,
    "train.log_every": 4,
    "train.eval_every": 12,
    "train.checkpoint_every": 4,
    "evaluation.num_streams": 4,
    "evaluation.context": 10,
    "evaluation.sample_length": 10,
}


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    source = random.Random(0)
    words = ["".join(source.choices("abcdefgh", k=4)) for _ in range(30)]
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(" ".join(source.choices(words, k=4000)))
    return path


@pytest.fixture
def config(text_file):
    config = default.get_config()
    config.update_from_flattened_dict({**SMALL, "data.path": str(text_file)})
    return config


def wait_until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def start(folder, text_file, *arguments):
    fields = {**SMALL, "data.path": str(text_file)}
    command = [
        sys.executable,
        str(ROOT / "study.py"),
        f"--workdir={folder}",
        "--seeds=2",
        "--vary=objective=" + ",".join(VARIANTS),
        "--nocritic",
        "--noequal_seconds",
        "--judge=none",
        "--jobs=2",
        *(f"--config.{name}={value}" for name, value in fields.items()),
        *arguments,
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def num_finished(folder):
    try:
        runs = json.loads((folder / "study.json").read_text())["runs"]
    except (OSError, ValueError):
        return 0
    return sum(map(len, runs.values()))


def without_times(content):
    """A JSON value without what no two runs share."""
    if isinstance(content, dict):
        left_out = {"seconds", "steps_per_second", "command"}
        return {k: without_times(v) for k, v in content.items() if k not in left_out}
    if isinstance(content, list):
        return [without_times(entry) for entry in content]
    return content


def figures_of(folder):
    """All numbers of a study: its own, of its evaluations, and of all validations.

    Lines of training are left out: a stop between two of them adds one.
    """
    figures = {"study": json.loads((folder / "study.json").read_text())}
    for variant in VARIANTS:
        for seed in range(2):
            workdir = folder / variant / f"seed_{seed}"
            evaluation = workdir / "evaluation" / "metrics.json"
            lines = (workdir / "metrics.jsonl").read_text().splitlines()
            figures[f"{variant} {seed}"] = json.loads(evaluation.read_text())
            logged = [json.loads(line) for line in lines]
            figures[f"{variant} {seed} log"] = [
                line for line in logged if line["split"] == "valid"
            ]
    return without_times(figures)


def is_alive(session):
    """Whether any process of a session is alive."""
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_study_killed_twice_and_continued_equals_an_uninterrupted_one(
    tmp_path, text_file
):
    whole = start(tmp_path / "whole", text_file)
    out, err = whole.communicate(timeout=900)
    assert whole.returncode == 0, err
    assert "with 2 seeds the sign-flip test cannot give p < 0.05" in err
    assert (tmp_path / "whole" / "report.html").stat().st_size > 10_000

    folder = tmp_path / "killed"
    killed = start(folder, text_file)
    wait_until(lambda: num_finished(folder) >= 1)
    killed.kill()
    killed.communicate()
    # Its processes end by themselves, and do not train on beside the next ones.
    wait_until(lambda: not is_alive(killed.pid), 30)

    # With two at a time, more than one may have finished before the kill.
    finished = num_finished(folder)
    stopped = start(folder, text_file)
    wait_until(lambda: num_finished(folder) > finished)
    stopped.send_signal(signal.SIGTERM)
    out, err = stopped.communicate(timeout=60)
    if num_finished(folder) < 4:
        assert stopped.returncode == 130, err
        assert "Traceback" not in err
    wait_until(lambda: not is_alive(stopped.pid), 30)

    last = start(folder, text_file)
    out, err = last.communicate(timeout=900)
    assert last.returncode == 0, err
    assert figures_of(folder) == figures_of(tmp_path / "whole")
    # Finished runs are skipped, and nothing changes.
    before = (folder / "study.json").read_bytes()
    again = start(folder, text_file)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert "bits per character" not in out
    assert (folder / "study.json").read_bytes() == before


@pytest.mark.slow
def test_study_with_seeds_trained_together_equals_one_without(tmp_path, text_file):
    flags = {"alone": (), "together": ("--together", "--jobs=1")}
    for name, arguments in flags.items():
        _, err = start(tmp_path / name, text_file, *arguments).communicate(timeout=900)
        assert "Traceback" not in err and (tmp_path / name / "report.html").exists()
    found, expected = (
        json.loads((tmp_path / name / "study.json").read_text())
        for name in ("together", "alone")
    )
    assert found["together"] and not expected["together"]
    for variant in VARIANTS:
        for seed in range(2):
            log = tmp_path / "together" / variant / f"seed_{seed}.log"
            assert log.read_text().count("step 24: valid") == 1
            numbers, others = (
                record["runs"][variant][str(seed)]["numbers"]
                for record in (found, expected)
            )
            # Samples are drawn from probabilities that are rounded otherwise.
            assert numbers["bits_per_char"] == pytest.approx(
                others["bits_per_char"], rel=1e-4
            )
            assert numbers.keys() == others.keys()
    _, err = start(tmp_path / "together", text_file).communicate(timeout=300)
    assert "holds another study (together is True there, False here)" in err


@pytest.mark.slow
def test_study_goes_on_where_a_run_diverges(config, tmp_path, capfd):
    variants = make_variants(
        [], ["good: train.learning_rate=1e-3", "bad: train.learning_rate=1e30"]
    )
    study = Study(seeds=1, judge="none", critic=False, equal_seconds=False)
    run_study(config, tmp_path / "study", variants, study)
    out, err = capfd.readouterr()
    assert "failed: bad, seed 0" in out and "no longer finite" in out
    assert "one seed gives no interval" in err
    record = json.loads((tmp_path / "study" / "study.json").read_text())
    assert list(record["runs"]) == ["good"]
    assert "no longer finite" in record["failed"]["bad"]["0"]
    page = (tmp_path / "study" / "report.html").read_text()
    assert "Left out" in page and "bad, seed 0: step 4" in page


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": 0}, "--seeds=0: must be at least 1"),
        ({"jobs": 0}, "--jobs=0: must be at least 1"),
        ({"judge": "/no/such"}, "--judge=/no/such: no such folder"),
    ],
)
def test_run_study_refuses_before_anything_is_written(config, tmp_path, change, words):
    variants = make_variants(["objective=teacher_forcing,input_noise"], [])
    study = Study(**change)
    message = error_of(run_study, config, tmp_path / "study", variants, study)
    assert words in message
    assert not (tmp_path / "study").exists()


def test_run_study_refuses_a_field_that_is_not_legal(config, tmp_path):
    variants = make_variants(["train.num_steps=5,0"], [])
    message = error_of(run_study, config, tmp_path / "study", variants, Study())
    assert message == "train.num_steps=0: must be at least 1"
    assert not (tmp_path / "study").exists()


def test_run_study_refuses_a_trace_of_runs_together(config, tmp_path):
    config.train.profile = (1, 2)
    variants = make_variants(["objective=teacher_forcing,input_noise"], [])
    study = Study(together=True)
    message = error_of(run_study, config, tmp_path / "study", variants, study)
    assert message.startswith(
        "train.profile=1,2: has no effect on runs that are trained"
    )
    assert not (tmp_path / "study").exists()


def test_run_study_refuses_a_folder_of_another_study(config, tmp_path):
    (tmp_path / "study.json").write_text('{"baseline": "a"}')
    variants = make_variants(["objective=teacher_forcing,input_noise"], [])
    message = error_of(run_study, config, tmp_path, variants, Study())
    assert "damaged" in message
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"]


def _double(x):
    return 2 * x, os.getpid(), len(os.sched_getaffinity(0))


@pytest.mark.slow
def test_run_side_by_side_gives_each_process_its_share_of_the_cores():
    results = dict(run_side_by_side(_double, [1, 2, 3, 4], 2))
    assert {x: double for x, (double, _, _) in results.items()} == {
        1: 2,
        2: 4,
        3: 6,
        4: 8,
    }
    assert os.getpid() not in {pid for _, pid, _ in results.values()}
    if len(os.sched_getaffinity(0)) == 2:
        assert {count for _, _, count in results.values()} == {1}


def test_run_side_by_side_of_nothing_starts_nothing():
    assert list(run_side_by_side(_double, [], 2)) == []


def _die(x):
    os.kill(os.getpid(), signal.SIGKILL)


def test_run_side_by_side_reports_a_process_that_died():
    message = error_of(lambda: list(run_side_by_side(_die, [1], 1)))
    assert "a process of the study died" in message


ENDED_EARLY = """
import time
import tqdm
from pf_jax.study.workers import run_side_by_side

def print_and_wait(seconds):
    tqdm.tqdm.write("printed")
    time.sleep(seconds)

if __name__ == "__main__":
    for _ in run_side_by_side(print_and_wait, [0, 100], 1):
        break
"""


def test_run_side_by_side_ends_its_processes_without_a_word(tmp_path):
    (tmp_path / "program.py").write_text(ENDED_EARLY)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def _save_or_wait(path):
    """A run whose last checkpoint takes a second, or a task that is no run."""
    path.write_text("")
    if path.name == "idle":
        return
    if path.name == "wait":
        time.sleep(60)
    with stop_requests() as requests:
        wait_until(lambda: requests, 60)
        time.sleep(1)
        path.write_text("saved")
    raise SystemExit(130)


@pytest.mark.parametrize(
    "other", ["idle", pytest.param("wait", marks=pytest.mark.slow)]
)
def test_run_that_is_asked_to_stop_saves_beside_a_process_that_ends_at_once(
    tmp_path, other
):
    def ask_to_stop():
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2, 60)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask_to_stop).start()
    with pytest.raises(SystemExit) as stop:
        list(run_side_by_side(_save_or_wait, [tmp_path / other, tmp_path / "run"], 2))
    assert stop.value.code == 130
    assert (tmp_path / "run").read_text() == "saved"


def test_run_side_by_side_is_stopped_when_nothing_is_running_any_more():
    results = []
    with pytest.raises(SystemExit) as stop:
        for task, _ in run_side_by_side(_double, [1], 1):
            results.append(task)
            os.kill(os.getpid(), signal.SIGTERM)
    assert stop.value.code == 130 and results == [1]


def _wait_to_be_stopped(path):
    """A task that ends, as a run does, when it is asked to stop."""
    with stop_requests() as requests:
        path.write_text("")
        wait_until(lambda: requests, 60)
    raise SystemExit(130)


def test_run_side_by_side_starts_nothing_after_a_request_to_stop(tmp_path):
    def ask_to_stop():
        wait_until(lambda: any(tmp_path.iterdir()), 60)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask_to_stop).start()
    tasks = [tmp_path / f"task_{number}" for number in range(4)]
    with pytest.raises(SystemExit) as stop:
        list(run_side_by_side(_wait_to_be_stopped, tasks, 1))
    assert stop.value.code == 130
    assert list(tmp_path.iterdir()) == tasks[:1]
