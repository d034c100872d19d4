"""Sampling from runs of every kind whose data is not there."""

import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import wave

import jax
import mido
import numpy as np
import pytest
from errors import error_of
from PIL import Image
from trees import random_like

from configs import default
from pf_jax import files
from pf_jax.analysis import drawings, rolls, sample_files, samples, series, sound
from pf_jax.analysis.request import Request, Sampling
from pf_jax.data import Bytes, Vocabulary, encoding_to_json, save_encoding
from pf_jax.data.piano import PianoRoll
from pf_jax.data.pixels import Pixels
from pf_jax.data.series import Series
from pf_jax.data.strokes import Strokes
from pf_jax.data.waveform import Waveform
from pf_jax.data.words import Words
from pf_jax.experiment import build, sampling
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.sampling import sample
from pf_jax.experiment.saved_config import write_config
from pf_jax.experiment.streams import Stream

ROOT = pathlib.Path(__file__).parent.parent
LETTERS = Vocabulary.from_text("ab\ncde \u4f60")
KINDS = {
    "text": (LETTERS, {"samples.txt"}),
    "ptb_word": (Words.from_text("a cat sat"), {"samples.txt"}),
    "mnist": (Pixels(4, 6), {"samples.png"}),
    "sketch_rnn": (
        Strokes((0.5, -0.5), 2.0, 10.0),
        {"samples.png", "sample_1.svg", "sample_2.svg"},
    ),
    "iam_ondb": (
        Strokes((0.5, -0.5), 2.0, 10.0, 3),
        {"samples.png", "sample_1.svg", "sample_2.svg"},
    ),
    "wav": (
        Waveform(1000, 16, "mu_law"),
        {"samples.png", "sample_1.wav", "sample_2.wav"},
    ),
    "piano_roll": (
        PianoRoll(),
        {"samples.png", "sample_1.mid", "sample_2.mid"},
    ),
    "series": (
        Series((1.0, 0.0), (2.0, 1.0), ("a", "b")),
        {"samples.png", "sample_1.csv", "sample_2.csv"},
    ),
    "lorenz63": (
        Series((0.0,), (8.0,), ("x",), "lorenz63", (0,)),
        {"samples.png", "sample_1.csv", "sample_2.csv"},
    ),
}
"""Encoding, and the files of two samples, by `data.name`."""


def write_run(workdir, name, encoding, **fields):
    """What sampling needs of a run whose model has random weights, and nothing else."""
    config = default.get_config()
    config.update_from_flattened_dict(
        {
            "objective": "teacher_forcing",
            "data.name": name,
            "data.path": "gone",
            "generator.hidden_size": 6,
            "generator.embedding_size": 3,
            "generator.num_components": 2,
            "train.sequence_length": encoding.sequence_length or 10,
            **fields,
        }
    )
    workdir.mkdir()
    write_config(config, workdir)
    model = build.make_model(config, encoding)
    state = random_like(build.state_shapes(model), scale=0.4)
    state = state.replace(step=jax.numpy.asarray(7, jax.numpy.int32))
    checkpoints = Checkpoints(workdir / "checkpoints")
    settings = config.to_dict()
    checkpoints.save(state, encoding_to_json(encoding), 1.0, settings=settings)
    checkpoints.close()
    return model, state


def read_drawn(folder, name):
    """The first sample of a folder, from its file."""
    if name == "wav":
        with wave.open(str(folder / "sample_1.wav")) as file:
            return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 2**15
    if name == "piano_roll":
        return mido.MidiFile(folder / "sample_1.mid").length
    if name in ("series", "lorenz63"):
        path = folder / "sample_1.csv"
        return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    if name in ("sketch_rnn", "iam_ondb"):
        return (folder / "sample_1.svg").read_text()
    page = (folder / "samples.txt").read_text()
    return page.split("===\n")[1].split("\n\n=== sample 2")[0]


@pytest.mark.parametrize(
    "name",
    [
        name if name == "text" else pytest.param(name, marks=pytest.mark.slow)
        for name in KINDS
    ],
)
def test_sample_draws_from_every_kind_of_run_without_its_data(name, tmp_path, capsys):
    encoding, files = KINDS[name]
    workdir = tmp_path / "run"
    model, state = write_run(workdir, name, encoding)
    num_steps = encoding.sequence_length or 40
    length = None if encoding.sequence_length else num_steps
    record = sample(workdir, Sampling(2, length))
    assert (record["seed"], record["step"], record["num_samples"]) == (0, 7, 2)
    folder = workdir / "samples"
    assert {path.name for path in folder.iterdir()} == files | {"sampling.json"}
    assert set(record["files"]) == {f for f in files if f.startswith("sample_")}
    assert json.loads((folder / "sampling.json").read_text()) == record
    # The files hold what the model puts out.
    drawn = samples.draw_samples(
        state,
        model.key(Stream.SAMPLES),
        encoding.first_input[None, None],
        num_steps=num_steps,
        num_samples=2,
    )
    decoded = [encoding.decode(values) for values in drawn]
    printed = capsys.readouterr().out
    assert printed.endswith(f"step 7, seed 0: written to {folder}\n")
    if name in ("text", "ptb_word"):
        assert read_drawn(folder, name) == decoded[0]
        assert decoded[0] in printed and decoded[1] in printed
    elif name in ("sketch_rnn", "iam_ondb"):
        ends = [encoding.end_of(values) for values in drawn]
        assert (min(map(len, decoded)) < num_steps) == any(ends)
        assert any(ends) == (name == "iam_ondb")
        drawings.write_svg(decoded[0], tmp_path / "expected.svg")
        assert read_drawn(folder, name) == (tmp_path / "expected.svg").read_text()
    elif name == "piano_roll":
        assert read_drawn(folder, name) == pytest.approx(num_steps / 2)
    elif name == "mnist":
        with Image.open(folder / "samples.png") as picture:
            assert min(picture.size) > 100
    else:
        shape = (num_steps, 1 if name == "lorenz63" else 2)
        expected = decoded[0] if name == "wav" else decoded[0].reshape(shape)
        np.testing.assert_allclose(
            read_drawn(folder, name), expected, rtol=1e-6, atol=2**-15
        )


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A run of text, never written to by a test."""
    workdir = tmp_path_factory.mktemp("texts") / "run"
    write_run(workdir, "text", LETTERS)
    return workdir


def test_sample_with_another_seed_is_another_and_goes_to_its_folder(texts, tmp_path):
    few = Sampling(2, 30)
    pages = []
    for number, seed in enumerate((None, 0, 5)):
        out = tmp_path / str(number)
        record = sample(texts, few, seed=seed, out=out)
        assert record["seed"] == (seed or 0)
        pages.append((out / "samples.txt").read_text())
    assert pages[0] == pages[1] != pages[2]
    assert not (texts / "samples").exists()


def test_longer_samples_start_with_shorter_ones_whatever_the_pieces(
    texts, tmp_path, monkeypatch
):
    def texts_of(length, prompt="ab"):
        sample(texts, Sampling(2, length, prompt=prompt), out=tmp_path)
        page = (tmp_path / "samples.txt").read_text()
        return [part.split(" ===\n")[1] for part in page.split("=== sample")[1:]]

    whole = texts_of(60)
    monkeypatch.setattr(samples, "CHUNK_LENGTH", 7)
    assert texts_of(60) == whole
    shorter = texts_of(25)
    for text, start in zip(whole, shorter, strict=True):
        assert text.startswith("ab") and text.startswith(start.rstrip("\n"))
        assert len(text.rstrip("\n")) == 62 or text.endswith("\n\n")


@pytest.mark.parametrize("prompt", ["", "a cat", "a \n", "\n"])
def test_words_of_pieces_are_joined_as_those_of_the_whole(tmp_path, prompt):
    encoding = KINDS["ptb_word"][0]
    tokens = np.random.default_rng(0).integers(0, encoding.size, 60)
    path = tmp_path / "text"
    with sample_files._text_file(encoding, prompt, path) as add:
        for piece in np.split(tokens, [1, 2, 3, 10, 11, 30]):
            add(piece)
    assert path.read_text() == encoding.continued(prompt, tokens)


def test_files_of_bytes_have_the_bytes_wherever_pieces_end(tmp_path):
    # Characters that pieces cut, and bytes that are no characters.
    content = "a\u4f60\U0001d11e".encode() + bytes([0xFF, 0, 0xE4])
    tokens = np.frombuffer(content, np.uint8)
    for start in range(len(content) + 1):
        with sample_files._text_file(Bytes(), "\u00e9", tmp_path / "text") as add:
            add(tokens[:start])
            add(tokens[start:])
        assert (tmp_path / "text").read_bytes() == "\u00e9".encode() + content


def test_files_of_pieces_are_those_of_the_whole(tmp_path):
    random = np.random.default_rng(0)
    strokes = random.normal(size=(40, 3))
    strokes[:, 2] = random.random(40) < 0.2
    roll = random.random((40, 12)) < 0.4
    signal, table = random.normal(size=40), random.normal(size=(40, 2))
    notes = {"lowest_pitch": 40, "seconds_per_frame": 0.25}
    forms = [
        (strokes, drawings.write_svg, drawings.svg_file),
        (
            roll,
            lambda whole, path: rolls.write_midi(whole, path, **notes),
            lambda path: rolls.midi_file(path, **notes),
        ),
        (
            signal,
            lambda whole, path: sound.write_wav(whole, 1000, path),
            lambda path: sound.wav_file(1000, path),
        ),
        (
            table,
            lambda whole, path: series.write_series(whole, "ab", path),
            lambda path: series.series_file("ab", path),
        ),
    ]
    for whole, write, open_file in forms:
        write(whole, tmp_path / "whole")
        with open_file(tmp_path / "pieces") as add:
            for piece in np.split(whole, [1, 9, 30]):
                add(piece)
        contents = [(tmp_path / name).read_bytes() for name in ("whole", "pieces")]
        assert contents[0] == contents[1] and len(contents[0]) > 100


def test_drawing_ends_where_the_pen_says_so_whatever_the_pieces(tmp_path):
    encoding = KINDS["iam_ondb"][0]
    values = np.random.default_rng(0).normal(size=(30, 3))
    values[:, 2] = np.arange(30) % 3 == 1
    values[12, 2] = values[25, 2] = 2
    request = Request(None, encoding, None, None, Sampling(), 10, tmp_path)
    file = drawings.svg_file(tmp_path / "pieces.svg")
    with sample_files._decoding(request, file) as add:
        for piece in np.split(values, [5, 12, 13, 20]):
            add(piece)
    drawings.write_svg(encoding.decode(values[:13]), tmp_path / "whole.svg")
    written = [tmp_path / name for name in ("pieces.svg", "whole.svg")]
    assert written[0].read_text() == written[1].read_text()


def test_a_file_of_pieces_is_whole_or_not_there(tmp_path):
    path = tmp_path / "sound.wav"
    with pytest.raises(RuntimeError), sound.wav_file(1000, path) as add:
        add(np.zeros(10))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_long_strokes_are_several_lines_that_meet(tmp_path, monkeypatch):
    monkeypatch.setattr(drawings, "MAX_POLYLINE", 10)
    strokes = np.tile([[1.0, 2.0, 0.0]], (25, 1))
    with drawings.svg_file(tmp_path / "a.svg") as add:
        for piece in np.split(strokes, 5):
            add(piece)
    text = (tmp_path / "a.svg").read_text()
    lines = [part.split('"')[0].split() for part in text.split('points="')[1:]]
    assert len(lines) > 1
    for before, after in zip(lines, lines[1:], strict=False):
        assert before[-1] == after[0]
    assert [lines[0][0], lines[-1][-1]] == ["1,2", "25,50"]


@pytest.mark.slow
def test_what_is_shown_of_long_samples_is_bounded_and_said(
    texts, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sample_files, "SHOWN_STEPS", 20)
    monkeypatch.setattr(samples, "CHUNK_LENGTH", 8)
    workdir = tmp_path / "run"
    write_run(workdir, "series", KINDS["series"][0])
    sample(workdir, Sampling(1, 50))
    assert "sample: the first 20 of 50 steps: 20 steps, a " in capsys.readouterr().out
    lines = (workdir / "samples" / "sample_1.csv").read_text().splitlines()
    assert len(lines) == 51
    sample(texts, Sampling(1, 50), out=tmp_path / "texts")
    assert " [...]\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sampling", "seed", "message"),
    [
        (Sampling(num_samples=0), None, "--num_samples=0: must be at least 1"),
        (Sampling(bias=1.0), None, "--bias=1.0: is for pen strokes"),
        (Sampling(), -1, "--seed=-1: must be from 0 to 4294967295"),
    ],
)
def test_sample_error_for_settings_that_are_wrong(texts, sampling, seed, message):
    assert error_of(sample, texts, sampling, seed=seed).startswith(message)
    assert not (texts / "samples").exists()


def test_sample_error_for_a_folder_without_a_run(tmp_path):
    assert "no run here" in error_of(sample, tmp_path, Sampling())
    assert list(tmp_path.iterdir()) == []


USERS_OWN = ("sample_1.svg", "sample_1.txt", "sample_12.csv", "sample_rates.csv")
"""Names of the user's own files in a folder of samples."""


def test_sample_leaves_other_files_of_the_folder_alone(texts, tmp_path):
    for name in USERS_OWN:
        (tmp_path / name).write_text("x")
    for _ in range(2):
        sample(texts, Sampling(1, 5), out=tmp_path)
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {*USERS_OWN, "samples.txt", "sampling.json"}
    assert {(tmp_path / name).read_text() for name in USERS_OWN} == {"x"}


def test_sample_removes_the_earlier_samples_that_its_record_lists(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(
        sample_files.series, "plot_series", lambda *arguments, **keywords: None
    )
    workdir, out = tmp_path / "run", tmp_path / "out"
    write_run(workdir, "series", KINDS["series"][0])
    sample(workdir, Sampling(3, 5), out=out)
    for name in ("sample_1.wav", "sample_12.csv"):
        (out / name).write_text("x")
    record = sample(workdir, Sampling(1, 5), out=out)
    assert record["files"] == ["sample_1.csv"]
    names = {path.name for path in out.iterdir()}
    own = {"sample_1.wav", "sample_12.csv"}
    assert names == {"sample_1.csv", "sampling.json", *own}
    # Of an older version, or damaged: nothing is removed.
    for content in ("{", "[]", "{}", '{"files": 5}', '{"files": ["../../run", 5]}'):
        (out / "sampling.json").write_text(content)
        sample(workdir, Sampling(1, 5), out=out)
        assert {path.name for path in out.iterdir()} == names


def test_sample_removes_what_an_interrupted_one_left_and_nothing_else(texts, tmp_path):
    own = {
        "sample_1.txt.partial": None,
        "notes.csv.partial": None,
        "sample_a.csv.partial": None,
        ".parts_listing0": "drawer.txt",
        "parts_original": "1.txt",
    }
    left = {
        "sample_7.csv.partial": None,
        "sample_12.svg.partial": None,
        ".parts_ab_3x9k1": "1.txt",
        ".parts_0000000_": "2.txt.partial",
    }
    for name, part in (own | left).items():
        path = tmp_path / name
        if part:
            path.mkdir()
        (path / (part or "")).write_text("x")
    (tmp_path / ".parts_emptyone").mkdir()
    sample(texts, Sampling(1, 5), out=tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {*own, "samples.txt", "sampling.json"}


def test_sample_has_a_record_of_files_alone_while_it_draws(
    texts, tmp_path, monkeypatch
):
    sample(texts, Sampling(1, 5), out=tmp_path)
    assert (tmp_path / "sampling.json").exists()

    def interrupted(request, earlier):
        # What it may leave is known to the next one.
        assert json.loads((tmp_path / "sampling.json").read_text()) == {"files": []}
        raise KeyboardInterrupt

    monkeypatch.setattr(sampling, "write_samples", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample(texts, Sampling(1, 5), out=tmp_path)


@pytest.fixture
def few_files():
    """A limit of open files that 100 more do not fit into, and may be raised."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = files.num_open_files() + 90
    resource.setrlimit(resource.RLIMIT_NOFILE, (low, limits[1]))
    yield low
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_sample_raises_the_limit_of_open_files(texts, tmp_path, few_files):
    sample(texts, Sampling(100, 2), out=tmp_path)
    assert "=== sample 100 of 100 ===" in (tmp_path / "samples.txt").read_text()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > few_files


def test_sample_error_for_more_files_than_can_be_open(
    texts, tmp_path, few_files, monkeypatch
):
    sample(texts, Sampling(1, 5), out=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def refuse(*_):
        raise ValueError

    monkeypatch.setattr(resource, "setrlimit", refuse)
    message = error_of(sample, texts, Sampling(100, 2), out=tmp_path)
    assert message == (
        f"--num_samples=100: more files than this system lets a process open "
        f"({few_files}): give fewer, or raise `ulimit -n`"
    )
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_sample_needs_neither_log_nor_encoding_file(texts, tmp_path, capsys):
    assert {path.name for path in texts.iterdir()} == {"config.json", "checkpoints"}
    workdir = pathlib.Path(shutil.copytree(texts, tmp_path / "run"))
    save_encoding(LETTERS, workdir / "encoding.json")
    sample(workdir, Sampling(1, 5))
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_program_samples_with_all_its_flags(texts, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    flags = (
        f"--workdir={texts} --num_samples=1 --sample_length=9 --temperature=0 "
        f"--prompt=Qab --seed=3 --out={tmp_path} --checkpoint=latest"
    )
    done = subprocess.run(
        [sys.executable, ROOT / "sample.py", *flags.split()],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert done.stderr.startswith("warning: --prompt: 1 characters unseen in training")
    assert done.stdout.startswith("=== sample 1 of 1 ===\nQab")
    assert json.loads((tmp_path / "sampling.json").read_text()) == {
        "num_samples": 1,
        "sample_length": 9,
        "temperature": 0.0,
        "prompt": "Qab",
        "bias": 0.0,
        **dict.fromkeys(("label", "source", "beam", "length_normalization")),
        "seed": 3,
        "step": 7,
        "files": [],
    }
