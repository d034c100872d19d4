import numpy as np
import pytest
from study_runs import OBJECTIVES, curve, write_picture, write_run, write_sound

from pf_jax.study.selection import report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    folders = []
    for seed in range(2):
        for objective in OBJECTIVES[:3]:
            run = write_run(
                folder / f"{objective}_{seed}",
                seed=seed,
                objective=objective,
                value=2.0 + seed,
                curves={"judge": curve(range(50), label="judge, nats")},
                sample="<img src='https://example.com/x.png'>" + "x" * 300,
            )
            if objective == "professor_forcing":
                write_picture(run, np.random.default_rng(seed), (440, 440))
                write_sound(run, np.random.default_rng(seed), 1.0)
            folders.append(str(run))
    report(folders, str(folder / "page.html"))
    return folder / "page.html"


@pytest.mark.parametrize("width", [1200, 390])
def test_page_opens_without_errors_requests_or_overflow(browser, page_file, width):
    page = browser.new_page(viewport={"width": width, "height": 800})
    messages, requests = [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_file.as_uri())
    page.wait_for_function("[...document.images].every(image => image.complete)")
    widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    durations = "[...document.querySelectorAll('audio')].map(sound => sound.duration)"
    page.wait_for_function(f"{durations}.every(duration => duration > 0)")
    shown = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    sounds = page.evaluate(durations)
    page.close()
    assert messages == []
    assert [url for url in requests if not url.startswith("data:")] == [
        page_file.as_uri()
    ]
    assert len(widths) == 2 and min(widths) > 0
    assert sounds == pytest.approx([1.0, 1.0], abs=0.01)
    assert shown == [width, width]
