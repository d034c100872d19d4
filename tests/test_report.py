import html
import json
import os
import pathlib
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from study_runs import (
    OBJECTIVES,
    curve,
    log,
    number,
    write_picture,
    write_run,
    write_sound,
    write_states,
    write_study,
)

from pf_jax.errors import UserError
from pf_jax.study.report import write_report
from pf_jax.study.results import read_result
from pf_jax.study.selection import report, select

ROOT = pathlib.Path(__file__).parent.parent
DIFFERENCES = (-1.3, -0.3, -0.9, -0.7, -1.1, -0.5)
"""Mean -0.8, standard error 0.1528, so the t interval is -0.8 +- 2.5706 * 0.1528."""

BASELINE = (2.0, 3.0, 2.5, 2.2, 2.8, 2.1)


def write_pair(folder, seeds=6, **fields):
    """Teacher forcing, and professor forcing that is better by `DIFFERENCES`."""
    workdirs = []
    for seed in range(seeds):
        for objective, more in (("teacher_forcing", 0.0), ("professor_forcing", 1.0)):
            value = BASELINE[seed] + more * DIFFERENCES[seed]
            workdirs.append(
                write_run(
                    folder / f"{objective}_{seed}",
                    seed=seed,
                    objective=objective,
                    value=1.5,
                    measures={
                        "d_stsp": number(value, label="D_stsp, nats", reference=0.05)
                    },
                    **fields,
                )
            )
    return [str(workdir) for workdir in workdirs]


def page_of(folder, folders, **options):
    report(folders, str(folder / "page.html"), **options)
    return (folder / "page.html").read_text()


def text_of(page):
    """The words of a page, without its tags."""
    body = page[page.index("<body>") :]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", body)))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    folders = write_pair(folder, sample="<script>alert(1)</script> & 'so' on")
    return folders, page_of(folder, folders, primary="d_stsp")


def test_report_answers_with_the_paired_difference(pair):
    text = text_of(pair[1])
    assert (
        "Does professor_forcing do better than teacher_forcing in D_stsp, nats (lower is "
        "better)?" in text
    )
    assert (
        "Better. professor_forcing lowers D_stsp, nats by 0.8 (95 % interval 0.407 to "
        "1.19, 6 seeds, sign-flip p 0.031) at equal updates (500)." in text
    )
    # Logs of 50 and 100 seconds, and a second more per seed.
    assert "took 2 times as long (102 s against 52.5 s)" in text
    assert "Caution" not in text


def test_report_of_runs_that_patience_ended_has_their_updates(tmp_path):
    folders = []
    for seed in range(2):
        for objective, last in (("teacher_forcing", 500), ("professor_forcing", 125)):
            lines = [x for x in log(2.0 + seed, objective) if x["step"] <= last]
            run = tmp_path / f"{objective}_{seed}"
            write_run(run, seed=seed, objective=objective, value=1.5, lines=lines)
            folders.append(str(run))
    text = text_of(page_of(tmp_path, folders))
    assert "at equal updates" not in text
    assert "after 125 updates against 500." in text


def test_report_tables_have_means_seeds_and_adjusted_p_values(pair):
    text = text_of(pair[1])
    # p of the t test is 0.00337, the smallest of three.
    assert (
        "professor_forcing 1.633 (0.7, 2.7, 1.6, 1.5, 1.7, 1.6) −0.8 (−1.19 to −0.407) "
        "against teacher_forcing 0.01 better, significant" in text
    )
    assert "teacher_forcing 2.433 (2, 3, 2.5, 2.2, 2.8, 2.1) baseline" in text
    assert "real data 0.05" in text and "noise floor 0.004" in text
    assert "professor_forcing 1.5 (1.5, 1.5, 1.5, 1.5, 1.5, 1.5) 0 (0 to 0)" in text
    assert "objective teacher_forcing professor_forcing" in text
    assert "12 runs evaluated with: python 3.11, device cpu" in text


def test_report_escapes_samples_and_loads_nothing(pair):
    page = pair[1]
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#39;so&#39; on" in page
    assert "<script" not in page
    for link in re.findall(r'(?:href|src)="([^"]*)"', page):
        assert link.startswith(("data:", "#")), link
    for link in re.findall(r"url\(([^)]*)\)", page):
        assert link.startswith("#"), link
    assert "@import" not in page and "javascript:" not in page


def test_report_escapes_names_and_settings(tmp_path):
    name = '<img src="x" onerror=alert(1)>'
    runs = [
        write_run(tmp_path / str(i), objective=objective, value=2.0 + i)
        for i, objective in enumerate(OBJECTIVES[:2])
    ]
    groups = {name: [read_result(runs[0])], "b": [read_result(runs[1])]}
    write_report(groups, tmp_path / "page.html", title=name, command=name)
    page = (tmp_path / "page.html").read_text()
    assert "<img" not in page and html.escape(name, quote=False)[:8] in page


def test_report_of_one_seed_warns_and_has_no_interval(tmp_path):
    text = text_of(page_of(tmp_path, write_pair(tmp_path, 1), primary="d_stsp"))
    assert (
        "Too few seeds. professor_forcing lowers D_stsp, nats by 1.3 (one seed, "
        in text
    )
    assert "Caution. With one seed nothing can be said" in text
    assert "−1.3 against teacher_forcing n/a 1 seed: too few" in text


def test_report_of_few_seeds_says_that_no_test_can_show_anything(tmp_path):
    text = text_of(page_of(tmp_path, write_pair(tmp_path, 4), primary="d_stsp"))
    assert "Too few seeds. professor_forcing lowers D_stsp, nats by 0.8" in text
    assert "With 4 seeds no test can show p < 0.05" in text and "is 0.12." in text
    assert "4 seeds: too few" in text and "better, significant" not in text


def test_report_of_one_run_compares_nothing(tmp_path):
    page = page_of(tmp_path, [str(write_run(tmp_path / "run"))])
    text = text_of(page)
    assert "How does teacher_forcing do in bits per character" in text
    assert "teacher_forcing has a mean of 2 over 1 seed." in text
    assert "not compared" not in text and "Better" not in text


def test_report_of_runs_that_diverged_has_no_number(tmp_path):
    folders = [
        str(write_run(tmp_path / objective, objective=objective, value=float("nan")))
        for objective in OBJECTIVES[:2]
    ]
    text = text_of(page_of(tmp_path, folders))
    assert "professor_forcing cannot be compared with teacher_forcing: no seed" in text
    assert "has a mean of n/a over 1 seed" in text_of(page_of(tmp_path, folders[:1]))


def test_report_of_an_old_run_has_what_it_can(tmp_path):
    run = write_run(
        tmp_path / "run",
        lines=[{"step": 5, "split": "valid", "nll": 1.0, "bits_per_char": 1.44}],
    )
    old = {"split": "valid", "step": 5, "nll": 1.0, "bits_per_char": 1.44}
    (run / "evaluation" / "metrics.json").write_text(json.dumps(old))
    (run / "evaluation" / "samples.txt").unlink()
    text = text_of(page_of(tmp_path, [str(run)]))
    assert "likelihood over updates" in text and "over seconds" not in text
    assert "versions and device not recorded" in text and "Samples" not in text


def test_report_takes_a_study_by_its_own_names(tmp_path):
    measures = [{"d": number(v, label="D")} for v in (3.0, 2.0, 1.5)]
    names = ("plain", "adversarial", "plain for long")
    for name, objective, measure in zip(
        names,
        ("input_noise", "professor_forcing", "input_noise"),
        measures,
        strict=True,
    ):
        steps = 1000 if name.endswith("long") else 500
        for seed in range(2):
            write_run(
                tmp_path / name / f"seed_{seed}",
                seed=seed,
                objective=objective,
                measures=measure,
                fields={"train.num_steps": steps},
            )
    study = {
        "variants": {name: {} for name in names},
        "runs": {
            name: {str(seed): {"workdir": f"{name}/seed_{seed}"} for seed in range(2)}
            for name in names
        },
        "baseline": "plain",
        "primary": "d",
        "equal_seconds": {"adversarial": "plain for long"},
        "command": "python study.py --seeds 2",
    }
    (tmp_path / "study.json").write_text(json.dumps(study))
    text = text_of(page_of(tmp_path, [str(tmp_path)]))
    assert "Does adversarial do better than plain in D (lower is better)?" in text
    assert "adversarial lowers D by 1 (95 % interval 1 to 1, 2 seeds" in text
    assert "adversarial raises D by 0.5 (95 % interval 0.5 to 0.5, 2 seeds" in text
    assert "at equal seconds (against plain for long, 100 s against 50.5 s)." in text
    assert "python study.py --seeds 2 python report.py" in text
    without = study | {"runs": {k: v for k, v in study["runs"].items() if k[0] == "p"}}
    (tmp_path / "study.json").write_text(json.dumps(without))
    # A longer baseline is nothing to compare where what it was made for is gone.
    assert list(select([str(tmp_path)]).groups) == ["plain"]
    study["runs"]["plain"]["1"]["workdir"] = "gone"
    (tmp_path / "study.json").write_text(json.dumps(study))
    with pytest.raises(UserError, match="gone: no run here"):
        select([str(tmp_path)])
    (tmp_path / "study.json").write_text("[]")
    with pytest.raises(UserError, match=r"study\.json: damaged \(TypeError"):
        select([str(tmp_path)])


def test_report_draws_curves_states_pictures_and_sounds(tmp_path):
    folders = []
    for index, objective in enumerate(OBJECTIVES[:2]):
        random = np.random.default_rng(index)
        judge = curve(np.arange(700.0), label="judge, nats", reference=[0.0] * 700)
        run = write_run(
            tmp_path / objective, objective=objective, curves={"judge": judge}
        )
        write_states(run, random, size=5, count=30)
        write_picture(run, random, (440, 1200))
        write_sound(run, random)
        folders.append(str(run))
    page = page_of(tmp_path, folders)
    text = text_of(page)
    for words in (
        "Validation likelihood over updates",
        "Validation likelihood over seconds of training",
        "Discriminator accuracy over updates",
        "Judge, nats",
        "t-SNE of 120 states",
        "The upper 73 % of the picture. The first 5.0 of 10.0 seconds.",
    ):
        assert words in text, words
    assert page.count('src="data:image/png;base64') == 4
    assert page.count('src="data:audio/wav;base64') == 2
    assert page.count('<svg role="img"') == 4


def test_states_of_different_sizes_are_not_shown(tmp_path):
    folders = []
    for seed in range(2):
        run = write_run(tmp_path / str(seed), seed=seed)
        write_states(run, np.random.default_rng(seed), size=3 + seed, count=50)
        folders.append(str(run))
    assert "different sizes (3, 4)" in text_of(page_of(tmp_path, folders))


def test_report_py_gives_the_same_bytes_in_another_process(tmp_path):
    folders = []
    for seed in range(2):
        for objective in OBJECTIVES[:2]:
            run = write_run(
                tmp_path / f"{objective}_{seed}", seed=seed, objective=objective
            )
            write_states(run, np.random.default_rng(seed), size=4, count=30)
            folders.append(str(run))
    page = page_of(tmp_path, folders)
    done = program(*folders, f"--out={tmp_path / 'other.html'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "other.html").read_text() == page


def program(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "report.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": ".", **environment},
    )


def error_of(folder, folders, out=None, **options):
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError) as caught:
        report([str(f) for f in folders], str(out or folder / "page.html"), **options)
    assert sorted(folder.rglob("*")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_report_refuses_what_it_cannot_read(tmp_path):
    assert "gone: no such folder" in error_of(tmp_path, [tmp_path / "gone"])
    assert "no run here (no config.json)" in error_of(tmp_path, [tmp_path])
    run = write_run(tmp_path / "run", evaluated=False)
    message = error_of(tmp_path, [run])
    assert message.endswith(
        f"run: has not been evaluated: run python evaluate.py --workdir {run} first"
    )
    (run / "evaluation" / "metrics.json").write_text("{}")
    assert "metrics.json is damaged" in error_of(tmp_path, [run])
    (run / "evaluation" / "metrics.json").write_text("{")
    assert "cannot be read" in error_of(tmp_path, [run])


WHOLE = {"split": "valid", "nll": 1.0, "bits_per_char": 1.44}
ENTRY = {"label": "x", "value": 1.0}
CURVE = {"label": "x", "steps": [1, 2], "values": [0.5, None], "reference": None}


@pytest.mark.parametrize(
    "change",
    [
        {"split": 5},
        {"split": "../elsewhere"},
        {"bits_per_char": "1.44"},
        {"bits_per_char": 10**400},
        {"hidden_gap": 4},
        {"hidden_gap": {"within_training_length": 0.1}},
        {
            "hidden_gap": {
                "beyond_training_length": [],
                "beyond_training_length_floor": 0,
            }
        },
        {"measures": 3},
        {"measures": {"a": 3}},
        {"measures": {"a": {"value": 1.0}}},
        {"measures": {"a": {"label": "x"}}},
        {"measures": {"a": ENTRY | {"value": "q"}}},
        {"measures": {"a": ENTRY | {"value": True}}},
        {"measures": {"a": ENTRY | {"label": 1}}},
        {"measures": {"a": ENTRY | {"reference": "q"}}},
        {"measures": {"a": ENTRY | {"better": "nearer"}}},
        {"measures": {"a": ENTRY | {"interval": 3}}},
        {"measures": {"a": ENTRY | {"interval": [1.0]}}},
        {"curves": [3]},
        {"curves": {"a": None}},
        {"curves": {"a": CURVE | {"label": None}}},
        {"curves": {"a": CURVE | {"x_label": 3}}},
        {"curves": {"a": CURVE | {"steps": 3}}},
        {"curves": {"a": CURVE | {"steps": [1, None]}}},
        {"curves": {"a": CURVE | {"values": [1.0]}}},
        {"curves": {"a": CURVE | {"values": [1.0, "q"]}}},
        {"curves": {"a": CURVE | {"reference": {"a": 1}}}},
        {"environment": "here"},
    ],
    ids=str,
)
def test_report_refuses_an_evaluation_that_is_damaged(tmp_path, change):
    run = write_run(tmp_path / "run")
    path = run / "evaluation" / "metrics.json"
    path.write_text(json.dumps(WHOLE | change))
    assert error_of(tmp_path, [run]) == (
        f"{run}: evaluation/metrics.json is damaged: run python evaluate.py --workdir "
        f"{run} again"
    )


def test_report_takes_an_evaluation_without_some_numbers(tmp_path):
    run = write_run(tmp_path / "run")
    gap = {"within_training_length": None, "within_training_length_floor": None}
    entry = ENTRY | {"value": None, "interval": [None, None]}
    evaluation = WHOLE | {
        "split": None,
        "bits_per_char": None,
        "hidden_gap": gap,
        "measures": {"a": entry, "b": ENTRY | {"reference": 2, "interval": [0, 3]}},
        "curves": {"a": CURVE, "b": CURVE | {"values": [1, 2], "reference": [0, 0]}},
        "environment": None,
    }
    (run / "evaluation" / "metrics.json").write_text(json.dumps(evaluation))
    text = text_of(page_of(tmp_path, [str(run)]))
    assert "teacher_forcing has a mean of n/a over 1 seed." in text


def test_report_refuses_runs_that_cannot_be_compared(tmp_path):
    first = write_run(tmp_path / "first")
    other = write_run(tmp_path / "other", fields={"data.name": "text"})
    assert "compare runs of the same data" in error_of(tmp_path, [first, other])
    twice = write_run(tmp_path / "twice")
    message = error_of(tmp_path, [first, twice])
    assert "twice: seed 0 of teacher_forcing is there already, in" in message
    test = write_run(tmp_path / "test", seed=1, split="test")
    assert error_of(tmp_path, [first, test]) == (
        f"{test}: was last evaluated on test, and {first} on valid: run python "
        f"evaluate.py --workdir {test} --split valid first"
    )
    (tmp_path / "study.json").write_text("{}")
    assert "is a whole study" in error_of(tmp_path, [first, tmp_path])


def with_evaluation(run, **fields):
    path = run / "evaluation" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return run


def test_report_refuses_runs_that_were_judged_or_decoded_otherwise(tmp_path):
    runs = [write_run(tmp_path / str(seed), seed=seed) for seed in range(3)]
    with_evaluation(runs[0], judge={"workdir": "a", "step": 5, "digest": "1"})
    page_of(tmp_path, map(str, runs))  # The others have no judge.
    with_evaluation(runs[2], judge={"workdir": "b", "step": 5, "digest": "2"})
    assert error_of(tmp_path, runs) == (
        f"{runs[2]}: was judged by another model than {runs[0]}: run python evaluate.py "
        f"--workdir {runs[2]} with the same --judge first"
    )
    sampling = {"beam": 1, "length_normalization": 0.0, "num_samples": 3}
    for run in runs:
        with_evaluation(run, judge=None, sampling=sampling)
    with_evaluation(runs[1], sampling=sampling | {"num_samples": 9})
    with_evaluation(runs[2], sampling=sampling | {"length_normalization": 0.6})
    page_of(tmp_path, map(str, runs))
    with_evaluation(runs[1], sampling=sampling | {"beam": 5})
    assert "was decoded otherwise than" in error_of(tmp_path, runs)


def test_report_warns_of_windows_of_several_lengths(tmp_path, capsys):
    runs = []
    for length in (8, 16):
        run = tmp_path / str(length)
        runs.append(str(write_run(run, fields={"train.sequence_length": length})))
    page_of(tmp_path, runs)
    assert capsys.readouterr().err.startswith(
        "warning: train.sequence_length is 8 or 16: measures over windows of that length"
    )


def test_report_tells_runs_that_went_on_after_their_evaluation(tmp_path, capsys):
    runs = []
    for objective, step in (("teacher_forcing", 100), ("professor_forcing", 500)):
        run = write_run(tmp_path / objective, objective=objective)
        runs.append(str(with_evaluation(run, trained_step=step)))
    text = text_of(page_of(tmp_path, runs))
    assert "at equal updates" not in text and "after 500 updates against 100." in text
    assert capsys.readouterr().err == (
        f"warning: {runs[0]}: was evaluated after 100 updates, and 500 are done now: run "
        f"python evaluate.py --workdir {runs[0]} again\n"
    )


def test_report_refuses_unknown_names(tmp_path):
    run = write_run(tmp_path / "run")
    message = error_of(tmp_path, [run], baseline="x")
    assert message == "--baseline=x: must be one of teacher_forcing"
    message = error_of(tmp_path, [run], primary="x")
    assert message == "--primary=x: must be one of bits_per_char, hidden_gap_within"


def test_report_refuses_a_place_it_cannot_write_to(tmp_path):
    run = write_run(tmp_path / "run")
    out = tmp_path / "gone" / "page.html"
    assert f"no such folder {out.parent}" in error_of(tmp_path, [run], out)
    assert "is a folder" in error_of(tmp_path, [run], tmp_path)
    out = tmp_path / ("x" * 250 + ".html")
    assert "cannot write there" in error_of(tmp_path, [run], out)


@pytest.mark.slow
def test_report_of_six_seeds_by_six_variants_is_small_and_quick(tmp_path):
    write_study(tmp_path / "study")
    write_study(tmp_path / "more", objectives=OBJECTIVES[:1])
    for run in (tmp_path / "more").rglob("config.json"):
        config = json.loads(run.read_text())
        config["train"]["learning_rate"] = 0.01
        run.write_text(json.dumps(config))
    folders = sorted(str(path.parent) for path in tmp_path.rglob("config.json"))
    assert len(folders) == 36
    start = time.perf_counter()
    done = program(*folders, f"--out={tmp_path / 'page.html'}")
    seconds = time.perf_counter() - start
    assert (done.returncode, done.stderr) == (0, "")
    assert seconds < 60
    page = (tmp_path / "page.html").read_bytes()
    assert len(page) < 6e6
    done = program(*folders, f"--out={tmp_path / 'again.html'}", PYTHONHASHSEED="2")
    assert (tmp_path / "again.html").read_bytes() == page
