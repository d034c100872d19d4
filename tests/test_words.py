import json
import math
import os
import pathlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pf_jax.data.words import Words, ptb_word
from pf_jax.emissions import categorical
from pf_jax.errors import UserError

TRAIN = "the cat sat\non the mat\n"
WORDS = Words(("<eos>", "<unk>", "cat", "mat", "on", "sat", "the"))
END, UNKNOWN, CAT, MAT, ON, SAT, THE = range(7)


def _write(folder: pathlib.Path, **files: str) -> str:
    """Writes `ptb.NAME.txt` files."""
    for name, content in files.items():
        (folder / f"ptb.{name}.txt").write_bytes(content.encode())
    return str(folder)


def test_from_text_is_the_two_marks_and_the_sorted_words():
    assert Words.from_text(TRAIN) == WORDS
    assert WORDS.size == 7
    # In Penn Treebank the unknown word is one of the corpus.
    assert Words.from_text("a <unk> cat <eos>").symbols == (
        "<eos>",
        "<unk>",
        "a",
        "cat",
    )


@pytest.mark.parametrize(
    "content, expected",
    [
        (TRAIN, [THE, CAT, SAT, END, ON, THE, MAT, END]),
        ("the cat", [THE, CAT, END]),
        (" the  \tcat \r\n", [THE, CAT, END]),
        ("the dog <unk>\n", [THE, UNKNOWN, UNKNOWN, END]),
        ("cat\n\ncat\n", [CAT, END, END, CAT, END]),
        ("\n", [END]),
        ("", []),
    ],
)
def test_encode_ends_every_line(content: str, expected: list[int]):
    tokens = WORDS.encode(content)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, expected)


@pytest.mark.parametrize(
    "prompt, expected",
    [
        ("the cat", [THE, CAT]),
        ("the cat ", [THE, CAT]),
        ("the cat\n", [THE, CAT, END]),
        ("cat\nthe", [CAT, END, THE]),
        ("the dog", [THE, UNKNOWN]),
        ("", []),
    ],
)
def test_encode_prompt_leaves_the_last_line_unfinished(
    prompt: str, expected: list[int]
):
    tokens = WORDS.encode_prompt(prompt)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, expected)


def test_first_input_is_the_end_of_a_sentence():
    assert WORDS.first_input.dtype == np.int32
    np.testing.assert_array_equal(WORDS.first_input, WORDS.encode("\n")[0])


def test_decode_puts_line_breaks_for_ends():
    assert WORDS.decode(WORDS.encode(TRAIN)) == TRAIN
    assert WORDS.decode(np.array([THE, CAT])) == "the cat"
    assert WORDS.decode(np.array([END, THE, END, END, END, UNKNOWN])) == (
        "\nthe\n\n\n<unk>"
    )
    assert WORDS.decode(np.zeros(0, np.int32)) == ""


@settings(deadline=None)
@given(st.lists(st.integers(0, WORDS.size - 1)))
def test_encode_prompt_inverts_decode(tokens: list[int]):
    decoded = WORDS.decode(np.array(tokens, np.int32))
    np.testing.assert_array_equal(WORDS.encode_prompt(decoded), tokens)


@settings(deadline=None)
@given(st.text())
@example("one\x85two\u2028three\x1cfour\x0bfive\x00")
def test_decode_inverts_encode_but_for_blanks(content: str):
    words = Words.from_text(content)
    lines = content.removesuffix("\n").split("\n") if content else []
    normal = "".join(f"{' '.join(line.split())}\n" for line in lines)
    assert words.decode(words.encode(content)) == normal


@pytest.mark.parametrize(
    "prompt, tokens, expected",
    [
        ("the dog", [SAT, END, THE], "the dog sat\nthe"),
        ("the dog ", [SAT], "the dog sat"),
        ("the dog\n", [THE], "the dog\nthe"),
        ("the dog", [END, THE], "the dog\nthe"),
        ("", [THE, CAT], "the cat"),
        ("the dog", [], "the dog"),
    ],
)
def test_continued_keeps_the_prompt_and_parts_words(
    prompt: str, tokens: list[int], expected: str
):
    assert WORDS.continued(prompt, np.array(tokens, np.int32)) == expected


def test_unknown_counts_each_word():
    content = "the dog sat\non the other dog\n<unk>"
    assert WORDS.unknown(content) == {"dog": 2, "other": 1}
    assert WORDS.count_unknown(content) == 3
    assert WORDS.count_unknown(TRAIN) == 0
    assert WORDS.count_unknown("") == 0


def test_measure_is_the_perplexity():
    measure = WORDS.measure
    assert (measure.name, measure.label) == ("perplexity", "perplexity")
    assert measure.of_nll(math.log(10_000)) == pytest.approx(10_000)
    assert measure.of_nll(0.0) == 1.0


def test_measure_is_infinite_where_it_overflows():
    assert WORDS.measure.of_nll(709.0) < math.inf
    assert WORDS.measure.of_nll(710.0) == math.inf
    assert WORDS.measure.of_nll(math.inf) == math.inf
    assert math.isnan(WORDS.measure.of_nll(math.nan))


def test_output_is_a_softmax_over_the_words():
    output = WORDS.output(num_components=20)
    assert (output.emission, output.num_outputs) == (categorical, 7)
    assert output.value_size is None


def test_from_json_inverts_to_json():
    as_json = json.dumps(WORDS.to_json())
    assert json.loads(as_json) == {"symbols": list(WORDS.symbols)}
    assert Words.from_json(json.loads(as_json)) == WORDS


def test_words_are_described():
    assert (WORDS.kind, WORDS.unit) == ("words", "words")
    assert WORDS.describe(np.array([THE, CAT, END])) == "'the cat\\n'"
    many = Words(tuple(map(str, range(10_000))))
    assert many.summary() == ", 10,000 types"


def test_ptb_word_ends_lines(tmp_path: pathlib.Path):
    path = _write(
        tmp_path,
        train=" no it was n't \n <unk> N\n",
        valid=" last line without an end",
        test=" \n a\n",
    )
    splits = ptb_word(path)
    words = Words.from_text(splits["train"])
    assert words.symbols == ("<eos>", "<unk>", "N", "it", "n't", "no", "was")
    np.testing.assert_array_equal(
        words.encode(splits["train"]), [5, 3, 6, 4, 0, 1, 2, 0]
    )
    np.testing.assert_array_equal(words.encode(splits["valid"]), [1] * 5 + [0])
    np.testing.assert_array_equal(words.encode(splits["test"]), [0, 1, 0])


@pytest.mark.parametrize("missing", ["train", "valid", "test"])
def test_ptb_word_error_for_a_missing_file(tmp_path: pathlib.Path, missing: str):
    names = {"train", "valid", "test"} - {missing}
    path = _write(tmp_path, **dict.fromkeys(names, "text"))
    with pytest.raises(UserError) as error:
        ptb_word(path)
    message = str(error.value)
    assert path in message and f"no ptb.{missing}.txt" in message
    assert len(message.splitlines()) == 1


def test_ptb_word_error_for_an_empty_file(tmp_path: pathlib.Path):
    path = _write(tmp_path, train="text", valid="", test="text")
    with pytest.raises(UserError, match=r"ptb\.valid\.txt: empty"):
        ptb_word(path)


def test_ptb_word_counts_of_the_real_files():
    if not (folder := os.environ.get("PF_JAX_DATA")):
        pytest.skip("PF_JAX_DATA does not name a folder with ptb/ptb.train.txt")
    splits = ptb_word(str(pathlib.Path(folder) / "ptb"))
    words = Words.from_text(splits["train"])
    assert words.size == 10_000
    assert {name: len(words.encode(content)) for name, content in splits.items()} == {
        "train": 929_589,
        "valid": 73_760,
        "test": 82_430,
    }
    assert [words.count_unknown(content) for content in splits.values()] == [0, 0, 0]
    tokens = words.encode(splits["valid"])
    assert words.decode(tokens) == splits["valid"]
