import base64
import collections
import dataclasses
import datetime
import io
import json
import re

import numpy as np
import pytest
from errors import error_of
from ratings import RULE, A, B, expected_shares, make_key, simulated, write_rating
from scipy import stats
from scipy.io import wavfile

from pf_jax.data import Bytes, Vocabulary, join_sequences
from pf_jax.data.piano import PianoRoll
from pf_jax.data.pixels import Pixels
from pf_jax.data.series import Series
from pf_jax.data.strokes import Strokes
from pf_jax.data.waveform import Waveform
from pf_jax.data.words import Words
from pf_jax.rating import contents, scoring
from pf_jax.rating.agreement import ordinal_alpha
from pf_jax.rating.judgements import (
    Judgement,
    checked_judgement,
    read_judgements,
    to_line,
)
from pf_jax.rating.key import read_key
from pf_jax.rating.material import catch_contents
from pf_jax.rating.order import Item, fnv1a, mulberry32, showings
from pf_jax.rating.page import write_page
from pf_jax.rating.scores import scores_of

LEVELS = (1, 2, 3, 4)
NAN = np.nan


def download_of(key, judgements):
    entries = [
        {"item": x.item, "left": x.left, "right": x.right, "choice": x.choice}
        for x in judgements
    ]
    return {"page": key.page, "rater": judgements[0].rater, "judgements": entries}


def test_ordinal_alpha_of_the_published_example():
    # Krippendorff's data "C", four observers and twelve units, also in R's irr and
    # DescTools: 0.815 with ordinal differences.
    columns = (
        "1 1 . 1  2 2 3 2  3 3 3 3  3 3 3 3  2 2 2 2  1 2 3 4  "
        "4 4 4 4  1 1 2 1  2 2 2 2  . 5 5 5  . . 1 1  . . 3 ."
    )
    values = [NAN if x == "." else float(x) for x in columns.split()]
    alpha = ordinal_alpha(np.array(values).reshape(12, 4).T, (1, 2, 3, 4, 5))
    assert alpha == pytest.approx(0.815, abs=5e-4)


def test_ordinal_alpha_by_hand():
    # Two raters, units (1, 1), (1, 2), (2, 2): n = (3, 3), o[1, 2] = o[2, 1] = 1, and the
    # one distance d cancels: 1 - 5 * 2 d / (2 * 9 d) = 4 / 9.
    values = np.array([[1, 1, 2], [1, 2, 2]], float)
    assert ordinal_alpha(values, LEVELS) == pytest.approx(4 / 9, abs=1e-12)


def test_ordinal_alpha_at_its_ends():
    same = np.array([[1, 2, 3, 4]] * 3, float)
    assert ordinal_alpha(same, LEVELS) == 1
    assert ordinal_alpha(np.array([[1, 4], [4, 1]], float), LEVELS) < 0
    assert ordinal_alpha(np.array([[2, 2], [2, 2]], float), LEVELS) is None
    assert ordinal_alpha(np.array([[1, NAN], [NAN, 2]], float), LEVELS) is None
    by_chance = np.random.default_rng(0).integers(1, 5, (20, 2000)).astype(float)
    assert abs(ordinal_alpha(by_chance, LEVELS)) < 0.01


def test_ordinal_alpha_ignores_units_of_one_rater():
    values = np.random.default_rng(1).integers(1, 5, (3, 10)).astype(float)
    more = np.concatenate([values, [[1, 4], [NAN, NAN], [NAN, NAN]]], axis=1)
    assert ordinal_alpha(more, LEVELS) == pytest.approx(ordinal_alpha(values, LEVELS))


def test_random_numbers_are_the_published_ones():
    assert [fnv1a(x) for x in ("", "a", "foobar")] == [
        0x811C9DC5,
        0xE40C292C,
        0xBF9CF968,
    ]
    # The first output of mulberry32 in JavaScript, seed 0, is this fraction of 2 ** 32.
    assert next(mulberry32(0)) / 2**32 == 0.26642920868471265


PAIRS = [("p", "q"), ("r", "s"), ("t", "u"), ("v", "w")]
ITEMS = [*(Item(f"i{n}", n, False) for n in range(4)), Item("again", 1, True)]


def test_showings_are_reproducible_and_differ_by_rater_and_page():
    shown = showings("page", "ann", PAIRS, ITEMS)
    assert shown == showings("page", "ann", PAIRS, ITEMS)
    others = [showings("page", f"r{n}", PAIRS, ITEMS) for n in range(8)]
    others.append(showings("other", "ann", PAIRS, ITEMS))
    assert all(other != shown for other in others)


def test_showings_show_each_item_once_and_repeats_later_with_sides_swapped():
    for number in range(50):
        shown = showings("page", f"r{number}", PAIRS, ITEMS)
        by_item = {x.item: x for x in shown}
        assert (
            sorted(by_item) == sorted(x.identifier for x in ITEMS) and len(shown) == 5
        )
        for item in ITEMS:
            sides = {by_item[item.identifier].left, by_item[item.identifier].right}
            assert sides == set(PAIRS[item.pair])
        first, again = by_item["i1"], by_item["again"]
        assert (first.left, first.right) == (again.right, again.left)
        assert shown.index(again) > shown.index(first)


def test_showings_toss_sides_and_order():
    num_raters = 600
    lefts, firsts = collections.Counter(), collections.Counter()
    for number in range(num_raters):
        shown = showings("page", f"r{number}", PAIRS, ITEMS[:4])
        lefts.update(x.left for x in shown)
        firsts[shown[0].item] += 1
    # Five standard deviations of a coin, and of one of four.
    for first, _ in PAIRS:
        assert abs(lefts[first] - 300) < 5 * np.sqrt(num_raters / 4)
    for item in ITEMS[:4]:
        assert abs(firsts[item.identifier] - 150) < 5 * np.sqrt(num_raters * 3 / 16)


def test_key_and_page_are_bound_by_a_hash(tmp_path):
    key, _ = write_rating(tmp_path)
    page = (tmp_path / "page.html").read_text()
    read = read_key(tmp_path)
    assert read.page == key.page and page.count(key.page) == 1
    assert read.showings("ann") == key.showings("ann") and read.rule == RULE
    path = tmp_path / "key.json"
    content = path.read_text()
    for name, old, new in (
        ("preferred", '"first"', '"second"'),
        ("max_failed_catches", "0.25", "0.75"),
    ):
        edited = content.replace(f'"{name}": {old}', f'"{name}": {new}')
        assert edited != content
        path.write_text(edited)
        message = error_of(scoring.score, tmp_path, [])
        assert "page.html: does not bear the SHA-256 of key.json" in message


def test_page_tells_nothing_of_the_runs():
    key, shown = make_key()
    page = write_page(key, shown, "text")
    hidden = [x[name] for x in (A, B) for name in ("workdir", "objective")]
    for word in (*hidden, key.nonce, "preferred"):
        assert word not in page, word
    found = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    data = json.loads(found[1])
    assert not re.search('"(runs|catch|repeat|first|second|a|b)"', found[1])
    assert set(data) == {"page", "noun", "raters", "pairs", "items", "samples"}
    assert all(set(sample) == {"text"} for sample in data["samples"].values())
    identifiers = [*data["samples"], *(item[0] for item in data["items"])]
    assert len(set(identifiers)) == len(identifiers) == 2 * 30 + 34
    assert all(re.fullmatch("[0-9a-f]{16}", x) for x in identifiers)
    # In the order of random numbers.
    assert list(data["samples"]) == sorted(data["samples"])


def test_page_of_swapped_runs_is_as_likely():
    # Whose sample comes first, the kinds' order and the numbers' order are tossed anew.
    firsts, places, least = [], collections.Counter(), []
    for seed in range(40):
        key, shown = make_key(num_pairs=10, num_repeats=2, num_catches=4, seed=seed)
        of_runs = [pair for pair in key.pairs if pair.kind == "runs"]
        firsts += [pair.preferred == "first" for pair in of_runs]
        places.update(n for n, x in enumerate(key.pairs) if x.kind == "catch")
        least.append(min(key.pairs, key=lambda x: x.first).preferred == "first")
        assert all(shown[pair.a]["text"][0] in "ar" for pair in key.pairs)
    assert abs(np.mean(firsts) - 0.5) < 5 * 0.5 / np.sqrt(400)
    assert set(places) == set(range(14))
    assert 0 < sum(least) < 40


def test_page_loads_nothing_and_escapes_samples():
    text = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028"
    key, shown = make_key(1, 0, 0, contents=[({"text": text}, {"text": "b"})])
    page = write_page(key, shown, "text", prompt="<b>so</b>")
    assert page.count("<script") == 2 and "<img" not in page and "<b>" not in page
    assert not re.search(r"https?://|@import|url\(", page)
    assert re.findall(r'(?:href|src)="([^"]*)"', page) == ["data:,"]
    assert "default-src 'none'" in page


ENCODINGS = {
    "text": (Vocabulary.from_text("abc <&"), "text"),
    "bytes": (Bytes(), "text"),
    "words": (Words.from_text("a b c"), "text"),
    "pixels": (Pixels(4, 6), "picture"),
    "strokes": (Strokes((0.5, -0.5), 2.0, 10.0), "picture"),
    "waveform": (Waveform(1000, 16, "mu_law"), "sound"),
    "piano_roll": (PianoRoll(num_keys=20), "notes"),
    "series": (Series((1.0, 2.0), (1.0, 3.0), ("x", "y")), "picture"),
}


def test_every_kind_of_data_has_a_form():
    assert {type(encoding) for encoding, _ in ENCODINGS.values()} == set(contents.FORMS)

    class Other(Vocabulary):
        kind = "other"

    message = error_of(contents.form_of, Other.from_text("ab"))
    assert message.startswith("other: no way to show such data to raters")


@pytest.mark.parametrize("kind", ENCODINGS)
def test_catch_pairs_show_real_data_and_noise_of_each_kind(kind):
    encoding, part = ENCODINGS[kind]
    rng = np.random.default_rng(0)
    noise = contents.form_of(encoding).noise
    sequences = [encoding.encode(encoding.decode(noise(encoding, rng, 24)))] * 3
    split = join_sequences(sequences, encoding.first_input)
    pairs = catch_contents(encoding, split, seed=1, count=1, length=24)
    assert len(pairs) == 1
    starts = {
        "picture": ("data:image/png;base64,", "data:image/svg+xml;base64,"),
        "sound": ("data:audio/wav;base64,",),
    }
    for content in (x for pair in pairs for x in pair):
        assert part in content
        for name in ("picture", "sound"):
            assert name not in content or content[name].startswith(starts[name])
        json.dumps(content)
    assert pairs[0][0] != pairs[0][1]


def test_catch_pairs_follow_from_the_seed():
    encoding = ENCODINGS["text"][0]
    split = join_sequences([encoding.encode("abc <&" * 9)], encoding.first_input)
    pairs, again, others = (
        catch_contents(encoding, split, seed=seed, count=3, length=20)
        for seed in (1, 1, 2)
    )
    assert pairs == again != others
    assert len({content["text"] for pair in pairs for content in pair}) == 6


def test_notes_of_a_roll_are_its_runs_of_ones():
    encoding = PianoRoll(lowest_pitch=60, num_keys=3, frames_per_second=4.0)
    roll = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 0], [1, 0, 0]], np.uint8)
    content = contents.form_of(encoding).content(encoding, roll)
    assert content["notes"] == [(60, 0, 0.5), (60, 0.75, 1.0), (62, 0.25, 0.5)]


@pytest.mark.parametrize(("rate", "played"), [(1000, 8000), (3000, 9000), (8000, 8000)])
def test_sounds_are_resampled_to_a_rate_that_browsers_play(rate, played):
    encoding = Waveform(rate, 256, "mu_law")
    seconds = np.arange(rate) / rate
    raw = 0.5 * np.sin(2 * np.pi * 100 * seconds)
    content = contents.form_of(encoding).content(encoding, raw)
    start, _, code = content["sound"].partition(",")
    assert start == "data:audio/wav;base64"
    found, wave = wavfile.read(io.BytesIO(base64.b64decode(code)))
    assert (found, len(wave)) == (played, played)
    expected = 0.5 * np.sin(2 * np.pi * 100 * np.arange(played) / played)
    inner = slice(played // 10, -played // 10)
    np.testing.assert_allclose(wave[inner] / 2**15, expected[inner], atol=2e-3)


def test_real_sequences_are_cut_at_random_or_whole():
    split = join_sequences([np.arange(1, 101), np.arange(200, 203)])
    chosen = contents.real_sequences(split, np.random.default_rng(0), 200, 10)
    long = [x for x in chosen if x[0] < 200]
    assert all((np.diff(x) == 1).all() and len(x) == 10 for x in long)
    assert {len(x) for x in chosen} == {3, 10}
    assert min(x[0] for x in long) < 10 and max(x[-1] for x in long) > 91


FOR_A, FOR_LEFT = 0.8, 0.4


def simulated_scores(seed, num_raters=20, **odds):
    rng = np.random.default_rng(seed)
    key, _ = make_key(seed=seed)
    judgements = []
    for number in range(num_raters):
        judgements += simulated(key, f"r{number}", rng, **odds)
    return key, judgements


def test_score_recovers_twenty_raters_preference_and_side_bias():
    key, judgements = simulated_scores(3, for_a=FOR_A, for_left=FOR_LEFT)
    scores = scores_of(key, judgements)
    for share, expected in zip(
        (scores.prefers_a, scores.prefers_left),
        expected_shares(FOR_A, FOR_LEFT),
        strict=True,
    ):
        low, high = share.interval
        assert low < expected < high and low > 0.5 and high - low < 0.12
    assert not scores.dropped and sum(scores.counts) == 20 * 24
    assert scores.attentive.mean > 0.99


def test_interval_covers_the_preference_in_95_percent():
    expected, _ = expected_shares(FOR_A, FOR_LEFT)
    covered = 0
    for seed in range(100):
        key, judgements = simulated_scores(seed, 8, for_a=FOR_A, for_left=FOR_LEFT)
        low, high = scores_of(key, judgements).prefers_a.interval
        covered += low <= expected <= high
    # Below 88 with probability 0.001 where it covers in 95 of 100.
    assert covered >= 88


def test_scores_of_three_judgements_by_hand():
    key, _ = make_key(3, 1, 0, rule=dataclasses.replace(RULE, min_answered=0))
    repeated = next(item.pair for item in key.items if item.is_repeat)

    def judged(rater, levels, again):
        for showing in key.showings(rater).values():
            pair = key.pair_by_item[showing.item]
            is_repeat = key.kind_by_item[showing.item] == "repeat"
            level = again if is_repeat else levels[key.pairs.index(pair)]
            choice = level if showing.left == pair.a else 5 - level
            yield Judgement(rater, *showing, choice)

    agreeing = judged("ann", (1, 2, 2), again=1)
    other = [4, 4, 4]
    other[repeated] = 2
    scores = scores_of(key, [*agreeing, *judged("bob", other, again=3)])
    assert scores.counts == [1, 3, 0, 2]
    assert scores.prefers_a.by_rater == {"ann": 1.0, "bob": pytest.approx(1 / 3)}
    assert scores.consistent.by_rater == {"ann": 1.0, "bob": 0.0}
    mean, error = 2 / 3, np.std([1, 1 / 3], ddof=1) / np.sqrt(2)
    low = mean - stats.t.ppf(0.975, 1) * error
    assert scores.prefers_a.mean == pytest.approx(mean)
    assert scores.prefers_a.interval == (max(0, low), 1.0)
    levels = np.array([[1, 2, 2], other], float)
    assert scores.alpha == pytest.approx(ordinal_alpha(levels, LEVELS))


def test_one_rater_has_no_interval_and_a_warning(tmp_path, capsys):
    key, _ = write_rating(tmp_path)
    judgements = simulated(key, "ann", np.random.default_rng(0), for_a=1.0)
    (tmp_path / "ann.json").write_text(json.dumps(download_of(key, judgements)))
    scores = scoring.score(tmp_path, [str(tmp_path / "ann.json")])
    output = capsys.readouterr()
    assert scores.prefers_a.interval is None and scores.alpha is None
    assert output.err.startswith("warning: one rater counts: there is no interval")
    assert "A is runs/secret_a (professor_forcing, step 5)" in output.out
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["prefers_a"]["interval"] is None and written["num_judgements"] == 24


def test_rule_drops_raters_and_says_why():
    rule = dataclasses.replace(RULE, raters=("ann", "bob", "eve", "dan"))
    key, _ = make_key(rule=rule)
    rng = np.random.default_rng(0)
    ann = simulated(key, "ann", rng, for_a=1.0)
    few = simulated(key, "bob", rng)[:10]
    inattentive = [
        x._replace(choice=5 - x.choice) if key.kind_by_item[x.item] == "catch" else x
        for x in simulated(key, "eve", rng)
    ]
    uncaught = [
        x for x in simulated(key, "dan", rng) if key.kind_by_item[x.item] != "catch"
    ]
    stranger = simulated(key, "mallory", rng)
    scores = scores_of(key, [*ann, *few, *inattentive, *uncaught, *stranger])
    assert set(scores.prefers_a.by_rater) == {"ann"}
    number = sum(key.kind_by_item[x.item] == "first" for x in few)
    assert scores.dropped == {
        "bob": f"answered {number} of 24 pairs, less than a share of 0.5",
        "eve": "preferred noise in 6 of 6 catch pairs, more than a share of 0.25",
        "dan": "answered 0 of 6 catch pairs, less than a share of 0.5",
        "mallory": "not one of the key's raters",
    }
    assert sum(scores.counts) == 24


def test_nobody_left_gives_no_numbers(tmp_path, capsys):
    rule = dataclasses.replace(RULE, raters=("ann",))
    key, _ = write_rating(tmp_path, rule=rule)
    judgements = simulated(key, "bob", np.random.default_rng(0))
    (tmp_path / "bob.json").write_text(json.dumps(download_of(key, judgements)))
    scores = scoring.score(tmp_path, [str(tmp_path / "bob.json")])
    output = capsys.readouterr()
    assert scores.prefers_a.mean is None and sum(scores.counts) == 0
    assert "preference for A: no judgements" in output.out
    assert "dropped: bob: not one of the key's raters" in output.out
    assert "no rater counts" in output.err


def test_last_judgement_of_an_item_counts(tmp_path, capsys):
    key, _ = write_rating(tmp_path)
    rng = np.random.default_rng(0)
    first = simulated(key, "ann", rng, for_a=5.0)
    later = [x._replace(choice=5 - x.choice) for x in first[:3]]
    lines = "".join(to_line(key, x) for x in [*first, *later])
    (tmp_path / "judgements.jsonl").write_text(lines)
    scores = scoring.score(tmp_path, [])
    assert scores.num_changed == 3
    assert (
        "3 answers were changed later: the last one counts" in capsys.readouterr().out
    )
    assert scores == scores_of(key, [*later, *first[3:]])._replace(num_changed=3)


def test_files_count_in_the_order_of_their_downloads(tmp_path):
    key, _ = write_rating(tmp_path)
    first = simulated(key, "ann", np.random.default_rng(0), for_a=5.0)
    later = [x._replace(choice=5 - x.choice) for x in first]
    contents = {
        "x (1).json": download_of(key, later) | {"time": "2025-11-27T10:00:00.000Z"},
        "x (2).json": download_of(key, first),  # Of an older version.
        "x.json": download_of(key, first) | {"time": "2025-11-27T09:00:00.000Z"},
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(json.dumps(content))
    files = [str(tmp_path / name) for name in sorted(contents)]
    assert read_judgements(key, tmp_path, files) == [*first, *first, *later]
    (tmp_path / "x.json").write_text(json.dumps(download_of(key, first) | {"time": 3}))
    message = error_of(read_judgements, key, tmp_path, files)
    assert "x.json: not a file that the page downloaded" in message


def test_a_stored_answer_counts_over_an_earlier_download(tmp_path):
    key, _ = write_rating(tmp_path)
    first = simulated(key, "ann", np.random.default_rng(0), for_a=5.0)
    later = [x._replace(choice=5 - x.choice) for x in first]
    times = [
        datetime.datetime(2025, 11, 27, hour, tzinfo=datetime.UTC) for hour in (8, 10)
    ]
    lines = "".join(
        to_line(key, x, time)
        for judgements, time in zip((first, later), times, strict=True)
        for x in judgements
    )
    (tmp_path / "judgements.jsonl").write_text(lines)
    download = download_of(key, first) | {"time": "2025-11-27T09:00:00.000Z"}
    (tmp_path / "x.json").write_text(json.dumps(download))
    files = [str(tmp_path / "x.json")]
    assert read_judgements(key, tmp_path, files) == [*first, *first, *later]


def test_a_share_of_answers_that_is_exactly_the_rule_s_is_kept():
    # 0.28 * 25 is a little more than 7.
    rule = dataclasses.replace(RULE, min_answered=0.28)
    key, _ = make_key(num_pairs=25, rule=rule)
    answers, catches = (
        [
            x
            for x in simulated(key, "ann", np.random.default_rng(0))
            if key.kind_by_item[x.item] == kind
        ]
        for kind in ("first", "catch")
    )
    assert not scores_of(key, [*answers[:7], *catches]).dropped
    dropped = scores_of(key, [*answers[:6], *catches]).dropped
    assert dropped["ann"].startswith("answered 6 of 25 pairs")


def test_showings_of_a_rater_are_computed_once(tmp_path, monkeypatch):
    written, _ = write_rating(tmp_path)
    rng = np.random.default_rng(0)
    judgements = [x for r in ("ann", "bob") for x in simulated(written, r, rng)]
    lines = "".join(to_line(written, x) for x in sorted(judgements, key=lambda x: x[1]))
    (tmp_path / "judgements.jsonl").write_text(lines)
    raters = []

    def counted(page, rater, pairs, items):
        raters.append(rater)
        return showings(page, rater, pairs, items)

    monkeypatch.setattr("pf_jax.rating.key.showings", counted)
    assert len(read_judgements(read_key(tmp_path), tmp_path, [])) == len(judgements)
    assert sorted(raters) == ["ann", "bob"]


def test_damaged_lines_are_left_out_with_a_warning(tmp_path, capsys):
    key, _ = write_rating(tmp_path)
    lines = [to_line(key, x) for x in simulated(key, "ann", np.random.default_rng(0))]
    lines[1] = lines[1].replace('"choice": ', '"choice": 1')
    lines[3] = lines[3][:20] + "\n"
    lines.append("\udcff".encode("utf-8", "surrogateescape").decode("latin1") + "\n")
    (tmp_path / "judgements.jsonl").write_text("".join(lines))
    scoring.score(tmp_path, [])
    warnings = capsys.readouterr().err.splitlines()
    assert "line 2 is left out: choice is 1" in warnings[0]
    assert "line 4 is left out" in warnings[1] and "line 35 is left out" in warnings[2]
    (tmp_path / "judgements.jsonl").write_text("".join(lines) + "no\n" * 4)
    scoring.score(tmp_path, [])
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 7 and warnings[5].endswith(": 2 more lines are left out")


WRONG_FIELDS = {
    "page": ("another page", "00"),
    "rater": ("rater is 'a b'", "a b"),
    "item": ("item is 'none': the page has no such item", "none"),
    "choice": ("choice is True", True),
    "left": ("was shown other samples, or other sides", "x"),
    "extra": ("fields are", 1),
}


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_judgement_with_a_wrong_field_is_refused(name):
    key, _ = make_key(2, 0, 0)
    judgement = simulated(key, "ann", np.random.default_rng(0))[0]
    fields = json.loads(to_line(key, judgement))
    assert checked_judgement(key, fields) == judgement
    message, value = WRONG_FIELDS[name]
    assert message in error_of(checked_judgement, key, {**fields, name: value})
    if name in fields:
        del fields[name]
        error_of(checked_judgement, key, fields)


def test_swapped_sides_and_other_raters_sides_are_refused():
    key, _ = make_key(6, 0, 0)
    by_rater = {r: key.showings(r) for r in ("ann", "bob")}
    item = next(x for x in by_rater["ann"] if by_rater["ann"][x] != by_rater["bob"][x])
    judgement = Judgement("bob", *by_rater["ann"][item], 1)
    line = json.loads(to_line(key, judgement))
    assert "bob was shown other" in error_of(checked_judgement, key, line)


def test_score_refuses_what_it_cannot_read(tmp_path):
    folder = tmp_path / "rating"
    assert "key.json: no such file" in error_of(scoring.score, folder, [])
    key, _ = write_rating(folder)
    assert "no judgements yet" in error_of(scoring.score, folder, [])
    gone = str(tmp_path / "gone.json")
    assert error_of(scoring.score, folder, [gone]).startswith(f"{gone}: cannot be read")
    path = tmp_path / "file.json"
    for content in ("", "[]", "{}", '{"page": 1, "rater": 2, "judgements": [3]}'):
        path.write_text(content)
        assert "not a file that the page downloaded" in error_of(
            scoring.score, folder, [str(path)]
        )
    judgements = simulated(key, "ann", np.random.default_rng(0))
    other = {**download_of(key, judgements), "page": "12"}
    path.write_text(json.dumps(other))
    assert "a judgement of another page" in error_of(scoring.score, folder, [str(path)])
    assert not (folder / "scores.json").exists()
    content = (folder / "key.json").read_text()
    (folder / "key.json").write_text(content[:-20])
    assert "key.json: damaged" in error_of(scoring.score, folder, [])
    (folder / "key.json").write_text(content.replace('"version": 1', '"version": 2'))
    assert "version 2, not 1" in error_of(scoring.score, folder, [])
    (folder / "key.json").write_text(content.replace("\n", " \n"))
    assert "was edited" in error_of(scoring.score, folder, [])
