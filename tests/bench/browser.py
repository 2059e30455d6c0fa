"""A headless Chromium driven over a pipe by its own protocol, for tests of the page.

The DevTools protocol (https://chromedevtools.github.io/devtools-protocol) in a few lines, instead
of a driver of tens of megabytes that would want to download another browser.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

PATIENCE = 60.0  # seconds for anything; the machine may be busy
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe"),
)
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40, "ArrowUp": 38, "Tab": 9, "Home": 36}

Message = dict[str, Any]


def find_chromium() -> str | None:
    """Where the browser is; None if it is not installed."""
    return shutil.which("chromium")


class Browser:
    """One browser and one page in it."""

    def __init__(self, program: str, profile: Path) -> None:
        """Start it with a profile directory of its own."""
        ours, theirs = os.pipe(), os.pipe()  # it reads commands from 3 and answers on 4
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (ours[0], theirs[1])]
        nothing = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        given = [(os.POSIX_SPAWN_DUP2, end, fd) for end, fd in zip(ends, (3, 4), strict=True)]
        argv = [program, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        self._pid = os.posix_spawn(program, argv, os.environ, file_actions=[*nothing, *given])
        for end in (*ends, ours[0], theirs[1]):
            os.close(end)
        self._write, self._read = ours[1], theirs[0]
        self._buffer = b""
        self._number = 0
        self._session = ""
        self.complaints: list[str] = []  # errors and warnings of the page, since it was opened
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Accessibility"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failed: object) -> None:
        os.close(self._write)  # with its pipe closed it ends
        until = time.monotonic() + PATIENCE
        while not os.waitpid(self._pid, os.WNOHANG)[0]:
            if time.monotonic() > until:
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
                break
            time.sleep(0.02)
        os.close(self._read)

    def call(self, method: str, **params: Any) -> Message:
        """Send a command and wait for what it gives."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: Message = answer["result"]
                return result

    def _receive(self) -> Message:
        """The next message; complaints are noted on the way."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], PATIENCE)
            assert ready, "the browser does not answer"
            piece = os.read(self._read, 1 << 16)
            assert piece, "the browser has ended"
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\0", 1)
        message: Message = json.loads(line)
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.complaints.append(json.dumps(params["args"]))
            case "Log.entryAdded":
                self.complaints.append(params["entry"]["text"])
        return message

    def open(self, url: str) -> None:
        """Load a page, without complaints of the one before, and wait until it is quiet."""
        self.call("Page.navigate", url="about:blank")
        self.complaints.clear()
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.protocol !== 'about:'")

    def run(self, script: str) -> Any:
        """What an expression gives; a promise is waited for."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, (script, found["exceptionDetails"])
        return found["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until an expression is true."""
        until = time.monotonic() + PATIENCE
        while not self.run(condition):
            assert time.monotonic() < until, condition
            time.sleep(0.02)

    def press(self, *keys: str) -> None:
        """Press and release keys, by the names that scripts know them by."""
        for key in keys:
            text = {"text": key} if len(key) == 1 else {}
            code = {"windowsVirtualKeyCode": KEYS.get(key, 0)}
            for kind in ("keyDown", "keyUp"):
                params = {"type": kind, "key": key, "code": key, **code}
                self.call("Input.dispatchKeyEvent", **params, **(text if kind == "keyDown" else {}))

    def look(self, *, dark: bool = False, width: int = 1000, height: int = 800) -> None:
        """Set the colours that the reader prefers and the size of the window."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def picture(self, *, clip: Sequence[float] | None = None, scale: float = 1) -> bytes:
        """The page as PNG: all of it, or x, y, width and height."""
        if clip is None:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = (0, 0, size["width"], size["height"])
        names = ("x", "y", "width", "height")
        area = dict(zip(names, clip, strict=True)) | {"scale": scale}
        made = self.call("Page.captureScreenshot", clip=area, captureBeyondViewport=True)
        return base64.b64decode(made["data"])

    def names(self, role: str) -> list[str]:
        """What a screen reader calls the parts of the page with a role."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            node.get("name", {}).get("value", "")
            for node in nodes
            if not node.get("ignored") and node["role"]["value"] == role
        ]


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser that is installed."""
    program = find_chromium()
    assert program is not None
    with Browser(program, profile) as browser:
        yield browser
