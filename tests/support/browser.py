"""A headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Browser", "chromium"]


def chromium() -> str:
    """The program, or the test is skipped."""
    pytest.importorskip("websockets", reason="needs websockets")
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if found := shutil.which(name):
            return found
    pytest.skip("needs Chromium")


class Browser:
    """One page. A context manager.

    Attributes:
        problems: what the page complained of: errors of scripts, and what its policy has refused.
    """

    def __init__(self, folder: Path, sound: Path | None = None) -> None:
        """`folder`: for its profile; `sound`: a wav file that the microphone plays again and again."""
        options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--remote-debugging-port=0",
            f"--user-data-dir={folder / 'profile'}",
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            "--autoplay-policy=no-user-gesture-required",
        ]
        if sound is not None:
            options.append(f"--use-file-for-fake-audio-capture={sound}")
        self._process = subprocess.Popen(
            [chromium(), *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.problems: list[str] = []
        self._number = 0

    def __enter__(self) -> Browser:
        from websockets.sync.client import connect

        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := re.search(r"DevTools listening on (ws://\S+)", line):
                break
        else:
            pytest.skip("Chromium does not start here")
        self._opened = connect(found[1], max_size=None)
        self._socket = self._opened.__enter__()
        target = self._send("Target.createTarget", None, url="about:blank")["targetId"]
        self._session = self._send("Target.attachToTarget", None, targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.__exit__(None, None, None)
        self._process.terminate()
        self._process.wait(20)

    def _send(self, method: str, session: str | None, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message | ({} if session is None else {"sessionId": session})))
        while (answer := json.loads(self._socket.recv(timeout=60))).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(parameters["exceptionDetails"].get("exception", {}).get("description")))
        elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.problems.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command to the page."""
        return self._send(method, self._session, **parameters)

    def open(self, url: str) -> None:
        """Goes to an address."""
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def value(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str, seconds: float = 40.0) -> Any:
        """Waits until an expression is true; returns its value."""
        deadline = time.monotonic() + seconds
        while not (value := self.value(script)):
            assert time.monotonic() < deadline, f"never true: {script}"
            time.sleep(0.05)
        return value

    def size(self, width: int, height: int, phone: bool = False) -> None:
        """The size of the window."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def dark(self, on: bool) -> None:
        """What the system prefers."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if on else "light"}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def press(self, element: str, kind: str = "mousePressed") -> None:
        """The mouse on the element of an id."""
        script = f"document.getElementById('{element}').getBoundingClientRect().toJSON()"
        box = self.value(script)
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        self.send("Input.dispatchMouseEvent", type=kind, **at, button="left", clickCount=1)

    def click(self, element: str) -> None:
        """A click on the element of an id."""
        self.press(element)
        self.press(element, "mouseReleased")

    def write(self, element: str, text: str) -> None:
        """Types a text into the element of an id."""
        self.value(f"document.getElementById('{element}').focus()")
        self.send("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        """A picture of the window."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))
