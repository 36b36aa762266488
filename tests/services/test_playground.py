"""The page in a real browser: from prompt to playing clip, cancelled, refused, reloaded in mid-job, on a phone.

Pictures of it are kept in the folder that OVI_SCREENSHOTS names.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovi.config import Settings
from tests.services.models import lay_bundle
from tests.services.test_server import Running, wait
from tests.services.test_uploads import picture

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; see the dev extra")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; on Debian: apt-get install chromium"),
]
PATIENCE_MS = 120_000.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, settings: Settings, model: Path) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("playground")
    running = Running(lay_bundle(folder / "bundle", model, settings), folder / "state")
    running.start()
    wait(running.ready, "ready")
    yield running
    running.end()


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=["desk", "phone"])
def page(request: pytest.FixtureRequest, browser: sync_api.Browser, server: Running) -> Iterator[sync_api.Page]:
    size = {"desk": (1000, 900), "phone": (360, 740)}[request.param]
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, has_touch=request.param == "phone")
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
    page.goto(f"http://127.0.0.1:{server.port}/")
    yield page
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    _keep(page, request.node.name)
    context.close()
    assert complaints == []
    assert wide <= 0  # nothing to scroll to the side


def test_from_prompt_to_playing_clip(page: sync_api.Page) -> None:
    page.fill("#prompt", "A lamp blinks. <AUDCAP>Beeps.<ENDAUDCAP>")
    sync_api.expect(page.locator("#lint")).to_contain_text("41 of 160 tokens, 32x32")
    page.set_input_files("#image", {"name": "first.png", "mimeType": "image/png", "buffer": picture()})
    page.keyboard.press("Tab")
    page.focus("#go")
    page.keyboard.press("Enter")
    page.wait_for_selector("#player:not([hidden])")
    page.evaluate("document.getElementById('player').muted = true; document.getElementById('player').play()")
    wait(lambda: bool(page.evaluate("document.getElementById('player').currentTime > 0.2")), "it plays")
    page.wait_for_selector("#wave:not([hidden])")
    sync_api.expect(page.locator("#status")).to_contain_text("Done")
    sync_api.expect(page.locator("#history li")).not_to_have_count(0)


def test_a_job_is_followed_over_a_reload_and_cancelled(page: sync_api.Page) -> None:
    page.fill("#steps", "200")
    page.click("#go")
    page.wait_for_selector("#preview:not([hidden])")
    page.reload()
    sync_api.expect(page.locator("#status")).to_contain_text("Step")
    page.wait_for_selector("#preview:not([hidden])")
    page.click("#stop")
    sync_api.expect(page.locator("#status")).to_contain_text("Cancelled")
    sync_api.expect(page.locator("#go")).to_be_enabled()


def test_what_is_refused_is_said_where_it_is(page: sync_api.Page) -> None:
    page.fill("#prompt", "A lamp. <S>Hello")
    sync_api.expect(page.locator("#lint")).to_contain_text("is not closed")
    page.click("#go")
    sync_api.expect(page.locator("#status")).to_contain_text("prompt: <S> is not closed")
    sync_api.expect(page.locator("#go")).to_be_enabled()


def _keep(page: sync_api.Page, name: str) -> None:
    folder = os.environ.get("OVI_SCREENSHOTS")
    if folder:
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)
