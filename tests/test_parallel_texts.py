"""Parallel texts: their files, their units and their encoding."""

import gzip
import os
import pathlib

import numpy as np
import pytest
from errors import error_of
from hypothesis import given
from hypothesis import strategies as st

from configs import default
from pf_jax.analysis.request import Sampling
from pf_jax.data import encoding_from_json, encoding_to_json, load_dataset
from pf_jax.data.conditioned import encode_splits
from pf_jax.data.conditions import Pair
from pf_jax.data.parallel_texts import parallel_texts
from pf_jax.data.translation import Translation
from pf_jax.data.units import UNITS, join_words, split_words
from pf_jax.experiment.evaluation import evaluate
from pf_jax.experiment.loop import train_and_evaluate
from pf_jax.experiment.run_log import read_metrics

GERMAN, ENGLISH = "Ein Mann.\nZwei Hunde!\n", "A man.\nTwo dogs!\n"
FILES = {
    "train.de": GERMAN,
    "train.en": ENGLISH,
    "val.de": "Ein Hund.\n",
    "val.en": "A dog.\n",
    "test_2016_flickr.de": "Zwei Katzen.",
    "test_2016_flickr.en": "Two cats.",
}


def write(folder: pathlib.Path, files=FILES, **changed: str | None) -> str:
    """Writes files; names are changed by keywords, `train_de` for `train.de`."""
    new = {name.replace("_", "."): content for name, content in changed.items()}
    for name, content in (files | new).items():
        if content is not None:
            (folder / name).write_bytes(content.encode())
    return str(folder)


def data_of(path: str, **fields):
    data = default.get_config().data
    data.update(name="parallel", path=path, source="de", target="en", **fields)
    return data


def test_parallel_texts_reads_two_files_a_split(tmp_path):
    texts = parallel_texts(write(tmp_path), "de", "en")
    assert texts.splits == {
        "train": [Pair("Ein Mann.", "A man."), Pair("Zwei Hunde!", "Two dogs!")],
        "valid": [Pair("Ein Hund.", "A dog.")],
        "test": [Pair("Zwei Katzen.", "Two cats.")],
    }
    assert texts.notes == ()
    turned = parallel_texts(str(tmp_path), "en", "de").splits
    assert turned["valid"] == [Pair("A dog.", "Ein Hund.")]


def test_parallel_texts_reads_packed_and_tab_separated_files(tmp_path):
    expected = parallel_texts(write(tmp_path), "de", "en")
    (columns := tmp_path / "columns").mkdir()
    for split, pairs in expected.splits.items():
        lines = "".join(f"{a}\t{b}\r\n" for a, b in pairs)
        (columns / f"{split}.tsv").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert parallel_texts(str(columns)) == expected
    for name in FILES:
        file = tmp_path / name
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert parallel_texts(str(tmp_path), "de", "en") == expected


def test_parallel_texts_counts_and_leaves_out_empty_lines(tmp_path):
    write(tmp_path, train_de="a\n \nc\nd\n\n", train_en="A\nB\n\nD\n\n")
    texts = parallel_texts(str(tmp_path), "de", "en")
    assert texts.splits["train"] == [Pair("a", "A"), Pair("d", "D")]
    assert texts.notes == (
        "train: 3 of 5 pairs left out: empty lines, 2 in train.de and 2 in train.en",
    )
    (tmp_path / "columns").mkdir()
    tables = {f"{split}.tsv": "a\tA\n" for split in ("train", "dev")}
    path = write(tmp_path / "columns", tables | {"test.tsv": "b\tB\n\n\tC\n"})
    texts = parallel_texts(path)
    assert texts.splits["test"] == [Pair("b", "B")]
    assert texts.notes == ("test: 2 of 3 pairs left out: a side is empty in test.tsv",)


def test_a_line_separator_inside_of_a_sentence_ends_no_line(tmp_path):
    write(tmp_path, train_de="a\u2028b\nc\n", train_en="A\nC\n")
    pairs = parallel_texts(str(tmp_path), "de", "en").splits["train"]
    assert pairs == [Pair("a\u2028b", "A"), Pair("c", "C")]


@pytest.mark.parametrize(
    ("changed", "suffixes", "message"),
    [
        ({"train_en": "A\n"}, ("de", "en"), "train.de has 2 lines and train.en 1:"),
        ({"val_en": None}, ("de", "en"), "no valid file with the suffix .en:"),
        ({}, ("de", "fr"), "no train file with the suffix .fr:"),
        ({}, ("de", ""), "data.target is empty:"),
        ({}, ("", "en"), "data.source is empty:"),
        ({}, ("de", "de"), "data.target=de: the suffix of the source files too"),
        ({}, ("", ""), "no train.tsv there, and data.source and data.target are empty"),
        ({"valid_de": "a"}, ("de", "en"), "val.de and valid.de are both of the valid"),
        ({"train_tsv": "a\tb"}, ("", ""), "no valid split: add valid.tsv"),
        (
            {"train_tsv": "a\tb\na b"},
            ("", ""),
            "train.tsv: line 2 has 1 columns: must ",
        ),
        ({"train_tsv": "a\tb\tc"}, ("", ""), "train.tsv: line 1 has 3 columns: must "),
    ],
)
def test_parallel_texts_errors(tmp_path, changed, suffixes, message):
    assert message in error_of(parallel_texts, write(tmp_path, **changed), *suffixes)


def test_parallel_texts_errors_for_what_cannot_be_read(tmp_path):
    write(tmp_path)
    (tmp_path / "val.en").write_bytes(b"A dog\xff\n")
    assert "val.en: not UTF-8 (byte 5)" in error_of(
        parallel_texts, str(tmp_path), "de", "en"
    )
    (tmp_path / "val.en").rename(tmp_path / "val.en.gz")
    assert "val.en.gz: damaged gzip file" in error_of(
        parallel_texts, str(tmp_path), "de", "en"
    )
    file = str(tmp_path / "train.de")
    assert "not a folder" in error_of(parallel_texts, file, "de", "en")
    write(tmp_path, val_en="A dog.", val_de=" ")
    (tmp_path / "val.en.gz").unlink()
    message = error_of(load_dataset, data_of(str(tmp_path)))
    assert "the valid split is empty" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's a man's T-Shirt.", ["It's", "a", "man's", "T-Shirt", "."]),
        ("Ja, 3,5 km (ca.)", ["Ja", ",", "3,5", "km", "(", "ca", ".", ")"]),
        ('He said "no!" twice', ["He", "said", '"', "no", "!", '"', "twice"]),
        ("Er sagt: „Nein“, oft", ["Er", "sagt", ":", "„", "Nein", "“", ",", "oft"]),
        ("zwei- und drei", ["zwei-", "und", "drei"]),
        ("»Ja«, sagt er", ["»", "Ja", "«", ",", "sagt", "er"]),
        ("il dit «oui» ici", ["il", "dit", "«", "oui", "»", "ici"]),
        ("हिन्दी में।", ["हिन्दी", "में", "।"]),
        ("می\u200cخواهم؟", ["می\u200cخواهم", "؟"]),
        ("u\u0308ber مُحَمَّد", ["u\u0308ber", "مُحَمَّد"]),
        (
            "می\u200cخواهم 👨\u200d👩\u200d👧 🇩🇪",
            ["می\u200cخواهم", "👨\u200d👩\u200d👧", "🇩🇪"],
        ),
        ("¿Qué? [a] – b…", ["¿", "Qué", "?", "[", "a", "]", "–", "b", "…"]),
    ],
)
def test_words_are_split_and_joined_again(text, words):
    assert split_words(text) == words
    assert join_words(words) == text


@given(st.text(st.characters(codec="utf-8")))
def test_characters_and_bytes_are_joined_to_the_same_text(text):
    for name in ("characters", "bytes"):
        unit = UNITS[name]
        symbols = unit.split(text)
        assert unit.join(symbols) == text
        assert all(len(symbol) == 1 for symbol in symbols)
    assert len(UNITS["bytes"].split(text)) == len(text.encode())


@given(st.lists(st.from_regex(r"[a-zäß]{1,4}|[.,!?;:()\[\]\"„“»«]", fullmatch=True)))
def test_words_that_are_joined_are_split_into_the_same_words(words):
    joined = join_words(words)
    # Two marks may become a number's or a word's neighbours, but nothing is lost.
    assert "".join(split_words(joined)) == "".join(words)


def test_translation_encodes_both_sides_with_their_ends(tmp_path):
    dataset = load_dataset(data_of(write(tmp_path), units="words"))
    encoding = dataset.encoding
    assert isinstance(encoding, Translation)
    assert encoding.source_symbols == ("!", ".", "Ein", "Hunde", "Mann", "Zwei")
    assert encoding.target_symbols == ("!", ".", "A", "Two", "dogs", "man")
    assert encoding.condition == ("sequence", 8)
    assert encoding.output(1).num_outputs == 8
    train = dataset.splits["train"]
    np.testing.assert_array_equal(train.values, [0, 4, 7, 3, 0, 0, 5, 6, 2, 0])
    assert train.conditions is not None
    np.testing.assert_array_equal(train.conditions.values, [[4, 6, 3, 0], [7, 5, 2, 0]])
    np.testing.assert_array_equal(train.conditions.lengths, [4, 4])
    # Hund and Katzen are unknown, dog and cats too.
    np.testing.assert_array_equal(dataset.splits["valid"].values, [0, 4, 1, 3, 0])
    np.testing.assert_array_equal(
        dataset.splits["test"].conditions.values, [[7, 1, 3, 0]]
    )
    assert dataset.unknown == {"train": 0, "valid": 1, "test": 1}
    phrase = "source words unseen in training become one unknown symbol"
    assert dataset.notes == (f"valid: 1 {phrase}", f"test: 1 {phrase}")


def test_suffixes_in_upper_or_lower_case_are_the_same(tmp_path):
    expected = parallel_texts(write(tmp_path), "de", "en")
    for file in list(tmp_path.iterdir()):
        file.rename(file.with_name(file.name.upper()))
    packed = tmp_path / "TRAIN.DE"
    (tmp_path / "TRAIN.DE.GZ").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    for suffixes in (("de", "en"), ("DE", "EN")):
        assert parallel_texts(str(tmp_path), *suffixes) == expected
    assert "the suffix of the source files too" in error_of(
        parallel_texts, str(tmp_path), "de", "DE"
    )


def test_rare_symbols_of_both_sides_are_said_to_be_rare(tmp_path):
    path = write(tmp_path, train_de="Ein Mann.\nZwei Hunde.", train_en="A.\nTwo.")
    dataset = load_dataset(data_of(path, units="words", min_count=2))
    phrase = "seen fewer than 2 times in training become one unknown symbol"
    assert dataset.notes[0] == f"train: 4 source words {phrase}"
    assert dataset.encoding.describe_unknown() == phrase
    as_json = encoding_to_json(dataset.encoding)
    assert encoding_from_json(as_json).describe_unknown() == phrase
    # Runs of before have no such field.
    assert as_json.pop("min_count") == 2
    assert encoding_from_json(as_json) == dataset.encoding


def test_translation_decodes_up_to_the_end():
    encoding = Translation("words", ("a",), ("b", "."))
    assert encoding.decode(np.array([2, 3, 0, 2, 2])) == "b."
    assert encoding.decode(np.array([2, 1])) == "b <unk>"
    assert encoding.end_of(np.array([2, 3, 0, 2, 0])) == 3
    assert encoding.end_of(np.array([2, 3])) is None
    assert encoding.describe(np.array([0])) == "''"
    assert encoding.decode_source(np.array([2, 2, 0])) == "a a"
    np.testing.assert_array_equal(encoding.encode_source("a b a"), [2, 1, 2, 0])
    np.testing.assert_array_equal(encoding.encode_condition("b"), [1, 0])


@pytest.mark.parametrize("units", list(UNITS))
def test_translation_comes_back_from_json(units):
    pairs = [Pair("Ein Mann", "A man"), Pair("Größe", "Size")]
    encoding = Translation.from_pairs(pairs, units, lowercase=True)
    assert encoding_from_json(encoding_to_json(encoding)) == encoding
    assert "min_count" not in encoding_to_json(encoding)
    for source, target in pairs:
        assert encoding.decode(encoding.encode(target)) == target.lower()
        assert encoding.decode_source(encoding.encode_source(source)) == source.lower()
    names = {
        "characters": ("characters", "bits_per_char"),
        "words": ("words", "perplexity"),
        "bytes": ("bytes", "bits_per_byte"),
    }
    assert (encoding.unit, encoding.measure.name) == names[units]


def test_from_pairs_knows_every_byte_however_rare_it_is():
    encoding = Translation.from_pairs([Pair("ab", "c")], "bytes", min_count=50)
    assert len(encoding.source_symbols) == len(encoding.target_symbols) == 256


def test_from_pairs_knows_what_is_frequent_on_its_side():
    pairs = [Pair("a a b", "b c"), Pair("b", "b")]
    encoding = Translation.from_pairs(pairs, "words", min_count=2)
    assert encoding.source_symbols == ("a", "b")
    assert encoding.target_symbols == ("b",)
    assert encoding.count_unknown("b c d") == 2
    message = error_of(Translation.from_pairs, pairs, "words", min_count=3)
    assert "data.min_count=3" in message and "sources" in message
    assert "the most frequent one 2 times" in message


def test_long_sources_are_dropped_or_cut(tmp_path):
    long = "Ein Mann . . .\nZwei Hunde!\n"
    path = write(tmp_path, train_de=long)
    fields = {"units": "words", "source_length": 4}
    dropped = load_dataset(data_of(path, **fields))
    assert len(dropped.splits["train"].lengths) == 1
    assert dropped.encoding.decode(dropped.splits["train"].values[1:]) == "Two dogs!"
    assert (
        "train: 1 sources have more tokens than data.source_length=4: left out"
        in (dropped.notes[0])
    )
    cut = load_dataset(data_of(path, **fields, too_long="cut"))
    sources = cut.splits["train"].conditions
    encoding = cut.encoding
    assert isinstance(encoding, Translation) and sources is not None
    np.testing.assert_array_equal(sources.lengths, [4, 4])
    assert encoding.decode_source(sources.values[0]) == "Ein Mann."
    assert cut.notes[0].endswith("data.source_length=4: cut")
    fields["source_length"] = 3
    message = error_of(load_dataset, data_of(path, **fields))
    assert "data.source_length=3: every source of the train split is longer" in message


def test_padding_that_would_fill_the_memory_is_an_error():
    encoding = Translation("characters", ("a",), ("b",))
    pairs = [Pair("a" * 200_000, "b"), *[Pair("a", "b")] * 1000]
    message = error_of(encode_splits, {"train": pairs}, encoding)
    assert "the longest source has 200,001 tokens" in message
    assert "data.source_length" in message


# The unit's and the encoding's parts have tests of their own.
@pytest.mark.slow
def test_a_run_on_parallel_texts_says_what_it_leaves_out(tmp_path, capsys):
    source = np.random.default_rng(0)
    (data := tmp_path / "data").mkdir()
    for split, size in (("train", 30), ("valid", 10), ("test", 10)):
        words = source.choice(["ja", "nein", "wir", "du"], (size, 4))
        lines = [" ".join(row) + "\t" + " ".join(row[::-1]) for row in words]
        (data / f"{split}.tsv").write_text("\n".join(lines) + "\n\n")
    with (data / "train.tsv").open("a") as file:
        file.write(f"{'ja ' * 9}\tja\nja\t{'ja ' * 9}\n")
    with (data / "test.tsv").open("a") as file:
        file.write(f"{'du ' * 9}\tdu\n")
    config = default.get_config()
    small = {
        "data.name": "parallel",
        "data.path": str(data),
        "data.units": "words",
        "data.source_length": 6,
        "generator.hidden_size": 6,
        "generator.embedding_size": 3,
        "discriminator.hidden_size": 4,
        "discriminator.mlp_size": 4,
        "train.sequence_length": 6,
        "train.batch_size": 8,
        "train.num_steps": 2,
        "train.log_every": 1,
    }
    config.update_from_flattened_dict(small)
    train_and_evaluate(config, tmp_path / "run")
    printed = capsys.readouterr().out
    for line in (
        "train: 1 of 33 pairs left out: a side is empty in train.tsv",
        "train: 1 sources have more tokens than data.source_length=6: left out with their "
        "targets",
        "train: 1 sequences have more steps than train.sequence_length=6: left out",
    ):
        assert f"{line}\n" in printed
    valid = read_metrics(tmp_path / "run")[-1]
    assert valid["split"] == "valid" and valid["step"] == 2
    # Five symbols and the end, of which the model knows next to nothing.
    assert 1 < valid["perplexity"] < 9
    assert 0 <= valid["discriminator_accuracy"] <= 1
    evaluate(tmp_path / "run", Sampling(num_samples=2, sample_length=6), split="test")
    printed = capsys.readouterr().out
    assert "test: 1 sources have more tokens than data.source_length=6" in printed
    assert "train: " not in printed


def test_multi30k_has_its_published_sizes():
    folder = pathlib.Path(os.environ.get("PF_JAX_DATA", "")) / "multi30k"
    if not folder.is_dir() or "PF_JAX_DATA" not in os.environ:
        pytest.skip("PF_JAX_DATA does not name a folder with multi30k/train.de")
    splits, notes = parallel_texts(str(folder), "de", "en")
    assert {split: len(pairs) for split, pairs in splits.items()} == {
        "train": 29_000,
        "valid": 1014,
        "test": 1000,
    }
    assert notes == ()
    # Blanks and rare marks are lost, in so many lines.
    for side, most in ((0, 0.007), (1, 0.003)):
        texts = [pair[side] for pair in splits["train"]]
        changed = [text for text in texts if join_words(split_words(text)) != text]
        assert 0 < len(changed) / len(texts) < most
