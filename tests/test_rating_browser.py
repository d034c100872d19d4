"""Ratings in a real browser, by keyboard."""

import dataclasses
import datetime
import json
import threading
import time

import numpy as np
import pytest
from ratings import RULE, expected_shares, simulated, write_rating

from pf_jax.data.piano import PianoRoll
from pf_jax.data.pixels import Pixels
from pf_jax.data.strokes import Strokes
from pf_jax.data.waveform import Waveform
from pf_jax.rating import scoring, server
from pf_jax.rating.contents import form_of

pytestmark = pytest.mark.slow

SHOWN = """() => [document.body.dataset.item, ...["left", "right"].map(
  (side) => document.getElementById(side).dataset.sample)]"""
STATUS = "document.getElementById('status').textContent"


class Visit:
    """A page in a browser of its own, and all that it says and asks for."""

    def __init__(self, browser, url, width=1200):
        self.context = browser.new_context(viewport={"width": width, "height": 800})
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.messages, self.requests = [], []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.url = url
        self.page.goto(url)

    def begin(self, rater):
        self.page.fill("#rater", rater)
        self.page.keyboard.press("Enter")

    def shown(self):
        return tuple(self.page.evaluate(SHOWN))

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(str(key))

    def wait(self, condition):
        """Waits for a condition; playwright's own way breaks the page's policy."""
        end = time.monotonic() + 10
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.02)

    def is_at_end(self):
        return self.page.is_visible("#end")

    def fetched(self):
        """What was asked for but for the page itself and what it holds."""
        kinds = ("data:", "blob:")
        others = [url for url in self.requests if not url.startswith(kinds)]
        return [url for url in others if url != self.url]


@pytest.fixture
def visit(browser):
    visits = []

    def open_(*arguments):
        visits.append(Visit(browser, *arguments))
        return visits[-1]

    yield open_
    for opened in visits:
        opened.context.close()


@pytest.fixture
def served(tmp_path):
    """A rating, its key, and the address of a server."""
    key, _ = write_rating(tmp_path)
    with server.make_server(tmp_path, 0) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield tmp_path, key, f"http://127.0.0.1:{running.server_address[1]}/"
        running.shutdown()
        thread.join()


def test_session_by_keyboard_with_a_reload_is_scored(visit, tmp_path, capsys):
    key, _ = write_rating(tmp_path)
    session = visit((tmp_path / "page.html").as_uri())
    session.begin("ann")
    wanted = simulated(key, "ann", np.random.default_rng(0), for_a=1.0)
    for number, judgement in enumerate(wanted):
        if number == 15:
            session.page.reload()
        if number == 20:  # Back twice, another answer, and on to the first open pair.
            session.press("ArrowLeft", "ArrowLeft")
            assert session.shown()[0] == wanted[18].item
            wanted[18] = wanted[18]._replace(choice=5 - wanted[18].choice)
            session.press("ArrowRight", "ArrowLeft", wanted[18].choice)
        # The order and the sides are those that Python computes.
        assert session.shown() == judgement[1:4]
        session.press("x", "5", "0", judgement.choice)
    assert session.is_at_end()
    session.page.reload()
    assert session.is_at_end()
    with session.page.expect_download() as waiting:
        session.page.click("#download")
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    assert path.name == "judgements-ann.json"
    scores = scoring.score(tmp_path, [str(path)])
    content = json.loads(path.read_text())
    assert [x["choice"] for x in content["judgements"]] == [x.choice for x in wanted]
    downloaded = datetime.datetime.fromisoformat(content["time"])
    assert abs(downloaded.timestamp() - time.time()) < 60
    assert sum(scores.counts) == 24 and not scores.dropped and not scores.num_changed
    assert "24 pairs by 1 rater" in capsys.readouterr().out
    assert session.messages == [] and session.fetched() == []


def test_twenty_raters_at_one_server_are_recovered(visit, served):
    folder, key, url = served
    rng = np.random.default_rng(3)
    session = visit(url)
    for number in range(20):
        rater = f"r{number}"
        session.begin(rater)
        for judgement in simulated(key, rater, rng, for_a=0.8, for_left=0.4):
            assert session.shown() == judgement[1:4]
            session.press(judgement.choice)
        session.wait(
            f"{STATUS} === '{len(key.items)} of {len(key.items)} answers are stored'"
        )
        session.page.click("#next")
        session.page.wait_for_selector("#rater", state="visible")
    scores = scoring.score(folder, [])
    assert len(scores.prefers_a.by_rater) == 20 and not scores.dropped
    for share, expected in zip(
        (scores.prefers_a, scores.prefers_left), expected_shares(0.8, 0.4), strict=True
    ):
        assert share.interval[0] < expected < share.interval[1]
        assert share.interval[0] > 0.5
    assert session.messages == []
    assert set(session.fetched()) == {f"{url}judgements"}


def test_answers_without_a_server_are_kept_and_sent_later(visit, served):
    _, key, url = served
    session = visit(url)
    session.begin("ann")
    session.press(1)
    session.wait(f"{STATUS} === '1 of 1 answers are stored'")
    session.context.set_offline(True)
    session.press(2, 3)
    session.wait(f"{STATUS}.startsWith('1 of 3 answers are stored (')")
    session.context.set_offline(False)
    session.press(4)
    session.wait(f"{STATUS} === '4 of 4 answers are stored'")
    shown = list(key.showings("ann"))[:4]
    lines = (served[0] / "judgements.jsonl").read_text().splitlines()
    stored = [json.loads(line) for line in lines]
    assert [(x["item"], x["choice"]) for x in stored] == list(
        zip(shown, (1, 2, 3, 4), strict=True)
    )


def test_codes_that_are_not_known_are_refused(visit, tmp_path):
    write_rating(tmp_path, rule=dataclasses.replace(RULE, raters=("3f2a91",)))
    session = visit((tmp_path / "page.html").as_uri())
    for name, words in (
        ("a b", "Take 1 to 40 letters, digits"),
        ("3f2a92", "This is not one of the codes."),
    ):
        session.begin(name)
        assert words in session.page.inner_text("#refusal")
        assert not session.page.is_visible("#rate")
    session.begin("3f2a91")
    assert session.page.is_visible("#rate")


def test_browser_that_keeps_nothing_says_so(visit, tmp_path):
    key, _ = write_rating(tmp_path)
    session = visit((tmp_path / "page.html").as_uri())
    session.page.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() {throw new Error('no')}})"
    )
    session.page.reload()
    assert session.page.is_visible("#unkept")
    session.begin("ann")
    for _ in key.items:
        session.press(1)
    assert session.is_at_end() and session.messages == []


def test_code_in_the_address_is_filled_in(visit, tmp_path):
    write_rating(tmp_path)
    session = visit((tmp_path / "page.html").as_uri() + "#rater=3f2a91")
    assert session.page.input_value("#rater") == "3f2a91"
    session.page.keyboard.press("Enter")
    assert session.page.is_visible("#rate")


def test_code_in_the_address_comes_before_a_rater_who_has_not_finished(visit, served):
    _, key, url = served
    session = visit(url + "#rater=ann")
    session.press("Enter", 1, 1)
    session.wait(f"{STATUS} === '2 of 2 answers are stored'")
    assert session.page.inner_text("#name") == "ann"
    session.page.reload()
    assert session.page.is_visible("#rate")
    other = session.page = session.context.new_page()
    for address in (url + "#rater=bob", url + "#rater=eve"):  # The second: no reload.
        other.goto(address)
        other.wait_for_selector("#rater", state="visible")
        assert other.input_value("#rater") == address[-3:]
        session.press("Enter", 4)
        session.wait(f"{STATUS} === '1 of 1 answers are stored'")
        assert other.inner_text("#name") == address[-3:]
    lines = (served[0] / "judgements.jsonl").read_text().splitlines()
    stored = [json.loads(line) for line in lines]
    assert [(x["rater"], x["choice"]) for x in stored] == [
        *[("ann", 1)] * 2,
        ("bob", 4),
        ("eve", 4),
    ]


def test_two_tabs_of_one_rater_keep_the_answers_of_both(visit, tmp_path):
    key, _ = write_rating(tmp_path)
    session = visit((tmp_path / "page.html").as_uri())
    session.begin("ann")
    session.press(1)
    first, second = session.page, session.context.new_page()
    second.goto(session.url)
    session.page = second
    session.press(*[2] * 4)
    session.page = first  # Whose own answers are the first one alone.
    session.press(3)
    with first.expect_download() as waiting:
        first.click("#download")
    waiting.value.save_as(tmp_path / "ann.json")
    kept = json.loads((tmp_path / "ann.json").read_text())["judgements"]
    assert [(x["item"], x["choice"]) for x in kept] == list(
        zip(list(key.showings("ann"))[:5], (1, 3, 2, 2, 2), strict=True)
    )
    first.reload()
    assert first.evaluate(STATUS).startswith("5 of 34 answered")


NO_STORAGE = """
Storage.prototype.setItem = Storage.prototype.getItem = () => { throw new Error("off") };
"""


def test_answers_remain_where_the_address_changes_and_nothing_is_kept(visit, tmp_path):
    write_rating(tmp_path)
    session = visit((tmp_path / "page.html").as_uri())
    session.context.add_init_script(NO_STORAGE)
    session.page.reload()
    session.begin("ann")
    session.press(1, 1, 1)
    session.page.evaluate("location.hash = 'rater=bob'")
    session.page.wait_for_selector("#start:not([hidden])")
    session.page.fill("#rater", "ann")
    session.press("Enter")
    assert session.page.evaluate(STATUS).startswith("3 of 34 answered")


def test_answers_are_stored_before_the_next_rater_of_an_address(visit, served):
    def slow(route):
        time.sleep(0.3)
        route.continue_()

    session = visit(served[2] + "#rater=ann")
    session.press("Enter")
    session.page.route("**/judgements", slow)
    session.press(1, 1, 1)
    session.page.evaluate("location.hash = 'rater=bob'")
    session.page.wait_for_selector("#start:not([hidden])")
    lines = (served[0] / "judgements.jsonl").read_text().splitlines()
    assert [json.loads(line)["rater"] for line in lines] == ["ann"] * 3


def contents_of(encoding, rng, count):
    form = form_of(encoding)
    values = [form.noise(encoding, rng, 24) for _ in range(2 * count)]
    made = [form.content(encoding, encoding.decode(x)) for x in values]
    return list(zip(made[::2], made[1::2], strict=True))


ENCODINGS = (
    Pixels(4, 6),
    Strokes((0.5, -0.5), 2.0, 10.0),
    Waveform(1000, 16, "mu_law"),
    PianoRoll(num_keys=20, frames_per_second=100.0),
)


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda x: x.kind)
def test_samples_of_each_kind_are_shown(visit, tmp_path, encoding, width):
    contents = contents_of(encoding, np.random.default_rng(0), 2)
    write_rating(tmp_path, num_repeats=0, num_catches=0, contents=contents)
    session = visit((tmp_path / "page.html").as_uri(), width)
    session.begin("ann")
    page = session.page
    session.wait("[...document.images].every(image => image.complete)")
    sizes = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    shown = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert shown == [width, width]
    if isinstance(encoding, Waveform):
        durations = "[...document.querySelectorAll('audio')].map(x => x.duration)"
        session.wait(f"{durations}.every(duration => duration > 0)")
        assert page.evaluate(durations) == pytest.approx([0.024] * 2, abs=1e-3)
    else:
        assert len(sizes) == 2 and min(sizes) > 0
    session.press("a", "d", "a", 1, "d", 4)
    assert session.is_at_end()
    assert session.messages == [] and session.fetched() == []
