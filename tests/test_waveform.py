import json
import math
import os
import pathlib
import struct
import wave

import numpy as np
import pytest
from errors import error_of
from figures import drawn_by
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy.io import wavfile

from pf_jax import emissions
from pf_jax.analysis import sound
from pf_jax.data import wav, waveform
from pf_jax.data.waveform import Waveform

RATE = 8000


def _write(path: pathlib.Path, samples, rate: int = RATE) -> str:
    """Writes a file in the width of its samples; 16 bits by default."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.asarray(samples)
    if samples.dtype == np.int64:
        samples = samples.astype(np.int16)
    wavfile.write(path, rate, samples)
    return str(path)


def _riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A wav file of these chunks."""
    body = b"".join(
        name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
        for name, content in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body


def _format(tag: int = 1, channels: int = 1, rate: int = RATE) -> tuple[bytes, bytes]:
    width = 2 * channels
    content = struct.pack("<HHIIHH", tag, channels, rate, rate * width, width, 16)
    return b"fmt ", content


def _sine(frequency: float, rate: int, count: int) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(count) / rate)


def _mu_law(x: float, mu: int) -> float:
    return math.copysign(math.log(1 + mu * abs(x)) / math.log(1 + mu), x)


amplitudes = st.floats(-1, 1, width=32)
encodings = st.builds(
    Waveform,
    st.just(RATE),
    st.integers(2, 300) | st.integers(2, waveform.MAX_BINS),
    st.sampled_from(["mu_law", "linear"]),
)


def test_encode_at_hand_computed_amplitudes():
    # log(1 + 255 / 2) / log(256) = 0.8757, so 0.5 is at 239.15 of 255.
    raw = np.array([-1, -0.5, -1e-4, 0, 1e-4, 0.5, 1])
    mu_law = Waveform(RATE, 256, "mu_law").encode(raw)
    np.testing.assert_array_equal(mu_law, [0, 16, 127, 128, 128, 239, 255])
    linear = Waveform(RATE, 5, "linear").encode(raw)
    np.testing.assert_array_equal(linear, [0, 1, 2, 2, 2, 3, 4])


@settings(deadline=None)
@given(encodings, st.lists(amplitudes, min_size=1, max_size=20))
def test_decode_is_within_half_a_bin_of_what_was_encoded(
    encoding: Waveform, raw: list[float]
):
    mu = encoding.num_bins - 1
    compress = _mu_law if encoding.companding == "mu_law" else (lambda x, mu: x)
    decoded = encoding.decode(encoding.encode(np.array(raw)))
    assert decoded.dtype == np.float32
    for before, after in zip(raw, decoded.tolist(), strict=True):
        assert abs(compress(before, mu) - compress(after, mu)) <= 1 / mu + 1e-6


@settings(deadline=None)
@given(encodings, st.lists(amplitudes, min_size=2, max_size=20))
def test_encode_is_monotone(encoding: Waveform, raw: list[float]):
    bins = encoding.encode(np.sort(raw)).astype(int)
    assert (np.diff(bins) >= 0).all()


@pytest.mark.parametrize("companding", ["mu_law", "linear"])
@pytest.mark.parametrize("num_bins", [2, 3, 5, 16, 255, 256, 257, 1024, 65536])
def test_encode_inverts_decode_of_every_bin(num_bins: int, companding: str):
    encoding = Waveform(RATE, num_bins, companding)
    centers = encoding.decode(np.arange(num_bins))
    np.testing.assert_array_equal(encoding.encode(centers), np.arange(num_bins))
    np.testing.assert_array_equal(centers[[0, -1]], [-1, 1])
    np.testing.assert_allclose(centers, -centers[::-1], atol=1e-7)


def test_encode_takes_one_byte_up_to_256_bins_and_two_above():
    types = [
        Waveform(RATE, bins, "mu_law").encode(np.ones(3)).dtype
        for bins in (2, 256, 257, 65536)
    ]
    assert types == [np.uint8, np.uint8, np.uint16, np.uint16]


def test_encode_reads_what_is_beyond_full_scale_as_full_scale():
    for companding in ("mu_law", "linear"):
        encoding = Waveform(RATE, 256, companding)
        bins = encoding.encode(np.array([-40.0, -1.01, 1.01, 40.0]))
        np.testing.assert_array_equal(bins, [0, 0, 255, 255])


def test_mu_law_keeps_quiet_sounds_apart_where_linear_does_not():
    quiet = 0.01 * _sine(100, RATE, 800)
    errors = [
        np.abs(encoding.decode(encoding.encode(quiet)) - quiet).max()
        for encoding in (Waveform(RATE, 256, "mu_law"), Waveform(RATE, 256, "linear"))
    ]
    # Near zero bins are log(256) / 255 * 2 / 255 of full scale wide, or 2 / 255.
    assert errors[0] < 4e-4 and errors[1] > 2e-3


@pytest.mark.parametrize("num_bins, silence", [(3, 1), (255, 127), (256, 128)])
def test_first_input_is_the_bin_of_silence(num_bins: int, silence: int):
    encoding = Waveform(RATE, num_bins, "mu_law")
    first = encoding.first_input
    assert isinstance(first, np.ndarray) and first.shape == () and first == silence
    assert first.dtype == encoding.encode(np.zeros(1)).dtype


def test_output_is_a_token_per_bin():
    output = Waveform(RATE, 64, "linear").output(20)
    assert output == (emissions.categorical, 64, None)


def test_measure_is_in_bits():
    measure = Waveform(RATE, 256, "mu_law").measure
    assert measure[:2] == ("bits_per_sample", "bits per sample")
    assert measure.of_nll(math.log(256)) == pytest.approx(8)


def test_from_json_inverts_to_json():
    encoding = Waveform(RATE, 64, "linear")
    values = json.loads(json.dumps(encoding.to_json()))
    assert values == {"sample_rate": RATE, "num_bins": 64, "companding": "linear"}
    assert Waveform.from_json(values) == encoding


def test_describe_tells_length_and_loudness():
    encoding = Waveform(RATE, 65536, "linear")
    words = encoding.describe(encoding.encode(_sine(100, RATE, 4000)))
    assert words == "0.5 s, peak 0.500, root mean square 0.354"
    assert encoding.summary() == ", 8,000 per second in 65536 linear bins"


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ((0, 256, "mu_law"), "data.sample_rate=0: must be from 1 to 500000"),
        ((-8000, 256, "mu_law"), "data.sample_rate=-8000: must be from 1 to 500000"),
        ((RATE, 1, "mu_law"), "data.num_bins=1: must be from 2 to 65536"),
        ((RATE, 65537, "mu_law"), "data.num_bins=65537: must be from 2 to 65536"),
        ((RATE, 2, "a_law"), "data.companding=a_law: must be one of mu_law, linear"),
    ],
)
def test_waveform_error_for_settings_out_of_range(arguments, expected: str):
    assert error_of(Waveform, *arguments) == expected


@pytest.mark.parametrize(
    "samples",
    [
        np.array([0, 64, 128, 192], np.uint8),
        np.array([-(2**15), -(2**14), 0, 2**14], np.int16),
        np.array([-(2**31), -(2**30), 0, 2**30], np.int32),
        np.array([-1, -0.5, 0, 0.5], np.float32),
        np.array([-1, -0.5, 0, 0.5], np.float64),
    ],
)
def test_read_wav_scales_every_width_by_full_scale(tmp_path: pathlib.Path, samples):
    path = tmp_path / "a.wav"
    _write(path, samples)
    signal = wav.read_wav(path, RATE)
    assert signal.dtype == np.float32
    np.testing.assert_array_equal(signal, [-1, -0.5, 0, 0.5])


def test_read_wav_error_for_amplitudes_beyond_float32(tmp_path: pathlib.Path):
    # A warning, which the cast alone would give, is an error in tests.
    _write(tmp_path / "a.wav", np.array([0, 1e300], np.float64))
    message = error_of(wav.read_wav, tmp_path / "a.wav", RATE)
    assert str(tmp_path / "a.wav") in message


def test_read_wav_of_24_bits(tmp_path: pathlib.Path):
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(3)
        file.setframerate(RATE)
        for sample in (-(2**23), -(2**22), 1, 2**22):
            file.writeframes(sample.to_bytes(3, "little", signed=True))
    expected = [-1, -0.5, 2**-23, 0.5]
    np.testing.assert_array_equal(wav.read_wav(path, RATE), expected)


def test_read_wav_takes_the_mean_of_the_channels(tmp_path: pathlib.Path):
    path = tmp_path / "a.wav"
    _write(path, [[2**14, 2**13], [-(2**14), 2**14], [2**15 - 1, 2**15 - 1]])
    expected = [0.375, 0, 1 - 2**-15]
    np.testing.assert_array_equal(wav.read_wav(path, RATE), expected)


def test_read_wav_skips_chunks_that_are_no_sound(tmp_path: pathlib.Path):
    path = tmp_path / "a.wav"
    data = (b"data", np.array([0, 2**14], np.int16).tobytes())
    content = _riff((b"bext", b"odd"), _format(), data, (b"LIST", b"INFO"))
    path.write_bytes(content)
    np.testing.assert_array_equal(wav.read_wav(path, RATE), [0, 0.5])


@pytest.mark.parametrize("rate, to", [(8000, 1000), (44100, 8000), (1000, 8000)])
def test_read_wav_resamples_to_the_same_sound(
    tmp_path: pathlib.Path, rate: int, to: int
):
    path = tmp_path / "a.wav"
    _write(path, _sine(50, rate, rate).astype(np.float32), rate)
    signal = wav.read_wav(path, to)
    assert signal.dtype == np.float32 and len(signal) == to
    middle = slice(to // 10, -to // 10)  # away from where the filter meets an end
    np.testing.assert_allclose(signal[middle], _sine(50, to, to)[middle], atol=2e-3)


def test_read_wav_takes_away_what_the_new_rate_cannot_hold(tmp_path: pathlib.Path):
    path = tmp_path / "a.wav"
    _write(path, _sine(700, RATE, RATE).astype(np.float32))
    assert np.abs(wav.read_wav(path, 1000)[100:-100]).max() < 1e-3


def test_wav_of_one_file_is_split_in_time(tmp_path: pathlib.Path):
    path = _write(tmp_path / "a.wav", np.arange(100))
    splits = wav.wav(path, RATE)
    assert list(splits) == ["train", "valid", "test"]
    parts = {split: np.concatenate(part) * 2**15 for split, part in splits.items()}
    np.testing.assert_array_equal(parts["train"], np.arange(90))
    np.testing.assert_array_equal(parts["valid"], np.arange(90, 95))
    np.testing.assert_array_equal(parts["test"], np.arange(95, 100))


def test_wav_splits_each_of_fewer_than_20_files_in_time(tmp_path: pathlib.Path):
    for index in range(19):
        # Every other one is too short to have 5 %.
        _write(tmp_path / f"{index:02}.wav", np.full(20 - index % 2, index))
    splits = wav.wav(str(tmp_path), RATE)
    assert {split: list(map(len, part)) for split, part in splits.items()} == {
        "train": [18, 19] * 9 + [18],
        "valid": [1] * 10,
        "test": [1] * 10,
    }


def test_wav_holds_out_the_last_two_of_each_20_files(tmp_path: pathlib.Path):
    for index in range(45):
        # In the order of their names, of which folders are a part.
        _write(tmp_path / f"{index // 10}" / f"{index % 10}.WAV", [index])
    _write(tmp_path / "0" / "._0.wav", [-1])
    (tmp_path / "0" / "0.txt").write_text("not a sound")
    splits = wav.wav(str(tmp_path), RATE)
    found = {split: [p[0] * 2**15 for p in part] for split, part in splits.items()}
    assert found["valid"] == [18, 38]
    assert found["test"] == [19, 39]
    assert found["train"] == [*range(18), *range(20, 38), *range(40, 45)]


@pytest.mark.parametrize("valid", ["valid", "validation", "Valid"])
def test_wav_takes_the_splits_from_subfolders(tmp_path: pathlib.Path, valid: str):
    for index, folder in enumerate(("train", valid, "test/below")):
        _write(tmp_path / folder / "a.wav", [index] * 3)
    _write(tmp_path / "more.wav", [9])
    splits = wav.wav(str(tmp_path), RATE)
    assert {split: len(part) for split, part in splits.items()} == {
        "train": 1,
        "valid": 1,
        "test": 1,
    }
    for index, (signal,) in enumerate(splits.values()):
        np.testing.assert_array_equal(signal * 2**15, [index] * 3)


def test_wav_error_for_a_missing_split(tmp_path: pathlib.Path):
    _write(tmp_path / "train" / "a.wav", [1])
    message = error_of(wav.wav, str(tmp_path), RATE)
    assert str(tmp_path) in message and "none for test and valid" in message


def test_wav_error_for_two_folders_of_a_split(tmp_path: pathlib.Path):
    for folder in ("train", "valid", "validation", "test"):
        _write(tmp_path / folder / "a.wav", [1])
    message = error_of(wav.wav, str(tmp_path), RATE)
    assert "valid and validation are both named valid" in message


@pytest.mark.parametrize("named", [False, True])
def test_wav_error_for_an_empty_folder(tmp_path: pathlib.Path, named: bool):
    empty = tmp_path
    if named:
        for split in ("train", "valid"):
            _write(tmp_path / split / "a.wav", [1])
        empty = tmp_path / "test"
        empty.mkdir()
    message = error_of(wav.wav, str(tmp_path), RATE)
    assert message == f"{empty}: no *.wav files in this folder or below it"


def test_wav_error_for_a_missing_path(tmp_path: pathlib.Path):
    assert "no such file" in error_of(wav.wav, str(tmp_path / "nowhere"), RATE)
    assert "data.path is empty" in error_of(wav.wav, "", RATE)


@pytest.mark.parametrize("sample_rate", [0, -1, 500_001, 10**9])
def test_wav_error_for_a_sample_rate_out_of_range(
    tmp_path: pathlib.Path, sample_rate: int
):
    message = error_of(wav.wav, str(tmp_path), sample_rate)
    assert message == f"data.sample_rate={sample_rate}: must be from 1 to 500000"


def test_wav_error_for_too_little_to_hold_out(tmp_path: pathlib.Path):
    path = _write(tmp_path / "a.wav", np.arange(19))
    message = error_of(wav.wav, path, RATE)
    assert path in message and "the valid split is empty" in message


@pytest.mark.parametrize("channels, kept", [(1, 50), (1, 101), (2, 62), (1, 10)])
def test_wav_error_for_a_truncated_file(
    tmp_path: pathlib.Path, channels: int, kept: int
):
    path = tmp_path / "a.wav"
    content = _riff(_format(channels=channels), (b"data", bytes(400)))
    path.write_bytes(content[:kept])
    message = error_of(wav.wav, str(path), RATE)
    assert str(path) in message and "must be a whole wav file" in message


@pytest.mark.parametrize(
    "content, cause",
    [
        (b"", "File format b'' not understood"),
        (b"ID3\4 an mp3 file with another name", "File format b'ID3"),
        (_riff(), "damaged"),
        (_riff(_format()), "damaged"),
        (_riff(_format(tag=7), (b"data", bytes(8))), "format: MULAW"),
        (_riff(_format(tag=0x55), (b"data", bytes(8))), "format: MPEGLAYER3"),
    ],
)
def test_wav_error_for_a_file_of_another_format(
    tmp_path: pathlib.Path, content: bytes, cause: str
):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    message = error_of(wav.wav, str(path), RATE)
    assert str(path) in message and cause in message
    assert "must be a whole wav file of PCM or float samples" in message


def test_wav_error_for_a_file_without_samples(tmp_path: pathlib.Path):
    path = _write(tmp_path / "a.wav", np.zeros(0, np.int16))
    message = error_of(wav.wav, path, RATE)
    assert path in message and "no samples" in message


def test_wav_error_for_a_rate_of_zero_in_the_file(tmp_path: pathlib.Path):
    path = tmp_path / "a.wav"
    path.write_bytes(_riff(_format(rate=0), (b"data", bytes(8))))
    assert "has a sample rate of 0" in error_of(wav.wav, str(path), RATE)


@pytest.mark.parametrize(
    "sample, cause",
    [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite")],
)
def test_wav_error_for_float_samples_out_of_range(
    tmp_path: pathlib.Path, sample: float, cause: str
):
    path = _write(tmp_path / "a.wav", np.array([0, sample, 0.5], np.float32))
    message = error_of(wav.wav, path, RATE)
    assert path in message and cause in message and "[-1, 1]" in message


LOUD = np.array([0, -3, 0.5, 1.5, 1], np.float32)


@pytest.mark.parametrize(
    ("too_loud", "signal", "phrase"),
    [
        ("clip", [0, -1, 0.5, 1, 1], "clipped"),
        ("normalize", LOUD / 3, "scaled down to full scale"),
        ("skip", None, "left out"),
    ],
)
def test_wav_too_loud_is_clipped_or_normalized_or_skipped(
    tmp_path: pathlib.Path, capsys, too_loud: str, signal, phrase: str
):
    quiet = LOUD / 4
    for split in ("train", "valid", "test"):
        _write(tmp_path / split / "quiet.wav", quiet)
    for index in range(7):
        _write(tmp_path / "train" / f"r{index}.wav", LOUD)
    train = wav.wav(str(tmp_path), RATE, too_loud)["train"]
    np.testing.assert_array_equal(train[0], quiet)
    loud = [] if signal is None else [signal] * 7
    assert len(train) == 1 + len(loud)
    for found, expected in zip(train[1:], loud, strict=True):
        np.testing.assert_array_equal(found, np.asarray(expected, np.float32))
    assert capsys.readouterr().err == (
        f"warning: data.path={tmp_path}: 7 of 10 files have 14 samples beyond full scale "
        f"(peak 3) and are {phrase}: r0.wav, r1.wav, r2.wav, r3.wav, r4.wav and 2 more: "
        "data.too_loud can be clip, normalize, skip\n"
    )


def test_wav_too_loud_skips_without_moving_files_to_other_splits(
    tmp_path: pathlib.Path,
):
    for index in range(40):
        samples = LOUD if index == 3 else np.float32([index / 100])
        _write(tmp_path / f"{index:02}.wav", samples)
    splits = wav.wav(str(tmp_path), RATE, "skip")
    numbers = {s: [round(100 * p[0]) for p in part] for s, part in splits.items()}
    assert numbers["valid"] == [18, 38] and numbers["test"] == [19, 39]
    assert len(numbers["train"]) == 35 and 3 not in numbers["train"]


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (("a",), "every file"),
        (("train/a", "valid/a", "test/a"), "every file of the train split"),
    ],
)
def test_wav_error_where_all_files_are_too_loud(
    tmp_path: pathlib.Path, names: tuple[str, ...], files: str
):
    for name in names:
        _write(tmp_path / f"{name}.wav", LOUD)
    assert error_of(wav.wav, str(tmp_path), RATE, "skip") == (
        f"data.path={tmp_path}: {files} has samples beyond full scale and is left out: "
        "set data.too_loud=clip or data.too_loud=normalize"
    )


def test_wav_error_names_all_files_that_are_wrong(tmp_path: pathlib.Path):
    _write(tmp_path / "good.wav", [1] * 100)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "text.wav").write_text("no sound")
    _write(tmp_path / "nan.wav", np.float32([np.nan]))
    message = error_of(wav.wav, str(tmp_path), RATE)
    assert message.startswith(
        f"{tmp_path}: 2 of 3 files cannot be used: below/text.wav cannot be read (File "
    )
    assert "; nan.wav has samples that are NaN or infinite" in message
    assert message.endswith(": repair or remove them")
    for index in range(300):
        (tmp_path / f"{index:03}{'x' * 200}.wav").write_bytes(b"")
    message = error_of(wav.wav, str(tmp_path), RATE)
    assert "302 of 303 files cannot be used" in message and "; and 297 more" in message
    assert len(message) < 1300


def test_wav_error_for_a_file_that_cannot_be_read(tmp_path: pathlib.Path):
    (tmp_path / "a.wav").symlink_to("gone")
    message = error_of(wav.wav, str(tmp_path), RATE)
    assert str(tmp_path / "a.wav") in message and "cannot be read (No such" in message


def test_wav_counts_of_the_real_digits():
    folder = pathlib.Path(os.environ.get("PF_JAX_DATA", "")) / "fsdd"
    if not (folder / "recordings").is_dir():
        pytest.skip("PF_JAX_DATA does not name a folder with fsdd/recordings/*.wav")
    splits = wav.wav(str(folder), 8000)
    sizes = {split: len(signals) for split, signals in splits.items()}
    assert sizes == {"train": 2700, "valid": 150, "test": 150}
    seconds = sum(len(s) for part in splits.values() for s in part) / 8000
    assert seconds / 60 == pytest.approx(21.9, abs=0.05)
    train = np.concatenate(splits["train"]).astype(np.float64)
    encoding = Waveform(8000, 256, "mu_law")
    noise = encoding.decode(encoding.encode(train)) - train
    assert 10 * np.log10(np.mean(train**2) / np.mean(noise**2)) > 37


def test_write_wav_is_read_back(tmp_path: pathlib.Path):
    path = tmp_path / "a.wav"
    signal = np.array([-1, -0.5, 0, 2**-15, 0.25, 1 - 2**-15])
    sound.write_wav(signal, RATE, path)
    np.testing.assert_array_equal(wav.read_wav(path, RATE), signal)
    assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]


def test_write_wav_cuts_at_full_scale(tmp_path: pathlib.Path):
    sound.write_wav(np.array([-7.0, 1.0, 7.0]), RATE, tmp_path / "a.wav")
    rate, samples = wavfile.read(tmp_path / "a.wav")
    assert rate == RATE and samples.dtype == np.int16
    np.testing.assert_array_equal(samples, [-(2**15), 2**15 - 1, 2**15 - 1])


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    return drawn_by(sound, monkeypatch)


def test_plot_sound_shows_each_signal_and_its_frequencies(
    tmp_path: pathlib.Path, figures: list[Figure]
):
    signals = [_sine(1000, RATE, 4000), 0.01 * _sine(3000, RATE, 8000)]
    sound.plot_sound(signals, RATE, tmp_path / "a.png", titles=["one", "two"])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    *rows, _ = figures[0].axes  # the last is the color bar
    assert [axes.get_title(loc="left") for axes in rows] == ["one", "", "two", ""]
    assert [axes.get_xlim()[1] for axes in rows] == [0.5, 0.5, 1, 1]
    loudest = []
    for signal, upper, lower in zip(signals, rows[::2], rows[1::2], strict=True):
        np.testing.assert_array_equal(upper.lines[0].get_ydata(), signal)
        level = lower.images[0].get_array()
        _, _, low, high = lower.images[0].get_extent()
        # Away from the ends, where a frequency's onset is heard beside it.
        column = level[:, level.shape[1] // 2]
        peak = low + (np.argmax(column) + 0.5) * (high - low) / len(column)
        loudest.append((round(peak, -2), round(float(column.max()))))
    assert loudest == [(1000, 0), (3000, -40)]


@pytest.mark.parametrize("training_length, marks", [(None, 0), (100, 1), (300, 0)])
def test_plot_sound_marks_the_training_length_where_a_signal_is_longer(
    tmp_path: pathlib.Path,
    figures: list[Figure],
    training_length: int | None,
    marks: int,
):
    sound.plot_sound(
        [np.zeros(300)], 1000, tmp_path / "a.png", training_length=training_length
    )
    for axes in figures[0].axes[:2]:
        dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert len(dashed) == marks
        assert all(line.get_xdata()[0] == 0.1 for line in dashed)


def test_plot_sound_shows_the_first_of_many_signals(
    tmp_path: pathlib.Path, figures: list[Figure], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sound, "MOST_SIGNALS", 1)
    signals, titles = [np.ones(99)] * 1200, ["one"] + ["more"] * 1199
    sound.plot_sound(
        signals, 1000, tmp_path / "a.png", titles=titles, training_length=50
    )
    upper, lower, _ = figures[0].axes
    assert upper.get_title(loc="left") == "one"
    expected = "time (s); the first 1 of 1,200 signals; dashed: training length"
    assert lower.get_xlabel() == expected


@pytest.mark.parametrize("length", [1, 63])
def test_plot_sound_takes_signals_shorter_than_a_window(
    tmp_path: pathlib.Path, length: int
):
    sound.plot_sound([np.ones(length)], 1000, tmp_path / "a.png", training_length=5)
    assert (tmp_path / "a.png").stat().st_size > 1000
