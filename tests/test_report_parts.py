import io
import pathlib
import re
import tomllib

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy.io import wavfile
from study_runs import curve, write_run, write_sound, write_states
from study_runs import number as measured

from pf_jax.analysis.measures.measurement import Curve
from pf_jax.errors import UserError
from pf_jax.study import curves, figures, samples, wording
from pf_jax.study.comparisons import contest_of, default_baseline, tables_of
from pf_jax.study.embedding import Embedding, embed_states
from pf_jax.study.results import compare_groups, numbers_of, read_result, score
from pf_jax.study.series import Series, logged, mean_of, thinned
from pf_jax.study.statistics import Comparison, compare


def test_mean_of_equals_the_mean_at_common_positions():
    x = np.array([1.0, 2.0, 4.0])
    mean = mean_of([Series(x, x), Series(x, 3 * x)])
    np.testing.assert_array_equal(mean.x, x)
    np.testing.assert_allclose(mean.y, 2 * x)


def test_mean_of_interpolates_within_the_span_of_all():
    first = Series(np.array([0.0, 2.0]), np.array([0.0, 4.0]))
    second = Series(np.array([1.0, 3.0]), np.array([1.0, 3.0]))
    mean = mean_of([first, second])
    np.testing.assert_array_equal(mean.x, [1.0, 2.0])
    np.testing.assert_allclose(mean.y, [1.5, 3.0])


def test_thinned_averages_points_side_by_side():
    curve = thinned(Series(np.arange(7.0), np.arange(7.0) ** 2), most=3)
    np.testing.assert_allclose(curve.x, [1, 4, 6])
    np.testing.assert_allclose(curve.y, [5 / 3, 50 / 3, 36])
    assert thinned(curve, most=3) is curve


def test_logged_needs_both_numbers(tmp_path):
    lines = [
        {"step": 1, "split": "valid", "nll": 3.0},
        {"step": 2, "split": "valid", "nll": 2.0, "seconds": 9.0},
        {"step": 2, "split": "train", "nll": 1.0, "seconds": 9.0},
    ]
    result = read_result(write_run(tmp_path / "run", lines=lines))
    curve = logged(result, "valid", "nll", "seconds")
    assert curve is not None and curve.x.tolist() == [9.0] and curve.y.tolist() == [2.0]
    assert logged(result, "valid", "bits_per_char") is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.23456, "1.235"),
        (-0.5, "−0.5"),
        (0.0, "0"),
        (123456.7, "123,457"),
        (9999.7, "10,000"),
        (-9999.4, "−9999"),
        (9_999_700.0, "9,999,700"),
        (0.000099996, "0.0001"),
        (0.00009999, "9.999e−05"),
        (1e-7, "1.000e−07"),
        (1e9, "1.000e+09"),
        (float("nan"), "n/a"),
        (None, "n/a"),
    ],
)
def test_number_has_four_digits(value, text):
    assert wording.number(value) == text


def test_number_of_three_digits_that_is_rounded_up_has_no_exponent():
    texts = [wording.number(value, 3) for value in (999.4, 999.7, -999.7, 1e7)]
    assert texts == ["999", "1,000", "−1,000", "1.00e+07"]


def test_answer_of_a_measure_that_is_better_where_higher():
    verdict = wording.answer(compare([2.0] * 6, [1.0] * 6) or fail(), "time", "higher")
    assert verdict.name == "better" and verdict.text.startswith("raises time by 1 (")


def fail() -> Comparison:
    raise AssertionError


def test_answer_of_a_measure_that_is_better_near_real_data():
    verdict = wording.answer(
        compare([2.0] * 6, [1.0] * 6) or fail(), "share", "reference"
    )
    assert verdict.name == "worse"
    assert verdict.text.startswith("raises the distance from real data of share by 1 (")


def test_answer_is_unclear_where_the_interval_has_zero_in_it():
    comparison = compare([1.0, 2.0, 1.0, 2.0, 1.0, 2.0], [2.0, 1.0, 1.0, 2.0, 2.0, 1.0])
    verdict = wording.answer(comparison or fail(), "nats", "lower")
    assert verdict.name == "unclear"
    assert "shows no clear difference in nats: 0 (95 % interval −" in verdict.text


def test_significance_needs_six_seeds_and_a_small_adjusted_p_value():
    comparison = Comparison((-1.0,) * 6, -1.0, (-1.0, -1.0), 0.03, 0.0, 0.04)
    assert wording.significance(comparison, "lower").name == "better"
    assert wording.significance(comparison, "higher").name == "worse"
    unclear = comparison._replace(adjusted_p_value=0.05)
    assert wording.significance(unclear, "lower").text == "not significant"
    few = comparison._replace(differences=(-1.0,) * 5)
    assert wording.significance(few, "lower").text == "5 seeds: too few"


def write_groups(folder, values):
    """Variants with one measure, `d`, of each seed."""
    groups = {}
    for variant, (objective, seeds) in values.items():
        groups[variant] = [
            read_result(
                write_run(
                    folder / variant / str(seed),
                    seed=seed,
                    objective=objective,
                    measures={"d": measured(value, label="D", reference=1.0)},
                )
            )
            for seed, value in enumerate(seeds)
        ]
    return groups


def test_contest_is_one_family_of_p_values(tmp_path):
    groups = write_groups(
        tmp_path,
        {
            "adversarial": ("professor_forcing", (1.0, 1.5, 2.5)),
            "plain": ("teacher_forcing", (2.0, 3.0, 4.5)),
            "long": ("teacher_forcing", (1.0, 2.5, 2.0)),
        },
    )
    equal_seconds = {"adversarial": "long"}
    baseline = default_baseline(groups, equal_seconds)
    assert baseline == "plain"
    contest = contest_of(groups, baseline, equal_seconds)
    assert set(contest.at_updates) == set(contest.at_seconds) == {"adversarial"}
    at_updates = contest.at_updates["adversarial"]["d"]
    at_seconds = contest.at_seconds["adversarial"]["d"]
    assert at_updates.differences == (-1.0, -1.5, -2.0)
    assert at_seconds.differences == (0.0, -1.0, 0.5)
    # Six comparisons: three measures, at equal updates and at equal seconds.
    assert at_updates.adjusted_p_value == pytest.approx(6 * at_updates.t_p_value)
    assert at_seconds.adjusted_p_value == 1.0


def test_measures_near_real_data_need_real_data_to_be_compared(tmp_path):
    groups = {
        variant: [
            read_result(
                write_run(
                    tmp_path / variant / str(seed),
                    seed=seed,
                    measures={
                        "w": measured(
                            value + seed / 8,
                            label="W",
                            better="reference",
                            reference=reference if seed else None,
                        )
                    },
                )
            )
            for seed in range(3)
        ]
        for variant, value, reference in (("a", 0.5, 0.5), ("b", 0.0, 0.5))
    }
    comparison = compare_groups(groups, "a")["b"]["w"]
    # Seeds 1 and 2: |0.125 - 0.5| - |0.625 - 0.5|, |0.25 - 0.5| - |0.75 - 0.5|.
    assert comparison.differences == (0.25, 0.0)
    assert np.isnan(score(numbers_of(groups["a"][0])["w"]))


def test_numbers_of_other_lengths_are_not_compared(tmp_path):
    groups = {
        variant: [
            read_result(
                write_run(
                    tmp_path / variant / str(seed),
                    seed=seed,
                    measures={
                        "e": measured(1.0, label=f"E over {length}", reference=0.5)
                    },
                )
            )
            for seed in range(2)
        ]
        for variant, length in (("a", 200), ("b", 400))
    }
    assert "e" not in compare_groups(groups, "a")["b"]
    table = tables_of(groups)["e"]
    assert (table.label, table.reference) == ("E over 200 or E over 400", None)
    assert list(table.rows) == ["a", "b"]


def test_tables_leave_out_what_is_not_measurable(tmp_path):
    groups = write_groups(
        tmp_path,
        {
            "a": ("teacher_forcing", (2.0, None)),
            "b": ("professor_forcing", (None, None)),
        },
    )
    table = tables_of(groups)["d"]
    assert list(table.rows) == ["a"]
    assert table.rows["a"].mean == 2.0 and np.isnan(table.rows["a"].values[1])
    assert table.reference == 1.0


def test_first_text_is_taken_whole_or_cut(tmp_path):
    run = write_run(tmp_path / "run")
    page = run / "evaluation" / "samples.txt"
    page.write_text("=== sample 1 of 2 ===\na\n\nb\n\n=== sample 2 of 2 ===\nc\n")
    assert samples.read_sample(run / "evaluation") == samples.Sample(text="a\n\nb")
    page.write_text("=== sample 1 of 1 ===\n" + "x" * 1000 + "\n")
    sample = samples.read_sample(run / "evaluation")
    assert sample.text == "x" * 600 and sample.note.startswith("The first 600 of 1,000")


def test_drawings_and_music_are_shown(tmp_path):
    run = write_run(tmp_path / "run")
    folder = run / "evaluation"
    (folder / "samples.txt").unlink()
    assert samples.read_sample(run / "evaluation").is_empty
    (folder / "sample_1.mid").write_bytes(b"MThd")
    assert (
        samples.read_sample(run / "evaluation").midi
        == "data:audio/midi;base64,TVRoZA=="
    )
    (folder / "sample_1.svg").write_text("<svg/>")
    picture = samples.read_sample(run / "evaluation").picture
    assert picture is not None and picture.startswith("data:image/svg+xml;base64,")


def test_damaged_samples_leave_a_note(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "evaluation" / "samples.txt").unlink()
    (run / "evaluation" / "samples.png").write_bytes(b"nothing")
    assert "cannot be read" in samples.read_sample(run / "evaluation").note


@pytest.mark.parametrize("size", [6, 22, 40, 3000])
def test_sounds_that_end_too_early_leave_a_note(tmp_path, size):
    run = write_run(tmp_path / "run")
    write_sound(run, np.random.default_rng(0), 1.0)
    (run / "evaluation" / "samples.txt").unlink(missing_ok=True)
    path = run / "evaluation" / "sample_1.wav"
    path.write_bytes(path.read_bytes()[:size])
    sample = samples.read_sample(run / "evaluation")
    assert sample.sound is None and "cannot be read" in sample.note


def test_pictures_are_shrunk_until_they_fit():
    noise = np.random.default_rng(0).integers(0, 256, (1100, 440, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, format="png")
    small, note = samples.shrunk_picture(file.getvalue())
    with Image.open(io.BytesIO(small)) as picture:
        assert picture.size in [(width, 2 * width) for width in samples.WIDTHS]
    assert len(small) <= samples.MAX_PICTURE_BYTES
    assert note == "The upper 80 % of the picture."


def test_sounds_are_cut():
    file = io.BytesIO()
    wavfile.write(file, 8000, np.arange(80_000, dtype=np.int16))
    short, note = samples.playable_sound(file.getvalue())
    rate, signal = wavfile.read(io.BytesIO(short))
    assert rate == 8000 and signal.tolist() == list(range(40_000)[:32768]) + list(
        range(-32768, -32768 + 40_000 - 32768)
    )
    assert note == "The first 5.0 of 10.0 seconds."
    assert samples.playable_sound(short) == (short, "")


def test_sounds_of_a_low_rate_are_resampled():
    file = io.BytesIO()
    tone = np.rint(16_000 * np.sin(2 * np.pi * 50 * np.arange(1000) / 1000))
    wavfile.write(file, 1000, tone.astype(np.int16))
    heard, note = samples.playable_sound(file.getvalue())
    rate, signal = wavfile.read(io.BytesIO(heard))
    assert (rate, len(signal), signal.dtype, note) == (8000, 8000, np.int16, "")
    expected = 16_000 * np.sin(2 * np.pi * 50 * np.arange(8000) / 8000)
    np.testing.assert_allclose(signal[800:-800], expected[800:-800], atol=40)


def test_states_that_diverged_are_left_out(tmp_path):
    run = write_run(tmp_path / "run")
    random = np.random.default_rng(0)
    states = random.standard_normal((2, 60, 3)).astype(np.float32)
    states[1, 10:] = np.nan
    path = run / "evaluation" / "states.npz"
    np.savez(path, teacher_forced=states[0], free_running=states[1])
    assert embed_states({"a": [read_result(run)]}) == (
        "Fewer than 90 states were kept: too few for t-SNE."
    )
    np.savez(path, teacher_forced=states[0], free_running=states[0, 0])
    with pytest.raises(
        UserError, match=r"states\.npz: cannot be read \(states of shape"
    ):
        embed_states({"a": [read_result(run)]})


def test_states_of_both_modes_are_fitted_together(tmp_path):
    run = write_run(tmp_path / "run")
    write_states(run, np.random.default_rng(0), size=3, count=60)
    embedding = embed_states({"a": [read_result(run)]})
    assert isinstance(embedding, Embedding)
    assert embedding.points.shape == (120, 2) and np.isfinite(embedding.points).all()
    assert embedding.is_free_running.sum() == 60 and set(embedding.variants) == {"a"}


def test_curves_are_averaged_in_figures_and_gates_are_read(tmp_path):
    run = write_run(tmp_path / "run", objective="professor_forcing")
    gates = curves.gates_of({"a": [read_result(run)]})["a"]
    assert gates.bounds == (0.75, 0.99)
    assert set(gates.open) == {"generator", "discriminator"}
    np.testing.assert_array_equal(gates.open["discriminator"].y, 1)
    assert len(gates.accuracy) == 1 and len(gates.accuracy[0].x) == 20


def test_curves_have_labels_and_a_training_length_by_position_alone(tmp_path):
    values, length = np.arange(200.0), 100
    shown = {
        "old": curve(values, label="old"),
        "temperature": curve(values, label="t", x_label="temperature, $\\frac$"),
        "judge": Curve("judge", np.arange(1, 201), values).to_json(),
    }
    run = write_run(
        tmp_path / "run", curves=shown, fields={"train.sequence_length": length}
    )
    groups = {"a": [read_result(run)]}
    pictures = curves.position_figures(groups, figures.looks_of(["a"]))
    old, temperature, judge = (picture["svg"] for picture in pictures)
    position = "steps since the start of the sequence"
    assert position in old and position in judge
    assert position not in temperature and "temperature, $\\frac$" in temperature
    dashed = [x.count("stroke-dasharray") for x in (old, temperature, judge)]
    assert dashed == [1, 0, 1]


def test_seeds_of_one_validation_are_dots():
    axes = Figure().subplots()
    one = [Series(np.array([5.0 + n]), np.array([1.0])) for n in range(2)]
    figures._plot_seeds(axes, one, figures.Look("red", "-"))
    # Their seconds differ, so that there is no mean.
    assert [(len(x.get_xdata()), x.get_marker()) for x in axes.lines] == [
        (1, "o"),
        (1, "o"),
        (0, ""),
    ]


def test_dots_are_in_proportion():
    svg = figures.draw_dots([1.0, 3.0, float("nan")], 2.0, None, (1.0, 5.0), "#000000")
    assert re.findall(r'cx="([^"]*)"', svg) == ["4.0", "70.0"]
    assert 'd="M37.0 2V14"' in svg


def test_every_file_of_the_package_is_packaged():
    root = pathlib.Path(__file__).parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["pf_jax.study"]
    folder = root / "pf_jax" / "study"
    packaged = {path for pattern in patterns for path in folder.glob(pattern)}
    assert packaged == {
        path for path in folder.iterdir() if path.is_file() and path.suffix != ".py"
    }
