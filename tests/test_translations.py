"""Translations of a split: batches, measures, files, and what sampling asks for."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from errors import error_of
from PIL import Image
from test_sampling import write_run
from trees import random_like

from configs import default
from pf_jax.analysis import translation_plots
from pf_jax.analysis.classes import by_class, default_samples, sampled_labels
from pf_jax.analysis.measures.class_reading import read_classes
from pf_jax.analysis.measures.measurement import Subject
from pf_jax.analysis.measures.translation import (
    Translated,
    check_sacrebleu,
    corpus_scores,
    exact_matches,
    measure_translations,
    right_tokens,
)
from pf_jax.analysis.present import check_sampling, settle_sampling, write_samples
from pf_jax.analysis.request import Request, Sampling
from pf_jax.analysis.translations import (
    Search,
    attended,
    bucketed,
    decode_sources,
    sample_sources,
)
from pf_jax.data.conditions import Sources, as_condition
from pf_jax.data.pixels import Pixels
from pf_jax.data.sequences import join_sequences
from pf_jax.data.translation import Translation
from pf_jax.decoding import beam_search, greedy
from pf_jax.experiment import evaluation
from pf_jax.experiment.build import make_model, state_shapes
from pf_jax.experiment.loop import train_and_evaluate
from pf_jax.experiment.measuring import Measures
from pf_jax.experiment.sampling import sample
from pf_jax.experiment.translating import longest_target
from pf_jax.generator import encode_condition
from pf_jax.rating.contents import form_of

ENCODING = Translation("characters", tuple("abc"), tuple("xyz"))
DIGITS = Pixels(4, 6, num_classes=3)
SMALL = {
    "generator.attention": "dot",
    "generator.encoder_size": 3,
    "generator.hidden_size": 6,
}


def make_sources(lengths):
    values = np.zeros((len(lengths), max(lengths)), np.int32)
    random = np.random.default_rng(0)
    for row, length in enumerate(lengths):
        values[row, : length - 1] = random.integers(2, 5, size=length - 1)
    return Sources(values, np.array(lengths, np.int32))


def make_state(seed=0):
    config = default.get_config()
    config.update_from_flattened_dict(
        {"objective": "teacher_forcing", "data.name": "transduction", **SMALL}
    )
    shapes = state_shapes(make_model(config, ENCODING))
    return random_like(shapes, seed=seed, scale=1.0)


def test_bucketed_has_each_source_once_in_few_lengths():
    lengths = [1, 40, 9, 8, 17, 3, 2, 33, 16, 5, 10]
    sources = make_sources(lengths)
    buckets = list(bucketed(sources, num_rows=3))
    numbers = np.concatenate([bucket.numbers for bucket in buckets])
    assert sorted(numbers) == list(range(len(lengths)))
    padded = [bucket.source.values.shape for bucket in buckets]
    # 5 of at most 8, 3 of at most 16, 1 of at most 32, 2 of at most the longest.
    assert padded == [(8, 3), (8, 3), (16, 3), (32, 3), (40, 3)]
    for bucket in buckets:
        for row, number in enumerate(bucket.numbers):
            length = lengths[number]
            assert bucket.source.mask[:, row].sum() == length
            expected = sources.values[number, :length]
            np.testing.assert_array_equal(bucket.source.values[:length, row], expected)


@pytest.mark.parametrize("beam", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_decode_sources_equals_one_batch_of_all(beam):
    state, sources = make_state(), make_sources([9, 2, 5, 12, 3, 9])
    found = decode_sources(state, sources, Search(7, beam, 0.5))
    generator, params = state.settings.generator, state.generator.params
    encode = jax.jit(encode_condition, static_argnames="generator")
    context = encode(params, as_condition(sources), generator=generator)
    if beam == 1:
        expected = greedy(params, context, num_steps=7, generator=generator)
    else:
        expected = beam_search(
            params,
            context,
            beam_size=beam,
            length_normalization=0.5,
            num_steps=7,
            generator=generator,
        )
    for row, tokens in enumerate(found):
        np.testing.assert_array_equal(
            tokens, expected.tokens[: expected.lengths[row], row]
        )
    assert len({tokens.tobytes() for tokens in found}) > 1


@pytest.mark.slow
def test_sample_sources_at_temperature_zero_equals_greedy_decoding():
    state, sources = make_state(), make_sources([9, 2, 5, 12, 3, 9])
    sampled = sample_sources(
        state, jax.random.key(0), sources, num_steps=7, temperature=0.0
    )
    found = decode_sources(state, sources, Search(7))
    for one, other in zip(sampled, found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_attended_has_rows_of_one_over_the_source_alone():
    state, lengths = make_state(), [4, 2, 6]
    targets = [np.array(x) for x in ([2, 3, 0], [4, 0], [2, 2, 2, 2, 0])]
    weights = attended(state, make_sources(lengths), targets)
    assert [w.shape for w in weights] == [(3, 4), (2, 2), (5, 6)]
    for each in weights:
        np.testing.assert_allclose(each.sum(axis=1), 1, rtol=1e-5)
    # A target does not depend on those beside it, nor on its own last token.
    alone = attended(state, make_sources(lengths[:1]), [np.array([2, 3, 4])])
    np.testing.assert_allclose(weights[0], alone[0], rtol=1e-5)


REFERENCES = [
    np.array(x) for x in ([2, 3, 0], [4, 0], [2, 1, 0], [2] * 10 + [0], [3] * 11 + [0])
]
HYPOTHESES = [
    np.array(x) for x in ([2, 3, 0], [4, 2, 0], [2, 1, 0], [2] * 10 + [0], [3, 0])
]


def make_translated(hypotheses, references=REFERENCES):
    return Translated(hypotheses, hypotheses, [], [], [], [])._replace(
        references=references,
        samples=hypotheses[:2],
        sample_references=references[:2],
    )


def test_exact_matches_and_right_tokens_by_hand():
    expected = [True, False, False, True, False]
    np.testing.assert_array_equal(exact_matches(HYPOTHESES, REFERENCES), expected)
    # An unknown symbol is right nowhere, and an end that comes early is wrong.
    np.testing.assert_array_equal(
        right_tokens(HYPOTHESES, REFERENCES), [3, 1, 2, 11, 1]
    )


def test_measure_translations_by_hand():
    measured, signatures = measure_translations(
        make_translated(HYPOTHESES), "characters"
    )
    numbers, curves = measured.numbers, measured.curves
    assert not signatures and set(numbers) == {
        "exact_match",
        "token_accuracy",
        "sampled_exact_match",
    }
    assert numbers["exact_match"].value == pytest.approx(2 / 5)
    assert numbers["token_accuracy"].value == pytest.approx(18 / 31)
    assert numbers["sampled_exact_match"].value == 0.5
    # One reference has an unknown symbol.
    assert numbers["exact_match"].reference == pytest.approx(4 / 5)
    assert numbers["token_accuracy"].reference == pytest.approx(30 / 31)
    curve = curves["exact_match_by_length"]
    assert curve.x_label == "characters of the reference"
    np.testing.assert_array_equal(curve.steps, [10, 20])
    np.testing.assert_allclose(curve.values, [2 / 4, 0])
    np.testing.assert_allclose(curve.reference, [3 / 4, 1])
    curve = curves["token_accuracy_by_length"]
    np.testing.assert_allclose(curve.values, [17 / 19, 1 / 12])


def test_references_measured_against_themselves_are_their_reference():
    measured, _ = measure_translations(make_translated(REFERENCES), "words")
    for number in measured.numbers.values():
        assert number.value == number.reference
    for curve in measured.curves.values():
        np.testing.assert_array_equal(curve.values, curve.reference)


def test_long_references_are_in_few_classes():
    references = [np.full(n, 2) for n in range(2, 900)]
    measured, _ = measure_translations(make_translated(references, references), "words")
    steps = measured.curves["exact_match_by_length"].steps
    assert len(steps) <= 20 and steps[0] == 50 and steps[-1] == 900


def test_corpus_scores_by_hand():
    numbers, signatures = corpus_scores(["a b c d"], ["a b c d e"])
    # All n-grams are right, and the brevity penalty is exp(1 - 5 / 4).
    assert numbers["bleu"].value == pytest.approx(100 * np.exp(-0.25))
    assert "tok:13a" in signatures["bleu"] and "version:" in signatures["chrf"]
    same, _ = corpus_scores(["a b c d e"], ["a b c d e"])
    for number in same.values():
        assert number.value == pytest.approx(number.reference)


def test_bleu_without_sacrebleu_is_refused(monkeypatch):
    check_sacrebleu()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert error_of(check_sacrebleu) == (
        "--bleu: sacrebleu is not installed: install it with pip install "
        "'pf_jax[translation]', or pip install sacrebleu"
    )


@pytest.mark.parametrize(
    ("sampling", "encoding", "message"),
    [
        (Sampling(label=3), DIGITS, "--label=3: must be from 0 to 2"),
        (Sampling(label=-1), DIGITS, "--label=-1: must be from 0 to 2"),
        (Sampling(label=1), Pixels(4, 6), "this run's data has no class labels"),
        (Sampling(label=1), ENCODING, "this run's data has no class labels"),
        (Sampling(source="a"), DIGITS, "--source=a: is for translations"),
        (Sampling(beam=2), DIGITS, "--beam=2: is for translations"),
        (Sampling(source=""), ENCODING, "--source is empty"),
        (Sampling(source="a" * 10_000), ENCODING, "--source has 10,001 characters"),
        (Sampling(prompt="a"), ENCODING, "--prompt=a: a prompt is a text"),
    ],
)
def test_settle_sampling_refuses_conditions_that_do_not_fit(
    sampling, encoding, message
):
    assert message in error_of(settle_sampling, sampling, encoding, 10)


@pytest.mark.parametrize(
    ("field", "value"),
    [("beam", 0), ("beam", 101), ("length_normalization", float("nan"))],
)
def test_check_sampling_refuses_searches(field, value):
    message = error_of(check_sampling, Sampling()._replace(**{field: value}))
    assert message.startswith(f"--{field}={value}: must be from")


def test_settle_sampling_fills_in_the_search_and_a_row_for_each_class():
    settled = settle_sampling(Sampling(), ENCODING, 10)
    assert (settled.beam, settled.length_normalization) == (1, 1.0)
    settled = settle_sampling(Sampling(), DIGITS, 24)
    assert (settled.num_samples, settled.beam) == (24, None)
    assert default_samples(Pixels(4, 6), None) is None
    assert settle_sampling(Sampling(label=2), DIGITS, 24).num_samples == 64


def test_sampled_labels_are_the_classes_in_turn_or_the_one_asked_for():
    np.testing.assert_array_equal(sampled_labels(DIGITS, None, 5), [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(sampled_labels(DIGITS, 2, 3), [2, 2, 2])
    assert sampled_labels(Pixels(4, 6), None, 5) is None
    images = np.arange(1, 6)[:, None, None] * np.ones((1, 2, 2))
    rows = by_class(images, np.array([0, 1, 2, 0, 1]), 3)[..., 0, 0]
    np.testing.assert_array_equal(rows, [[1, 4], [2, 5], [3, 0]])


def test_rating_refuses_translations():
    assert "translation: no way to show such data" in error_of(form_of, ENCODING)


@pytest.mark.parametrize(
    ("most", "too_long", "expected"),
    [(9, "drop", 6), (6, "drop", 3), (9, "cut", 6), (6, "cut", 6), (5, "cut", 5)],
)
def test_longest_target_is_of_those_that_training_reads(most, too_long, expected):
    lengths = np.array([3, 7, 4])  # ends included
    assert longest_target(lengths, most, too_long) == expected


def test_printable_shows_blanks_and_what_the_font_has():
    assert translation_plots.printable("a b") == "a\u2423b"
    assert translation_plots.printable("\u4f60ü\n") == "\\u4f60ü\\n"


@pytest.mark.slow
def test_plot_attention_is_bounded(tmp_path):
    long = translation_plots.AttentionMap(
        np.full((300, 300), 1 / 300), ["$a$"] * 300, ["\u4f60"] * 300
    )
    translation_plots.plot_attention([long] * 10, tmp_path / "long.png")
    with Image.open(tmp_path / "long.png") as picture:
        assert picture.size[0] <= 1000 and picture.size[1] <= 4000


@pytest.mark.slow
def test_read_classes_of_real_images_is_the_reference():
    random = np.random.default_rng(0)
    labels = random.integers(3, size=90)
    images = (random.random((90, 24)) < 0.1).astype(np.uint8)
    for row, label in enumerate(labels):
        images[row, 8 * label : 8 * label + 8] = 1
    split = join_sequences(list(images))._replace(conditions=labels)
    subject = Subject(None, DIGITS, split, split, None, 24)
    right = read_classes(images, labels, images, subject)
    assert right.value == right.reference == 1.0
    wrong = read_classes(images, (labels + 1) % 3, images, subject)
    assert wrong.value == 0.0 and wrong.reference == 1.0


@pytest.mark.slow
def test_sample_translates_a_source_without_data(tmp_path, capsys):
    write_run(tmp_path / "run", "transduction", ENCODING, **SMALL)
    message = error_of(sample, tmp_path / "run", Sampling())
    assert message.startswith("--source is missing")
    assert not (tmp_path / "run" / "samples").exists()
    capsys.readouterr()
    asked = Sampling(num_samples=2, sample_length=9, source="abq", beam=3)
    sample(tmp_path / "run", asked)
    out = capsys.readouterr()
    page = (tmp_path / "run" / "samples" / "samples.txt").read_text()
    assert "--source: 1 characters unseen in training" in out.err
    assert page.startswith("=== sample 1 of 2 ===\nsource: abq\ntranslation: ")
    assert page in out.out
    first, second = page.split("\n\n")
    assert first.split("\n")[2] == second.split("\n")[2]


@pytest.mark.slow
def test_samples_of_a_label_are_those_that_have_it_in_turn(tmp_path):
    fields = {"data.labels": True}
    _, state = write_run(tmp_path / "run", "digits", DIGITS, **fields)

    def samples(label):
        sampling = settle_sampling(Sampling(num_samples=6, label=label), DIGITS, 24)
        key = jax.random.key(1)
        request = Request(state, DIGITS, None, key, sampling, 24, tmp_path)
        return write_samples(request)

    in_turn, ones = samples(None), samples(1)
    equal = [np.array_equal(*pair) for pair in zip(in_turn, ones, strict=True)]
    # Sample i has the same noise in both, and class i modulo 3, or 1.
    assert equal == [False, True, False, False, True, False]


@pytest.mark.slow
def test_sample_records_the_label(tmp_path):
    write_run(tmp_path / "run", "digits", DIGITS, **{"data.labels": True})
    record = sample(tmp_path / "run", Sampling(num_samples=3, label=1))
    assert record["label"] == 1
    files = {file.name for file in (tmp_path / "run" / "samples").iterdir()}
    assert {"samples.png", "sampling.json"} <= files


@pytest.fixture(scope="module")
def reversing(tmp_path_factory):
    """A run that has learned to reverse up to three letters, never written to."""
    config = default.get_config()
    config.update_from_flattened_dict(
        {
            "objective": "teacher_forcing",
            "data.name": "transduction",
            "data.length": 3,
            "data.test_length": 12,
            **SMALL,
            "generator.hidden_size": 48,
            "generator.encoder_size": 24,
            "generator.embedding_size": 16,
            "train.sequence_length": 5,
            "train.batch_size": 64,
            "train.learning_rate": 1e-2,
            "train.num_steps": 250,
            "train.eval_every": 250,
            "evaluation.sample_length": 6,
        }
    )
    workdir = tmp_path_factory.mktemp("reversing") / "run"
    train_and_evaluate(config, workdir)
    return workdir


@pytest.mark.slow
def test_evaluate_translates_the_split(reversing, capsys):
    metrics = evaluation.evaluate(
        reversing, Sampling(num_samples=2, beam=2), Measures(bleu=True), split="test"
    )
    folder = reversing / "evaluation" / "test"
    table = (folder / "translations.tsv").read_text().split("\n")
    assert table[0] == "source\treference\ttranslation" and not table[-1]
    rows = [line.split("\t") for line in table[1:-1]]
    assert all(source[::-1] == reference for source, reference, _ in rows)
    share = np.mean([reference == own for _, reference, own in rows])
    measures = metrics["measures"]
    assert measures["exact_match"]["value"] == pytest.approx(share)
    short = [x == y for _, x, y in rows if len(x) <= 3]
    assert np.mean(short) > 0.9 and share < 0.9
    assert metrics["curves"]["exact_match_by_length"]["steps"] == [10, 20]
    assert "version" in metrics["signatures"]["bleu"] and "recovery_1" not in measures
    assert metrics == json.loads((folder / "metrics.json").read_text())
    names = {"samples.txt", "attention.png", "lengths.png", "hidden_gap.png"}
    assert names <= {file.name for file in folder.iterdir()}
    assert "translations equal to the reference, share" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("measures", "message"),
    [
        (Measures(reverse=True), "--reverse: does not know conditions"),
        (Measures(judge="elsewhere"), "--judge=elsewhere: does not know conditions"),
    ],
)
def test_evaluate_refuses_measures_that_do_not_know_conditions(
    reversing, measures, message
):
    assert message in error_of(
        evaluation.evaluate, reversing, Sampling(), measures, split="valid"
    )
    assert not (reversing / "evaluation" / "valid").exists()
