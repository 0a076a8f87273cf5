"""A headless Chromium for the tests of the editor: one page, clicked and read as a person would.

Its protocol (https://chromedevtools.github.io/devtools-protocol/) goes through a pair of pipes, so nothing but Python's
own modules is needed. Chromium is $CHROMIUM, or the first of NAMES on the PATH. Tests that use this are skipped where
there is none (and on Windows), unless $REQUIRE_COMFYUI is set: then they fail.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from comfyui_server import end

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FOUND = os.environ.get("CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)
CHROMIUM = _FOUND if os.name == "posix" else None  # the pipes are handed over as Unix does it

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("REQUIRE_COMFYUI"), reason=f"none of {', '.join(NAMES)} is on the PATH"
)

_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio", "--no-first-run", "--disable-extensions"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--lang=en-US"),
)
_ANSWER_LIMIT = 60.0  # seconds that one command may take


class Page:
    """One page: what scripts say in it, what is clicked in it, and `errors`, which its console said."""

    def __init__(self, read_end: int, write_end: int) -> None:
        self._read_end, self._write_end = read_end, write_end
        self._pending = b""
        self._last = 0
        self._session: str | None = None
        self.errors: list[str] = []

    def attach(self) -> None:
        """Open a page and listen to its console."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command and its answer; events that come before it are noted."""
        self._last += 1
        command = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._write_end, json.dumps(command).encode() + b"\0")
        deadline = time.monotonic() + _ANSWER_LIMIT
        while time.monotonic() < deadline:
            message = self._message(deadline - time.monotonic())
            if message.get("id") == self._last:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._note(message)
        raise AssertionError(f"Chromium did not answer {method} in {_ANSWER_LIMIT:.0f} s")

    def _message(self, seconds: float) -> dict[str, Any]:
        """The next message, or an empty one when none comes in time."""
        while b"\0" not in self._pending:
            if not select.select([self._read_end], [], [], max(0.0, seconds))[0]:
                return {}
            piece = os.read(self._read_end, 1 << 20)
            assert piece, "Chromium is gone"
            self._pending += piece
        text, _, self._pending = self._pending.partition(b"\0")
        return json.loads(text)

    def _note(self, message: dict[str, Any]) -> None:
        event, said = message.get("method"), message.get("params", {})
        if event == "Runtime.consoleAPICalled" and said["type"] in ("error", "assert"):
            words = (str(each.get("value", each.get("description", ""))) for each in said["args"])
            self.errors.append(" ".join(words))
        elif event == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.errors.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise; it must fit into JSON."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 20.0) -> Any:
        """The value of an expression as soon as it is true."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"not true after {seconds:g} s: {script}"
            time.sleep(0.05)
        return value

    def click_at(self, x: float, y: float) -> None:
        """A click of the left button, in pixels of the page."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def click(self, selector: str, seconds: float = 20.0) -> None:
        """A click on the middle of the first element that a CSS selector finds.

        Once it is there, enabled, not covered by another, and stands still.
        """
        script = (
            f"(e => {{ if (!e || e.disabled) return null; const b = e.getBoundingClientRect();"
            f" const at = [b.x + b.width / 2, b.y + b.height / 2];"
            f" return e.contains(document.elementFromPoint(...at)) ? at : null }})"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        before = None
        while (place := self.wait(script, seconds)) != before:
            before = place
            time.sleep(0.2)
        self.click_at(*place)

    def double_click_at(self, x: float, y: float) -> None:
        for count in (1, 2):
            for kind in ("mousePressed", "mouseReleased"):
                self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=count)

    def type(self, text: str) -> None:
        """Into whatever has the keyboard."""
        self.send("Input.insertText", text=text)

    def enter(self) -> None:
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13)

    def picture(self, path: Path, height: int, quality: int = 70) -> None:
        """What the page shows, down to `height` pixels, as a JPEG."""
        area = {"x": 0, "y": 0, "width": self.run("innerWidth"), "height": height, "scale": 1}
        answer = self.send("Page.captureScreenshot", format="jpeg", quality=quality, clip=area)
        path.write_bytes(base64.b64decode(answer["data"]))


def _descriptors(commands: int, answers: int) -> Callable[[], None]:
    """What a child does before it becomes Chromium, which reads commands from descriptor 3 and answers on 4."""

    import fcntl  # only Unix has it

    def connect() -> None:
        source, target = (fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in (commands, answers))
        os.dup2(source, 3)
        os.dup2(target, 4)

    return connect


@contextlib.contextmanager
def chromium_page(width: int = 1600, height: int = 900) -> Iterator[Page]:
    """Chromium with one page and a profile of its own, which are gone at the end."""
    assert CHROMIUM, f"none of {', '.join(NAMES)} is on the PATH"
    to_read, their_write = os.pipe()
    their_read, to_write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="chromium_", ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *_FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        command += [f"--window-size={width},{height}", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, preexec_fn=_descriptors(their_read, their_write), close_fds=False, **quiet)
        os.close(their_read)
        os.close(their_write)
        try:
            page = Page(to_read, to_write)
            page.attach()
            yield page
        finally:
            end(process)
            os.close(to_read)
            os.close(to_write)
