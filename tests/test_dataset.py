import importlib
import pathlib

import numpy as np
import pytest
from errors import error_of

from configs import default
from pf_jax.data import (
    SOURCES,
    Vocabulary,
    check_fields_read,
    encoding_from_json,
    encoding_to_json,
    load_dataset,
    load_encoding,
    save_encoding,
)
from pf_jax.data.dataset import FIELD_DEFAULTS

CONFIGS = pathlib.Path(default.__file__).parent


def data_of(name: str, path: pathlib.Path | str):
    data = default.get_config().data
    data.name, data.path = name, str(path)
    return data


def _write(folder: pathlib.Path, **splits: str) -> pathlib.Path:
    for split, content in splits.items():
        (folder / f"{split}.txt").write_text(content)
    return folder


def test_load_dataset_builds_the_vocabulary_from_the_training_split(tmp_path):
    folder = _write(tmp_path, train="abba", valid="abc", test="xa\nx")
    dataset = load_dataset(data_of("text", folder))
    assert isinstance(dataset.encoding, Vocabulary)
    assert dataset.encoding.symbols == ("\ufffd", "a", "b")
    values = {split: sequences.values for split, sequences in dataset.splits.items()}
    np.testing.assert_array_equal(values["train"], [0, 1, 2, 2, 1])
    np.testing.assert_array_equal(values["valid"], [0, 1, 2, 0])
    np.testing.assert_array_equal(values["test"], [0, 0, 1, 0, 0])
    assert dataset.unknown == {"train": 0, "valid": 1, "test": 3}


def test_load_dataset_uses_a_saved_encoding_again(tmp_path):
    folder = _write(tmp_path, train="abba", valid="abc", test="b")
    saved = Vocabulary.from_text("bcd")
    dataset = load_dataset(data_of("text", folder), saved)
    assert dataset.encoding is saved
    np.testing.assert_array_equal(dataset.splits["train"].values, [0, 0, 1, 1, 0])
    np.testing.assert_array_equal(dataset.splits["valid"].values, [0, 0, 1, 2])
    assert dataset.unknown == {"train": 2, "valid": 1, "test": 0}


def test_load_dataset_error_for_an_unknown_name_lists_the_known_ones():
    message = error_of(load_dataset, data_of("ptb", ""))
    assert "data.name=ptb" in message
    assert message.partition("one of ")[2].split(", ") == list(SOURCES)


def test_load_dataset_error_for_an_empty_split(tmp_path):
    # Of 19 characters, 5 % are less than one.
    (tmp_path / "short.txt").write_text("x" * 19)
    message = error_of(load_dataset, data_of("text", tmp_path / "short.txt"))
    assert "the valid split is empty" in message and "data.name=text" in message


def test_load_encoding_gives_what_was_saved(tmp_path):
    vocabulary = Vocabulary.from_text("\U0001d11e\n\0")
    path = tmp_path / "encoding.json"
    save_encoding(vocabulary, path)
    assert load_encoding(path) == vocabulary
    assert encoding_from_json(encoding_to_json(vocabulary)) == vocabulary
    assert [file.name for file in tmp_path.iterdir()] == ["encoding.json"]


@pytest.mark.parametrize("content", [None, "", "[1]", "{}", '{"kind": "runes"}'])
def test_load_encoding_error_where_it_is_missing_or_damaged(tmp_path, content):
    path = tmp_path / "encoding.json"
    if content is not None:
        path.write_text(content)
    message = error_of(load_encoding, path)
    assert "encoding.json" in message and "--workdir" in message


@pytest.mark.parametrize(
    ("fields", "symbols", "unknown"),
    [
        ({}, ("\ufffd", "\n", "a", "b", "\u4f60"), (0, 1, 0)),
        ({"min_count": 2}, ("\ufffd", "a", "b"), (2, 1, 1)),
        ({"units": "words"}, ("<eos>", "<unk>", "ab", "a\u4f60b"), (0, 1, 1)),
        ({"units": "bytes"}, tuple(map(chr, range(256))), (0, 0, 0)),
    ],
)
def test_load_dataset_of_a_text_in_units(tmp_path, fields, symbols, unknown):
    folder = _write(tmp_path, train="ab\na\u4f60b", valid="abc", test="b\u4f60")
    section = data_of("text", folder)
    section.update(fields)
    dataset = load_dataset(section)
    assert dataset.encoding.symbols == symbols
    assert tuple(dataset.unknown.values()) == unknown
    assert encoding_from_json(encoding_to_json(dataset.encoding)) == dataset.encoding
    assert load_dataset(section, dataset.encoding).encoding is dataset.encoding


def test_load_dataset_error_for_bytes_of_words(tmp_path):
    section = data_of("ptb_word", "")
    _write(tmp_path, **{f"ptb.{s}": "a b" for s in ("train", "valid", "test")})
    section.path, section.units = str(tmp_path), "bytes"
    assert error_of(load_dataset, section) == (
        "data.units=bytes: data.name=ptb_word is read in words: set data.name=ptb_char"
    )


# Fields that only some data sets read


def test_field_defaults_are_those_of_the_default_config():
    data = default.get_config().data.to_dict()
    assert data.pop("name") == "python_reference"
    assert data == FIELD_DEFAULTS
    read = {field for source in SOURCES.values() for field in source.fields}
    assert read == set(FIELD_DEFAULTS)


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("[!_]*.py")))
def test_check_fields_read_takes_the_configs(name):
    check_fields_read(importlib.import_module(f"configs.{name}").get_config().data)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        (
            "lorenz63",
            {"path": "my.csv"},
            "data.path=my.csv: data.name=lorenz63 is computed and reads no file: leave it "
            "out, or set data.name=series",
        ),
        (
            "lorenz96",
            {"columns": ("x", 2)},
            "data.columns=x,2: data.name=lorenz96 is computed and reads no file: leave it "
            "out, or set data.name=series",
        ),
        (
            "transduction",
            {"source": "de"},
            "data.source=de: data.name=transduction is computed and reads no file: leave "
            "it out, or set data.name=parallel",
        ),
        (
            "text",
            {"observed": (1,)},
            "data.observed=1: data.name=text does not read it: leave it at ''",
        ),
        (
            "series",
            {"noise": 0.1},
            "data.noise=0.1: data.name=series does not read it: leave it at 0.05",
        ),
        (
            "sketch_rnn",
            {"units": "words"},
            "data.units=words: data.name=sketch_rnn does not read it: leave it at "
            "characters",
        ),
        (
            "digits",
            {"tfds_manual_dir": "originals"},
            "data.tfds_manual_dir=originals: data.name=digits does not read it: leave it "
            "at ''",
        ),
    ],
)
def test_load_dataset_error_for_a_field_that_the_data_set_ignores(
    name, fields, message
):
    data = data_of(name, "")
    data.update(fields)
    assert error_of(load_dataset, data) == message
    # A run that was trained with it goes on.
    check_fields_read(data, data)
    assert error_of(check_fields_read, data, data_of(name, "")) == message


def test_check_fields_read_leaves_the_users_own_function_alone():
    data = data_of("own:melodies", "folder")
    data.update(observed=(1,), task="of my own")
    check_fields_read(data)


def test_load_dataset_reads_the_data_of_a_run_with_an_ignored_field():
    data = data_of("lorenz63", "")
    dataset = load_dataset(data)
    data.update(path="my.csv")
    assert load_dataset(data, dataset.encoding).splits.keys() == dataset.splits.keys()
