"""The web page: what the server sends of it, and how it works in a Chromium whose microphone plays a recording."""

from __future__ import annotations

import os
import re
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from edge_gemma.audio.source import load_audio
from edge_gemma.demo.utterances import bundled
from edge_gemma.engine.model import Model
from edge_gemma.server.core import Core
from edge_gemma.server.running import Running
from edge_gemma.server.settings import Settings
from support.browser import Browser, chromium
from support.paths import DATA

COMMAND = next(item for item in bundled() if item.language == "en")
FOLDER = os.environ.get("EDGE_GEMMA_SCREENSHOTS")  # where they are kept


@pytest.fixture(scope="module")
def house_server(house: Any) -> Iterator[Running]:
    core = Core(lambda: Model.load("toy", threads=2), Settings(stop_seconds=1), "demo")
    tools = [tool["function"] for tool in house.tools]
    core.page = {"defaults": {"instructions": house.instructions, "language": "en"}, "tools": tools}
    with Running(core) as running:
        yield running


def test_files_and_their_policy(house_server):
    """Nothing comes from elsewhere, no script or style stands in the page, and nobody may frame it."""
    with httpx.Client(base_url=house_server.url) as http:
        page = http.get("/")
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert "frame-ancestors 'none'" in policy and page.headers["x-content-type-options"] == "nosniff"
        links = re.findall(r'(?:src|href)="([^"]*)"', page.text)
        assert len(links) >= 3 and all(link.startswith("/page/") for link in links)
        assert not re.search(r"<style|style=|\son\w+=|<script>", page.text)
        for link in {*links, "/page/recorder.js"}:
            file = http.get(link)
            assert file.status_code == 200 and file.headers["content-security-policy"] == policy
            found = re.findall(r"https?://[^\s\"'`<>]*", file.text)
            assert set(found) <= {"http://www.w3.org/2000/svg"}, "something comes from elsewhere"
            assert ".innerHTML" not in file.text and "eval(" not in file.text
        assert http.get("/page/nothing.js").status_code == 404
        assert http.get("/page/..%2Fpage.py").status_code == 404


def test_the_page_needs_no_key_but_talking_does(own_server):
    running = own_server(api_key="secret")
    with httpx.Client(base_url=running.url) as http:
        assert http.get("/").status_code == 200 and http.get("/page/page.js").status_code == 200
        about = http.get("/page/about.json").json()
        assert about["key"] is True and "secret" not in str(about)
        assert http.get("/v1/models").status_code == 401


@pytest.fixture(scope="module")
def browser(house_server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium()
    folder = tmp_path_factory.mktemp("browser")
    samples = np.interp(*_at_48_kHz(load_audio(COMMAND.path)))
    with wave.open(str(folder / "speech.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48000)
        sound = np.concatenate([np.zeros(24000), samples, np.zeros(144000)])
        file.writeframes((sound * 32767).astype("<i2").tobytes())
    with Browser(folder, folder / "speech.wav") as opened:
        yield opened


def _at_48_kHz(samples: Any) -> tuple[Any, Any, Any]:
    return np.arange(0, len(samples), 1 / 3), np.arange(len(samples)), samples


@pytest.fixture
def page(browser: Browser, house_server: Running) -> Iterator[Browser]:
    browser.problems.clear()
    browser.size(1100, 760)
    browser.dark(False)
    browser.open(house_server.url)
    browser.until("document.getElementById('state').dataset.state === 'ready'")
    yield browser
    assert not browser.problems


def keep(browser: Browser, name: str) -> None:
    if FOLDER:
        browser.screenshot(Path(FOLDER) / f"{name}.png")


def names(house: Any) -> set[str]:
    """The tools that may be called. Answers are drawn at random, and the toy's are not always right."""
    return {tool["function"]["name"] for tool in house.tools}


def test_written_words_are_answered(page, house):
    page.write("text", "Turn on the kitchen lights.")
    page.click("send")
    shown = page.until("document.querySelector('.call summary')?.textContent")
    assert shown.split("(")[0] in names(house)
    page.until("document.querySelector('.theirs .bubble')?.textContent")
    page.until("document.getElementById('stop').hidden")
    assert page.value("document.querySelector('.mine .bubble').textContent") == "Turn on the kitchen lights."
    keep(page, "chat-light")
    page.click("new")
    page.until("document.getElementById('state').dataset.state === 'ready'")
    assert page.value("document.querySelectorAll('.message').length") == 0


def test_hands_free(page, house):
    """The words appear while they are spoken, and the tool is called."""
    page.value("""(() => { window.seen = new Set(); new MutationObserver(() => {
        for (const one of document.querySelectorAll('.mine .bubble')) window.seen.add(one.textContent);
    }).observe(document.getElementById('log'), { childList: true, subtree: true, characterData: true }); })()""")
    page.click("hands-free")
    page.until("document.getElementById('state').dataset.state === 'live'")
    page.until("document.querySelector('.mine .guess')?.textContent")
    keep(page, "hands-free")
    assert page.until("document.querySelector('.call summary')?.textContent").split("(")[0] in names(house)
    page.click("hands-free")
    seen = page.value("[...window.seen]")
    assert len([words for words in seen if words]) > 1 and any("kitchen" in words for words in seen)


def test_hold_to_talk(page, house):
    page.press("talk")
    page.until("document.getElementById('state').dataset.state === 'live'")
    page.until("document.querySelector('.mine .bubble')?.textContent.includes('kitchen')")
    keep(page, "hold-to-talk")
    page.press("talk", "mouseReleased")
    assert page.until("document.querySelector('.call summary')?.textContent").split("(")[0] in names(house)


def test_a_touch_without_a_word(page):
    page.press("talk")
    page.until("document.getElementById('state').dataset.state === 'live'")
    page.press("talk", "mouseReleased")
    page.until("document.getElementById('state').dataset.state === 'ready'")
    page.until("document.querySelectorAll('.message').length === 0")


def test_settings_and_themes(page):
    """Dark and light by the system or by choice; nothing is wider than a phone."""
    theme = "document.documentElement.dataset.theme"
    assert page.value(theme) == "light"
    page.dark(True)
    page.until(f"{theme} === 'dark'")
    page.size(390, 780, phone=True)
    page.click("open-settings")
    page.until("document.getElementById('settings').open")
    keep(page, "settings-phone-dark")
    assert page.value("document.documentElement.scrollWidth <= innerWidth")
    page.value("document.getElementById('theme').value = 'light'")
    page.value("document.getElementById('most').value = '64'")
    page.value("document.getElementById('save').click()")
    page.until(f"{theme} === 'light'")
    assert '"most":64' in page.value("localStorage.getItem('edge_gemma')")
    page.value("localStorage.clear()")
    page.write("text", "Turn on the kitchen lights.")
    page.click("send")
    page.until("document.querySelector('.theirs .bubble')?.textContent")
    keep(page, "chat-phone-light")
    assert page.value("document.documentElement.scrollWidth <= innerWidth")


def test_a_picture_goes_with_the_words(browser: Browser):
    """Made smaller in the page, shown in the conversation, and read by the model. This one has random weights."""
    core = Core(
        lambda: Model.load(DATA / "e2b-Q4_0.gguf", mmproj=DATA / "vision-e2b.gguf", threads=2),
        Settings(stop_seconds=1),
        "seeing",
    )
    with Running(core) as running:
        browser.problems.clear()
        browser.size(390, 780, phone=True)
        browser.open(running.url)
        browser.until("document.getElementById('state').dataset.state === 'ready'")
        assert browser.value("document.getElementById('voice').hidden")  # it does not hear
        browser.value("""(async () => {
            const canvas = document.createElement('canvas');
            canvas.width = 2000; canvas.height = 1000;
            const context = canvas.getContext('2d');
            context.fillStyle = 'teal';
            context.fillRect(0, 0, 2000, 1000);
            const blob = await new Promise((done) => canvas.toBlob(done, 'image/png'));
            const files = new DataTransfer();
            files.items.add(new File([blob], 'a.png', { type: 'image/png' }));
            document.getElementById('file').files = files.files;
            document.getElementById('file').dispatchEvent(new Event('change'));
        })()""")
        browser.until("document.querySelector('#attached img')?.naturalWidth === 1400")
        browser.value("localStorage.setItem('edge_gemma', '{\"most\": 16}')")
        browser.write("text", "What is this?")
        browser.click("send")
        assert browser.until("document.querySelector('.mine img')?.naturalWidth") == 1400
        assert browser.value("document.querySelector('.mine .bubble').textContent") == "What is this?"
        browser.until("document.querySelector('.theirs .bubble')?.textContent")
        keep(browser, "picture-phone")
        browser.value("localStorage.clear()")
        assert not browser.problems
        assert b'edge_gemma_requests_total{route="/v1/realtime",status="500"}' not in core.metrics.text()


def test_words_of_the_model_are_text(page):
    """What others write is never taken for a page."""
    page.write("text", "<img src=x onerror=alert(1)><b>hello</b>")
    page.click("send")
    page.until("document.querySelector('.mine .bubble')?.textContent")
    assert page.value("document.querySelectorAll('.bubble img, .bubble b').length") == 0
    page.until("document.getElementById('stop').hidden")
