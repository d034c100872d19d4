import gzip
import json
import math
import os
import pathlib

import numpy as np
import pytest
from errors import error_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pf_jax.data import Bytes, Vocabulary, text
from pf_jax.data.words import Words

ASTRAL = "a\u00e9\u4e2d\U0001f600\U0010ffff"


def _write(folder: pathlib.Path, **files: str) -> str:
    """Writes `NAME.txt` files, a double underscore standing for a dot."""
    for name, content in files.items():
        (folder / f"{name.replace('__', '.')}.txt").write_bytes(content.encode())
    return str(folder)


def test_vocabulary_is_the_unknown_symbol_and_the_sorted_characters():
    vocabulary = Vocabulary.from_text("banana\n")
    assert vocabulary.symbols == ("\ufffd", "\n", "a", "b", "n")
    assert vocabulary.size == 5
    np.testing.assert_array_equal(vocabulary.encode("ban\na"), [3, 2, 4, 1, 2])
    assert vocabulary.encode("ban").dtype == np.int32
    assert vocabulary.decode(np.array([3, 2, 4])) == "ban"


@settings(deadline=None)
@given(st.text())
@example(ASTRAL)
@example("a\0b")
@example("")
def test_decode_inverts_encode(content: str):
    vocabulary = Vocabulary.from_text(content)
    tokens = vocabulary.encode(content)
    assert tokens.shape == (len(content),)
    assert vocabulary.size == len(set(content) | {"\ufffd"})
    assert vocabulary.decode(tokens) == content


@settings(deadline=None)
@given(st.text("abc\U0001f600"), st.text("bcd\u4e2d\U0001f600\U0010ffff\ufffd"))
def test_encode_maps_unseen_characters_to_zero_and_counts_them(train: str, other: str):
    vocabulary = Vocabulary.from_text(train)
    unseen = [character not in train for character in other]
    np.testing.assert_array_equal(vocabulary.encode(other) == 0, unseen)
    assert vocabulary.count_unknown(other) == sum(unseen)
    replaced = [
        "\ufffd" if is_unseen else character
        for character, is_unseen in zip(other, unseen, strict=True)
    ]
    assert vocabulary.decode(vocabulary.encode(other)) == "".join(replaced)


def test_unknown_counts_each_character():
    vocabulary = Vocabulary.from_text("abc")
    assert vocabulary.unknown("axbyxb") == {"x": 2, "y": 1}
    assert vocabulary.count_unknown("axbyxb") == 3
    assert vocabulary.count_unknown("") == 0


def test_from_json_inverts_to_json():
    vocabulary = Vocabulary.from_text(f"{ASTRAL}\n\0")
    as_json = json.loads(json.dumps(vocabulary.to_json()))
    assert Vocabulary.from_json(as_json) == vocabulary


@pytest.mark.parametrize(
    "length, sizes",
    [
        (0, (0, 0, 0)),
        (19, (19, 0, 0)),
        (20, (18, 1, 1)),
        (39, (37, 1, 1)),
        (1000, (900, 50, 50)),
        (1019, (919, 50, 50)),
    ],
)
def test_split_text_gives_5_percent_each_to_valid_and_test(
    length: int, sizes: tuple[int, int, int]
):
    content = "".join(chr(0x4E00 + index) for index in range(length))
    splits = text.split_text(content)
    assert list(splits) == ["train", "valid", "test"]
    assert tuple(map(len, splits.values())) == sizes
    assert "".join(splits.values()) == content


def test_text_splits_a_single_file_by_the_rule(tmp_path: pathlib.Path):
    content = "\u00e9\U0001f600ab" * 10
    _write(tmp_path, book=content)
    assert text.text(str(tmp_path / "book.txt")) == {
        "train": content[:36],
        "valid": content[36:38],
        "test": content[38:],
    }


def test_text_joins_the_files_of_a_folder_in_the_order_of_their_names(
    tmp_path: pathlib.Path,
):
    path = _write(tmp_path, b="second" * 5, a="first" * 5, c10="last")
    (tmp_path / "notes.md").write_text("not a part of it")
    assert text.text(path) == text.split_text(
        "\n".join(["first" * 5, "second" * 5, "last"])
    )


@pytest.mark.parametrize(
    "names",
    [
        ("train", "valid", "test"),
        ("my__train", "my__validation", "my__test"),
        ("x_train", "y-valid", "z_TEST"),
    ],
)
def test_text_takes_the_splits_from_the_names(
    tmp_path: pathlib.Path, names: tuple[str, str, str]
):
    path = _write(tmp_path, **dict(zip(names, ("one", "two", "three"), strict=True)))
    _write(tmp_path, contest="the last part of a name counts, not its last letters")
    assert text.text(path) == {"train": "one", "valid": "two", "test": "three"}


def _write_below(folder: pathlib.Path, **contents: str) -> str:
    """Writes files whose names have `__` for `/` and `_` for `.`; `.gz` ones packed."""
    for name, content in contents.items():
        file = folder / name.replace("__", "/").replace("_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        packed = gzip.compress(content.encode())
        file.write_bytes(packed if file.suffix == ".gz" else content.encode())
    return str(folder)


def test_text_joins_files_of_subfolders_packed_or_not(tmp_path: pathlib.Path):
    path = _write_below(
        tmp_path,
        b_txt="two",
        a__z_txt_gz="on\u00e9" * 30,
        c__d__e_TXT="three",
        a__x_md="-",
    )
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "f.txt").write_text("hidden")
    (tmp_path / "c" / "back").symlink_to(tmp_path)
    joined = "\n".join(["on\u00e9" * 30, "two", "three"])
    assert text.text(path) == text.split_text(joined)
    file = str(tmp_path / "a" / "z.txt.gz")
    assert text.text(file) == text.split_text("on\u00e9" * 30)


def test_text_takes_the_splits_from_subfolders(tmp_path: pathlib.Path):
    path = _write_below(
        tmp_path,
        train__b__c_txt="2",
        train__a_txt_gz="1",
        Validation__v_txt="3",
        test__train_txt="4",
        other__train_txt="5",
    )
    assert text.text(path) == {"train": "1\n2", "valid": "3", "test": "4"}
    # Files named so in the folder itself come first.
    _write_below(tmp_path, train_txt_gz="6", valid_txt="7", test_txt="8")
    assert text.text(path) == {"train": "6", "valid": "7", "test": "8"}


def test_text_takes_the_splits_from_names_below(tmp_path: pathlib.Path):
    path = _write_below(tmp_path, a__train_txt="1", a__b__valid_txt="2", test_md="")
    message = error_of(text.text, path)
    assert "none for test: add test.txt" in message
    assert "named by splits, a/b/valid.txt, a/train.txt, but" in message
    _write_below(tmp_path, c__test_txt_gz="3")
    assert text.text(path) == {"train": "1", "valid": "2", "test": "3"}
    _write_below(tmp_path, d__test_txt="4")
    message = error_of(text.text, path)
    assert "c/test.txt.gz and d/test.txt are both named test" in message


@pytest.mark.parametrize(
    ("names", "cause"),
    [
        (["train__a_txt", "valid__a_txt"], "none for test: add them or rename"),
        (["train__a_txt", "valid__a_txt", "test__a_md"], "/test: no *.txt files there"),
        (["a__b_txt", "a__b_txt_gz"], "a/b.txt and a/b.txt.gz are both there"),
    ],
)
def test_text_error_for_folders(tmp_path: pathlib.Path, names, cause):
    assert cause in error_of(
        text.text, _write_below(tmp_path, **dict.fromkeys(names, "x"))
    )


def test_text_error_for_a_packed_file_that_is_damaged(tmp_path: pathlib.Path):
    (tmp_path / "a.txt.gz").write_bytes(b"not packed")
    message = error_of(text.text, str(tmp_path))
    assert message.startswith(
        f"{tmp_path / 'a.txt.gz'}: damaged gzip file (Not a gzipped"
    )


def test_text_bounds_what_all_packed_files_unpack_to(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "MOST_UNPACKED", 1000)
    path = _write_below(tmp_path, a_txt_gz="x" * 600, b_txt_gz="y" * 400)
    assert len("".join(text.text(path).values())) == 1001
    _write_below(tmp_path, b_txt_gz="y" * 401)
    message = error_of(text.text, path)
    assert message.startswith(f"{tmp_path / 'b.txt.gz'}: unpacks to more than ")


def test_text_as_bytes_keeps_what_is_not_utf_8(tmp_path: pathlib.Path):
    content = bytes(range(256)) * 2 + "\u4f60\U0001d11e".encode()
    (tmp_path / "a.bin").write_bytes(content)
    splits = text.text(str(tmp_path / "a.bin"), "surrogateescape")
    tokens = [Bytes().encode(part) for part in splits.values()]
    assert np.concatenate(tokens).tobytes() == content


def test_bytes_of_a_text_are_tokens_that_are_always_known():
    encoding, raw = Bytes(), "a\u00e9\U0001d11e\0"
    values = encoding.encode(raw)
    assert values.tolist() == [97, 0xC3, 0xA9, 0xF0, 0x9D, 0x84, 0x9E, 0]
    assert encoding.decode(values) == raw and encoding.count_unknown(raw) == 0
    assert encoding.decode(values[:2]) == "a\ufffd"
    assert (encoding.size, encoding.output(1).num_outputs) == (256, 256)
    assert encoding.measure.of_nll(math.log(2)) == 1
    # A character that the prompt starts and the sample ends.
    assert encoding.continued("a\udcc3", values[2:3]) == "a\u00e9"
    assert Bytes.from_json(json.loads(json.dumps(encoding.to_json()))) == encoding
    assert encoding != Vocabulary.from_text("abc")


def test_min_count_makes_rare_symbols_unknown():
    content = "aaabbc"
    vocabulary = Vocabulary.from_text(content, 2)
    assert vocabulary.symbols == ("\ufffd", "a", "b")
    assert vocabulary.encode(content).tolist() == [1, 1, 1, 2, 2, 0]
    assert vocabulary.count_unknown(content) == 1
    assert vocabulary.describe_unknown() == (
        "seen fewer than 2 times in training become one unknown symbol"
    )
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary
    assert Vocabulary.from_text(content, 1) == Vocabulary.from_text(content)
    # As in runs of before.
    assert Vocabulary.from_text(content).to_json() == {"symbols": ["\ufffd", *"abc"]}
    words = Words.from_text("a b a\nc a b", 2)
    assert words.symbols == ("<eos>", "<unk>", "a", "b")
    for encoding in (Vocabulary, Words):
        assert "data.min_count=4: no symbol" in error_of(
            encoding.from_text, "a b a\nc a", 4
        )


def test_text_error_without_a_path():
    message = error_of(text.text, "")
    assert "data.path is empty" in message and "--config.data.path=" in message
    assert error_of(text.ptb_char, "") == message


@pytest.mark.parametrize("loader", [text.text, text.ptb_char])
def test_text_error_for_a_missing_path(tmp_path: pathlib.Path, loader):
    path = str(tmp_path / "nowhere")
    message = error_of(loader, path)
    assert path in message and "no such file or folder" in message


def test_text_error_for_a_folder_without_texts(tmp_path: pathlib.Path):
    (tmp_path / "data.csv").write_text("1,2")
    message = error_of(text.text, str(tmp_path))
    assert str(tmp_path) in message and "no *.txt files" in message


@pytest.mark.parametrize("missing", ["train", "valid", "test"])
def test_text_error_for_a_missing_split(tmp_path: pathlib.Path, missing: str):
    names = {"train", "valid", "test"} - {missing}
    message = error_of(text.text, _write(tmp_path, **dict.fromkeys(names, "text")))
    assert str(tmp_path) in message and f"add {missing}.txt" in message


def test_text_error_for_two_files_of_a_split(tmp_path: pathlib.Path):
    path = _write(tmp_path, train="1", valid="2", test="3", my__validation="4")
    message = error_of(text.text, path)
    assert "my.validation.txt and valid.txt are both named valid" in message


def test_text_error_for_an_empty_file(tmp_path: pathlib.Path):
    path = _write(tmp_path, train="text", valid="", test="text")
    message = error_of(text.text, path)
    assert str(tmp_path / "valid.txt") in message and "empty" in message


def test_text_error_for_latin_1_gives_the_offset(tmp_path: pathlib.Path):
    file = tmp_path / "latin.txt"
    file.write_bytes("na\u00efve \u4e2d".encode() + "caf\u00e9".encode("latin-1"))
    message = error_of(text.text, str(file))
    # n, a, two bytes, v, e, blank, three bytes, c, a, f: the 14th is wrong.
    assert str(file) in message and "not UTF-8 (byte 13)" in message


def test_text_error_for_a_file_that_cannot_be_read(tmp_path: pathlib.Path):
    (tmp_path / "a.txt").symlink_to("gone")
    message = error_of(text.text, str(tmp_path))
    assert str(tmp_path / "a.txt") in message and "cannot be read" in message


def test_ptb_char_strips_lines_and_ends_them(tmp_path: pathlib.Path):
    path = _write(
        tmp_path,
        ptb__train=" no it was n't \n <unk> N\n",
        ptb__valid=" last line without an end",
        ptb__test=" \n a\n",
    )
    splits = text.ptb_char(path)
    assert splits == {
        "train": "no it was n't\n<unk> N\n",
        "valid": "last line without an end\n",
        "test": "\na\n",
    }
    assert [len(content) for content in splits.values()] == [22, 25, 3]


@pytest.mark.parametrize("missing", ["train", "valid", "test"])
def test_ptb_char_error_for_a_missing_file(tmp_path: pathlib.Path, missing: str):
    names = {"train", "valid", "test"} - {missing}
    _write(tmp_path, **{f"ptb__{name}": "text" for name in names})
    message = error_of(text.ptb_char, str(tmp_path))
    assert str(tmp_path) in message and f"no ptb.{missing}.txt" in message


def test_ptb_char_counts_of_the_real_files():
    if not (folder := os.environ.get("PF_JAX_DATA")):
        pytest.skip("PF_JAX_DATA does not name a folder with ptb/ptb.train.txt")
    splits = text.ptb_char(str(pathlib.Path(folder) / "ptb"))
    assert {name: len(content) for name, content in splits.items()} == {
        "train": 5_017_482,
        "valid": 393_042,
        "test": 442_423,
    }
    assert len(set("".join(splits.values()))) == 50
    assert Vocabulary.from_text(splits["train"]).size == 51


def test_python_reference_keeps_each_paragraph_of_the_sorted_topics_once(
    monkeypatch: pytest.MonkeyPatch,
):
    topics = {"b": "two\n\nthree\nlines\n", "a": "\none\n\n\ntwo", "c": "one\n\nfour"}
    monkeypatch.setattr(text, "topics", topics)
    splits = text.python_reference("")
    assert "".join(splits.values()) == "one\n\ntwo\n\nthree\nlines\n\nfour"


def test_python_reference_has_nothing_of_the_training_split_in_the_others():
    splits = text.python_reference("")
    joined = "".join(splits.values())
    assert len(joined) > 300_000
    assert len(splits["valid"]) == len(splits["test"]) == len(joined) // 20
    paragraphs = {name: set(splits[name].split("\n\n")) for name in splits}
    for held_out in ("valid", "test"):
        # Where the split cuts a paragraph, what is left of it may be anything.
        assert len(paragraphs[held_out] & paragraphs["train"]) <= 2


def test_python_reference_error_for_a_path():
    message = error_of(text.python_reference, "book.txt")
    assert "data.path=book.txt" in message and "--config.data.name=text" in message
