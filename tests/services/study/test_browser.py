"""Raters in a real browser: whole sittings by mouse, finger and keyboard, with sound, and everything that can go wrong.

It needs Playwright (PyPI) and a Chromium: Debian's, or the file CHROMIUM names. OVI_TEST_SCREENSHOTS keeps pictures.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.services.study.conftest import SECRET
from tests.services.study.made import lay_clips

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium, or set CHROMIUM to one"),
]

ROOT = Path(__file__).parents[3]
TRIALS = 6  # three comparisons, two checks, the repeat
DESKTOP = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 3, "is_mobile": True, "has_touch": True}
SMALL_PHONE = PHONE | {"viewport": {"width": 360, "height": 740}}
PATIENCE_MS = 60_000
HEARD = """side => {
  const of = which => document.querySelector(`#${which} video`);
  const video = of(side), other = of(side === "left" ? "right" : "left");
  const context = new AudioContext(), analyser = context.createAnalyser();
  context.createMediaStreamSource(video.captureStream()).connect(analyser);
  window.watched = { level: 0, drift: 0, muted: video.muted, other: other.muted, volume: video.volume };
  const samples = new Float32Array(analyser.fftSize);
  const look = () => {
    if (video.ended || video.paused && video.currentTime > 0.2) return context.close();
    analyser.getFloatTimeDomainData(samples);
    window.watched.level = Math.max(window.watched.level, ...samples);
    if (video.currentTime > 0.5 && video.currentTime < video.duration - 0.2) {
      window.watched.drift = Math.max(window.watched.drift, Math.abs(video.currentTime - other.currentTime));
    }
    requestAnimationFrame(look);
  };
  look();
}"""


class Served:
    """`ovi study serve` as a process of its own; may be killed and started again on the same state."""

    def __init__(self, folder: Path) -> None:
        self.pairs, self.state = lay_clips(folder / "pairs"), folder / "state"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.given = 0
        self.start()

    def start(self) -> None:
        words = [sys.executable, "-m", "ovi.cli", "study", "serve", "--pairs", str(self.pairs), "--state",
                 str(self.state), "--port", str(self.port), "--raters", "20"]  # fmt: skip
        environment = os.environ | {"OVI_STUDY_SECRET": SECRET, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/", trust_env=False).status_code == 200:
                    return
            assert self.process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.1)

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def link(self) -> tuple[str, int]:
        """A fresh invitation, and its rater."""
        link = (self.state / "invitations.txt").read_text().splitlines()[self.given]
        self.given += 1
        return link, self.given

    def quiet(self, rater: int) -> int:
        """Which tone of the round the rater is at is the quiet one: the server alone knows."""
        with contextlib.closing(sqlite3.connect(self.state / "study.db")) as db:
            rounds, answers = db.execute("SELECT rounds, answers FROM raters WHERE id = ?", (rater,)).fetchone()
            return int(json.loads(rounds)[len(json.loads(answers))][0])

    def trials(self, rater: int) -> list[dict[str, Any]]:
        export = httpx.get(f"{self.url}/api/export", headers={"Authorization": f"Bearer {SECRET}"}, trust_env=False)
        return [trial for trial in export.json()["trials"] if trial["rater"] == rater]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    running = Served(tmp_path_factory.mktemp("study"))
    yield running
    running.process.terminate()
    running.process.wait(timeout=60)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """A new page, in a browser of its own; whatever it logs as an error fails the test, but for what a test expects."""
    contexts, wrong = [], []

    def page(expected: tuple[str, ...] = (), **options: Any) -> Any:
        contexts.append(browser.new_context(**(options or DESKTOP)))
        contexts[-1].set_default_timeout(PATIENCE_MS)
        page = contexts[-1].new_page()
        note = lambda text: wrong.append(text) if not [word for word in expected if word in text] else None  # noqa: E731
        page.on("console", lambda said: note(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: note(str(error)))
        return page

    yield page
    for context in contexts:
        context.close()
    assert wrong == []


def picture(page: Any, name: str) -> None:
    if folder := os.environ.get("OVI_TEST_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")


def says(page: Any, where: str, words: str) -> None:
    """Waits until it does. (The page's policy forbids Playwright's own wait_for_function.)"""
    playwright.expect(page.locator(where)).to_contain_text(words, timeout=PATIENCE_MS)


def fits(page: Any) -> None:
    """Nothing is wider than the screen."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def in_sight(page: Any, where: str) -> None:
    """All of it is on the screen, without scrolling, and it is large enough for a finger."""
    box, screen = page.locator(where).bounding_box(), page.viewport_size
    assert 0 <= box["x"] <= box["x"] + box["width"] <= screen["width"], (where, box)
    assert 0 <= box["y"] <= box["y"] + box["height"] <= screen["height"], (where, box)
    assert min(box["width"], box["height"]) >= 44, (where, box)


class Hand:
    """Acts by mouse or, on a phone, by finger."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.touch = page.evaluate("matchMedia('(hover: none)').matches")

    def press(self, where: str) -> None:
        target = self.page.locator(where)
        if self.touch:
            target.tap()
        else:
            target.click()

    def tones(self) -> None:
        self.press("#tones-play")

    def tone(self, answer: int) -> None:
        self.press(f"#tones-answers button:nth-child({answer + 1})")

    def play(self, side: str) -> None:
        self.press(f"#{side} button")

    def answer(self, question: str, place: int) -> None:
        self.press(f"#{question} label:nth-of-type({place + 1})")

    def on(self) -> None:
        self.press("#next")


class Keys(Hand):
    """Acts by keyboard only."""

    def tones(self) -> None:
        self.page.keyboard.press("p")

    def tone(self, answer: int) -> None:
        self.page.keyboard.press("123"[answer])

    def play(self, side: str) -> None:
        self.page.keyboard.press("a" if side == "left" else "b")

    def answer(self, question: str, place: int) -> None:
        self.page.keyboard.press("123456789"[3 * ["audio", "video", "sync"].index(question) + place])

    def on(self) -> None:
        self.page.keyboard.press("Enter")


def through_the_tones(served: Served, page: Any, hand: Hand, rater: int) -> None:
    for number in range(1, 7):
        says(page, "#place", f"{number} of 6")
        hand.tones()
        page.wait_for_selector("#tones-answers button:not([disabled])")
        hand.tone(served.quiet(rater))
    at(page, 1)


def at(page: Any, number: int) -> None:
    says(page, "#place", f"Pair {number} of {TRIALS}")
    page.wait_for_selector("#left button:not([disabled])")


def hear(page: Any, hand: Hand) -> None:
    for side in ("left", "right"):
        hand.play(side)
        page.wait_for_selector(f"#{side}.heard")
    page.wait_for_selector("#audio:not([disabled])")


def judge(page: Any, hand: Hand, places: tuple[int, int, int]) -> None:
    for question, place in zip(("audio", "video", "sync"), places, strict=True):
        hand.answer(question, place)
    page.wait_for_selector("#next:not([disabled])")


SITTINGS = {
    "mouse": (Hand, DESKTOP),
    "keyboard": (Keys, DESKTOP),
    "finger": (Hand, SMALL_PHONE),
    "phone-keyboard": (Keys, PHONE),
}


@pytest.mark.parametrize("way", SITTINGS)
def test_a_whole_sitting(served: Served, opened: Callable[..., Any], way: str) -> None:
    kind, size = SITTINGS[way]
    link, rater = served.link()
    page = opened(**size)
    page.goto(link)
    page.wait_for_selector("#tones:not([hidden])")
    fits(page)
    picture(page, f"{way}-tones")
    hand = kind(page)
    through_the_tones(served, page, hand, rater)
    answers = [(n % 3, (n + 1) % 3, (n + 2) % 3) for n in range(TRIALS)]
    for number in range(1, TRIALS + 1):
        at(page, number)
        assert page.locator("#next").is_disabled()
        assert page.locator("#audio input").first.is_disabled()
        sizes = [page.locator(f"#{side} video").bounding_box() for side in ("left", "right")]
        assert all(sizes[0][edge] == pytest.approx(sizes[1][edge], abs=0.1) for edge in ("width", "height"))
        for what in ("#left video", "#right video", "#left button", "#right button"):
            in_sight(page, what)
        if number == 1:
            page.evaluate(HEARD, "right")
            picture(page, f"{way}-trial")
        hear(page, hand)
        if number == 1:
            watched = page.evaluate("watched")
            assert watched["level"] > 0.02, watched
            assert watched["drift"] < 0.15, watched
        judge(page, hand, answers[number - 1])
        in_sight(page, "#next")
        focused, end = (page.locator(where).bounding_box() for where in ("#sync label:last-of-type", ".end"))
        assert focused["y"] + focused["height"] <= end["y"], "the way on covers the last question"
        fits(page)
        picture(page, f"{way}-answered-{number}")
        hand.on()
    says(page, "#message-title", "Done")
    picture(page, f"{way}-done")
    words = ("left", "tie", "right")
    voted = [
        tuple(words.index(trial["votes"][q]) for q in ("audio", "video", "sync")) for trial in served.trials(rater)
    ]
    assert voted == answers
    assert all(trial["closed_at"] for trial in served.trials(rater))


def test_nothing_is_lost_or_doubled(served: Served, opened: Callable[..., Any]) -> None:
    """Reload, back button, double clicks, two tabs, a server that is killed: one vote a question, the first stands."""
    link, rater = served.link()
    page = opened(expected=("ERR_CONNECTION", "Failed to load resource"))
    page.goto("about:blank")
    page.goto(link)
    hand = Hand(page)
    through_the_tones(served, page, hand, rater)

    # reload: what was heard and answered is there again
    hear(page, hand)
    hand.answer("audio", 2)
    hand.answer("video", 1)
    says(page, "#saved", "Saved")
    page.reload()
    at(page, 1)
    assert page.locator("#audio input:checked").get_attribute("value") == "right"
    assert page.locator("#video input:checked").get_attribute("value") == "tie"
    assert page.locator("#sync input:checked").count() == 0

    # back and forward
    page.go_back()
    page.go_forward()
    at(page, 1)
    assert page.locator("#audio input:checked").get_attribute("value") == "right"

    # double clicks
    page.locator("#sync label:nth-of-type(1)").dblclick()
    page.wait_for_selector("#next:not([disabled])")
    page.locator("#next").dblclick()
    at(page, 2)
    assert [trial["votes"] for trial in served.trials(rater)[:2]] == [
        {"audio": "right", "video": "tie", "sync": "left"}, {},
    ]  # fmt: skip

    # two tabs: what one has closed stands, the other follows
    other = page.context.new_page()
    other.goto(link)
    at(other, 2)
    page.bring_to_front()
    hear(page, hand)
    judge(page, hand, (0, 0, 0))
    other.bring_to_front()
    other.reload()
    other.wait_for_selector("#next:not([disabled])")
    page.bring_to_front()
    hand.on()
    at(page, 3)
    other.bring_to_front()
    other.locator("#audio label:nth-of-type(3)").click()
    at(other, 3)
    assert served.trials(rater)[1]["votes"] == dict.fromkeys(("audio", "video", "sync"), "left")
    other.close()

    # the server is killed with a trial half answered, and comes back while the rater goes on
    page.bring_to_front()
    hear(page, hand)
    hand.answer("audio", 1)
    says(page, "#saved", "Saved")
    served.kill()
    hand.answer("video", 2)
    page.wait_for_selector("#trouble:not([hidden])")
    picture(page, "server-gone")
    hand.answer("sync", 2)
    assert page.locator("#next").is_disabled()
    served.start()
    page.wait_for_selector("#next:not([disabled])")
    assert page.locator("#trouble").is_hidden()
    hand.on()
    at(page, 4)
    assert served.trials(rater)[2]["votes"] == {"audio": "tie", "video": "right", "sync": "right"}


def test_a_wrong_link_and_a_missing_one_say_so(served: Served, opened: Callable[..., Any]) -> None:
    page = opened(expected=("401",))
    for link, words in ((f"{served.url}/#nonsense", "does not work"), (f"{served.url}/", "not whole")):
        page.goto("about:blank")
        page.goto(link)
        says(page, "#message-title", words)


def test_without_headphones_one_is_asked_again_and_then_thanked(served: Served, opened: Callable[..., Any]) -> None:
    link, rater = served.link()
    page = opened()
    page.goto(link)
    hand = Keys(page)
    for attempt in range(1, 4):
        for number in range(1, 7):
            says(page, "#place", f"{number} of 6")
            page.evaluate(
                "for (const each of document.querySelectorAll('#tones-answers button')) each.disabled = false"
            )
            hand.tone((served.quiet(rater) + 1) % 3)
        if attempt < 3:
            page.wait_for_selector("#again:not([hidden])")
    says(page, "#message-text", "headphones")
    picture(page, "refused")
