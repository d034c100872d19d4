import base64
import dataclasses
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from errors import error_of
from PIL import Image
from ratings import write_untrained_run
from whole_runs import copy_of, small_config, write_text

from pf_jax.analysis.present import Sampling
from pf_jax.analysis.samples import sample_text
from pf_jax.data import Vocabulary
from pf_jax.experiment.runs import load_run
from pf_jax.experiment.streams import Stream
from pf_jax.files import write_error
from pf_jax.rating import making
from pf_jax.rating.key import read_key
from pf_jax.rating.making import MAX_PAIRS, Plan, make, make_rating

ROOT = pathlib.Path(__file__).parent.parent
SHORT = Sampling(sample_length=12, prompt="ab")
FEW = Plan(num_pairs=5, num_repeats=2, num_catches=3, seed=7)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs of two runs on the same text, never written to."""
    folder = tmp_path_factory.mktemp("runs")
    text = write_text(folder / "words.txt")
    return [
        write_untrained_run(small_config(text, seed=seed), folder / name)
        for seed, name in enumerate(("first", "second"))
    ]


@pytest.fixture(scope="module")
def made(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "rating"
    return make_rating(*runs, out, FEW, SHORT), out


def data_of(out):
    page = (out / "page.html").read_text()
    found = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_rating_has_all_samples_of_one_key_paired_by_number(runs, made):
    key, out = made
    assert sorted(path.name for path in out.iterdir()) == ["key.json", "page.html"]
    assert read_key(out).page == key.page
    samples = data_of(out)["samples"]
    shown = []
    for pair in key.pairs:
        if pair.kind == "runs":
            b = pair.second if pair.a == pair.first else pair.first
            shown.append((samples[pair.a]["text"], samples[b]["text"]))
    expected = []
    for workdir in runs:
        run = load_run(workdir)
        expected.append(
            sample_text(
                run.state,
                run.experiment.encoding,
                jax.random.fold_in(jax.random.key(7), int(Stream.SAMPLES)),
                num_steps=12,
                num_samples=5,
                prompt="ab",
            )
        )
    assert sorted(shown) == sorted(zip(*expected, strict=True))
    assert len(set(shown)) == 5


def test_rating_has_catch_pairs_and_repeats(runs, made):
    key, out = made
    samples = data_of(out)["samples"]
    held_out = load_run(runs[0]).experiment.dataset.splits["valid"]
    encoding = load_run(runs[0]).experiment.encoding
    text = encoding.decode(held_out.values[1:])
    catches = [pair for pair in key.pairs if pair.kind == "catch"]
    for pair in catches:
        noise = pair.second if pair.a == pair.first else pair.first
        assert samples[pair.a]["text"] in text and samples[noise]["text"] not in text
        assert len(samples[noise]["text"]) == 12
    kinds = list(key.kind_by_item.values())
    counts = {kind: kinds.count(kind) for kind in ("first", "repeat", "catch")}
    assert counts == {"first": 5, "repeat": 2, "catch": 3} and len(catches) == 3


def test_page_of_two_runs_names_neither(runs, made):
    key, out = made
    page = (out / "page.html").read_text()
    for word in (*map(str, runs), runs[0].name + "/", "teacher_forcing", key.nonce):
        assert word not in page, word
    assert key.a == {
        "workdir": str(runs[0]),
        "objective": "teacher_forcing",
        "step": 0,
    }


def test_runs_that_swap_their_places_get_the_same_samples(runs, made, tmp_path):
    make_rating(*reversed(runs), tmp_path / "new", FEW, SHORT)
    texts = [
        sorted(sample["text"] for sample in data_of(out)["samples"].values())
        for out in (made[1], tmp_path / "new")
    ]
    assert texts[0] == texts[1]


def test_data_that_has_moved_is_the_same_data(runs, tmp_path):
    moved = copy_of(runs[1], tmp_path)
    shutil.copy(runs[0].parent / "words.txt", tmp_path / "elsewhere.txt")
    path = moved / "config.json"
    content = path.read_text()
    path.write_text(
        content.replace(
            str(runs[0].parent / "words.txt"), str(tmp_path / "elsewhere.txt")
        )
    )
    assert path.read_text() != content
    make_rating(runs[0], moved, tmp_path / "out", FEW, SHORT)
    assert (tmp_path / "out" / "page.html").exists()


def test_make_prints_what_to_do_and_codes(runs, tmp_path, capsys):
    make(*runs, tmp_path / "out", FEW._replace(num_raters=3), SHORT)
    output = capsys.readouterr()
    codes = read_key(tmp_path / "out").rule.raters
    assert len(set(codes)) == 3 and all(re.fullmatch("[0-9a-f]{6}", x) for x in codes)
    assert output.out.splitlines() == [
        f"{tmp_path}/out/page.html: 5 pairs, 2 of them twice, and 3 catch pairs: give it "
        f"to raters, or run rate.py serve --dir={tmp_path}/out",
        f"{tmp_path}/out/key.json: tells whose sample is whose: give it to nobody",
        f"codes of the raters: {' '.join(codes)}",
    ]
    assert data_of(tmp_path / "out")["raters"] == list(codes) and output.err == ""


WRONG = {
    "--pairs=0: must be from 1": {"num_pairs": 0},
    f"--pairs={MAX_PAIRS + 1}": {"num_pairs": MAX_PAIRS + 1},
    "--repeats=6: must be from 0 to 5": {"num_repeats": 6},
    "--catches=-1: must be from 0": {"num_catches": -1},
    "--raters=-1: must be from 0": {"num_raters": -1},
    "--max_failed_catches=1.5: is a share": {"max_failed_catches": 1.5},
    "--min_answered=nan: is a share": {"min_answered": float("nan")},
    "--seed=-1: must be from 0": {"seed": -1},
    "--temperature=0: all samples": {"temperature": 0.0},
    "--temperature=nan: must be a finite number": {"temperature": float("nan")},
    "--sample_length=0: must be at least 1": {"sample_length": 0},
    "--bias=1.0: is for pen strokes": {"bias": 1.0},
}


@pytest.mark.parametrize("message", WRONG)
def test_make_refuses_wrong_settings_and_writes_nothing(runs, tmp_path, message):
    fields = WRONG[message]
    plan = FEW._replace(**{x: y for x, y in fields.items() if x in Plan._fields})
    sampling = SHORT._replace(
        **{x: y for x, y in fields.items() if x in Sampling._fields}
    )
    out = tmp_path / "out"
    assert error_of(make_rating, *runs, out, plan, sampling).startswith(message)
    assert not out.exists()


def test_make_refuses_wrong_folders_and_writes_nothing(runs, tmp_path):
    first, second = runs
    out = tmp_path / "out"
    assert "--a and --b are both" in error_of(
        make_rating, first, first.parent / "." / first.name, out, FEW, SHORT
    )
    assert "gone: no such folder" in error_of(
        make_rating, first, tmp_path / "gone", out, FEW, SHORT
    )
    out.mkdir()
    for name in ("judgements.jsonl", "page.html", ".hidden"):
        (out / name).write_text("x")
        assert error_of(make_rating, first, second, out, FEW, SHORT) == (
            f"--out={out}: already holds {name}: give a folder that is new or empty"
        )
        assert [path.name for path in out.iterdir()] == [name]
        (out / name).unlink()
    file = tmp_path / "file"
    file.write_text("")
    assert "is a file" in error_of(make_rating, first, second, file, FEW, SHORT)
    assert "cannot write there" in error_of(
        make_rating, first, second, file / "out", FEW, SHORT
    )


def test_make_refuses_runs_of_other_data(runs, tmp_path):
    other = copy_of(runs[1], tmp_path)
    text = (runs[0].parent / "words.txt").read_text()
    path = tmp_path / "other.txt"
    config = other / "config.json"
    content = config.read_text()
    config.write_text(content.replace(str(runs[0].parent / "words.txt"), str(path)))
    for position, split in ((95, "test"), (91, "valid")):
        place = len(text) * position // 100 + 3
        path.write_text(text[:place] + text[place + 9 :] + text[place : place + 9])
        message = error_of(make_rating, runs[0], other, tmp_path / "out", FEW, SHORT)
        assert message == (
            f"{other}: its {split} split differs from that of {runs[0]}: compare runs of "
            "the same data"
        )
    assert not (tmp_path / "out").exists()


def test_make_refuses_runs_of_another_name_or_encoding(runs, monkeypatch, tmp_path):
    loaded = load_run(runs[0])
    experiment = loaded.experiment
    config = experiment.config.copy_and_resolve_references()
    config.data.name = "ptb_char"
    encoding = Vocabulary.from_text("abc")
    for other, words in (
        (dataclasses.replace(experiment, config=config), "data.name is ptb_char there"),
        (
            dataclasses.replace(experiment, encoding=encoding),
            "encodes its data differently",
        ),
    ):
        found = iter([loaded, loaded._replace(experiment=other)])
        monkeypatch.setattr(making, "load_run", lambda *_, found=found: next(found))
        message = error_of(make_rating, *runs, tmp_path / "out", FEW, SHORT)
        assert words in message and message.endswith("compare runs of the same data")
    assert not (tmp_path / "out").exists()


def test_page_that_is_too_large_or_cannot_be_written_leaves_nothing(
    runs, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(making, "MAX_PAGE_BYTES", 1000)
        message = error_of(make_rating, *runs, out, FEW, SHORT)
        assert "more than 1,000: lower --pairs or --sample_length" in message
    write = making.write_whole

    def full(path, content):
        if path.name == "page.html":
            raise write_error(path, len(content), 28)
        write(path, content)

    monkeypatch.setattr(making, "write_whole", full)
    assert "no room left" in error_of(make_rating, *runs, out, FEW, SHORT)
    assert not out.exists()


def program(*arguments):
    return subprocess.run(
        [sys.executable, "rate.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


WRONG_COMMANDS = {
    "no command (make, serve or score) given: name at least one; --help shows how": [],
    "grade: is no command: give make, serve or score": ["grade"],
    "--a is missing: give --a=FOLDER": ["make", "--b=x"],
    "--dir is missing: give --dir=FOLDER": ["score"],
    "--a: is not a flag of rate.py score: leave it out": ["score", "--a=x", "--dir=y"],
    "--dir: is not a flag of rate.py make: leave it out": ["make", "--dir=y"],
    "unexpected argument 'x': rate.py serve takes no files": ["serve", "x", "--dir=y"],
    "--pairs=x: must be an integer": ["make", "--pairs=x"],
}


def test_rate_py_refuses_wrong_commands_in_one_line(monkeypatch, capsys):
    # In this process: each of its own takes a second.
    from absl import flags

    import rate
    from pf_jax.experiment import command_line

    for message, arguments in WRONG_COMMANDS.items():
        with pytest.raises(SystemExit) as exit_:
            command_line.run(
                rate.main,
                ["rate.py", *arguments],
                arguments="command (make, serve or score)",
            )
        assert exit_.value.code == 2
        assert capsys.readouterr() == ("", f"error: {message}\n")
        flags.FLAGS.unparse_flags()
        for name in ("a", "b", "dir", "pairs"):
            flags.FLAGS[name].unparse()


def runs_of(folder, name, path="", **fields):
    config = small_config(path)
    config.update_from_flattened_dict({"data.name": name, **fields})
    runs = []
    for seed in range(2):
        config.seed = seed
        runs.append(write_untrained_run(config, folder / str(seed)))
    return runs


def pictures_of(out):
    return [sample["picture"] for sample in data_of(out)["samples"].values()]


@pytest.mark.slow
def test_images_are_pictures_of_one_size(tmp_path):
    runs = runs_of(tmp_path, "digits", **{"train.sequence_length": 64})
    make_rating(*runs, tmp_path / "out", FEW, Sampling())
    for url in pictures_of(tmp_path / "out"):
        start, _, code = url.partition(",")
        assert start == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(code))) as image:
            assert image.size == (8, 8) and set(np.unique(image)) <= {0, 255}


def drawings_file(folder):
    rng = np.random.default_rng(0)
    drawings = np.empty(6, object)
    for number in range(6):
        offsets = rng.integers(-9, 10, (12, 2))
        lifted = np.arange(12)[:, None] % 4 == 3
        drawings[number] = np.concatenate([offsets, lifted], axis=1).astype(np.int16)
    path = folder / "drawings.npz"
    np.savez(path, train=drawings, valid=drawings[:3], test=drawings[:2])
    return str(path)


@pytest.mark.slow
def test_pen_strokes_are_drawings_and_take_a_bias(tmp_path):
    runs = runs_of(tmp_path, "sketch_rnn", drawings_file(tmp_path))
    shown = []
    for bias in (0.0, 0.0, 3.0):
        out = tmp_path / f"out{len(shown)}"
        key = make_rating(*runs, out, FEW, Sampling(sample_length=9, bias=bias))
        assert key.sampling["bias"] == bias
        shown.append(sorted(pictures_of(out)))
        assert all(url.startswith("data:image/svg+xml;base64,") for url in shown[-1])
    assert shown[0] == shown[1] and len(set(shown[0])) == 16
    # Catch pairs are as before, samples are not.
    assert len(set(shown[0]) & set(shown[2])) == 6


@pytest.mark.slow
def test_pen_strokes_of_three_pen_states_take_a_bias(tmp_path):
    fields = {"data.pen_states": 3}
    runs = runs_of(tmp_path, "sketch_rnn", drawings_file(tmp_path), **fields)
    shown = []
    for bias in (0.0, 3.0):
        out = tmp_path / f"out{bias}"
        make_rating(*runs, out, FEW, Sampling(sample_length=9, bias=bias))
        shown.append(set(pictures_of(out)))
    assert len(shown[0] - shown[1]) > 4


@pytest.mark.slow
def test_rate_py_makes_and_scores(runs, tmp_path):
    out = tmp_path / "out"
    done = program(
        "make",
        f"--a={runs[0]}",
        f"--b={runs[1]}",
        "--pairs=4",
        "--sample_length=9",
        f"--out={out}",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{out}/page.html: 4 pairs, 1 of them twice, and 4 ")
    done = program("score", f"--dir={out}")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {out}: no judgements yet: run rate.py serve")
    assert np.array_equal(
        sorted(p.name for p in out.iterdir()), ["key.json", "page.html"]
    )
