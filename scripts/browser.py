"""A headless Chromium, driven by its own protocol over two pipes: for tests of pages, and for their pictures.

It needs no driver and no package: ``chromium`` is enough. See https://chromedevtools.github.io/devtools-protocol/.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from time import monotonic
from typing import Any

PATIENCE = 30.0  # s
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def executable() -> str | None:
    """The path of a Chromium on this machine; None if there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


# The protocol is spoken over the descriptors 3 and 4, whatever their numbers are here.
_START = """\
import fcntl, os, sys
ends = [fcntl.fcntl(int(each), fcntl.F_DUPFD, 10) for each in sys.argv[1:3]]
for number, end in zip((3, 4), ends):
    os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """A browser with one page. As a context manager it ends at the end."""

    def __init__(self) -> None:
        path = executable()
        assert path is not None, "there is no Chromium"
        self.profile = tempfile.mkdtemp(prefix="colocache-browser-")
        to_read, self._writer = os.pipe()
        self._reader, to_write = os.pipe()
        options = [
            "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={self.profile}", "--no-first-run",
            "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--no-default-browser-check", "--hide-scrollbars",
            "--force-color-profile=srgb", "--font-render-hinting=none", "--no-proxy-server",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
        ]  # fmt: skip
        command = [sys.executable, "-S", "-c", _START, str(to_read), str(to_write), path, *options, "about:blank"]
        self._process = subprocess.Popen(
            command, pass_fds=(to_read, to_write), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(to_read)
        os.close(to_write)
        self._numbers = itertools.count(1)
        self._unread = b""
        self.events: list[dict[str, Any]] = []
        self._session = ""
        try:
            self._attach()
        except BaseException:
            self._process.kill()
            self._process.wait(PATIENCE)
            raise

    def _attach(self) -> None:
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(each["targetId"] for each in targets if each["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    # --- The protocol

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method, and return its result. Events that come meanwhile are kept in ``events``."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        while True:
            found = self._receive()
            if found.get("id") == number:
                assert "error" not in found, f"{method}: {found['error']}"
                result: dict[str, Any] = found["result"]
                return result
            if "method" in found:
                self.events.append(found)

    def _receive(self) -> dict[str, Any]:
        ends = monotonic() + PATIENCE
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._reader], [], [], max(0.0, ends - monotonic()))
            assert ready, "the browser does not answer"
            chunk = os.read(self._reader, 1 << 20)
            assert chunk, "the browser has ended"
            self._unread += chunk
        first, _, self._unread = self._unread.partition(b"\0")
        found: dict[str, Any] = json.loads(first)
        return found

    def _hear(self, seconds: float) -> None:
        """Take what the browser tells within some seconds."""
        if b"\0" in self._unread or select.select([self._reader], [], [], seconds)[0]:
            self.events.append(self._receive())

    # --- The page

    def open(self, address: str) -> None:
        """Go to a page, and return when it is loaded."""
        self.events.clear()
        self.call("Page.navigate", url=address)
        self.until(lambda: any(each["method"] == "Page.loadEventFired" for each in self.events))

    def run(self, script: str) -> Any:
        """Return what a piece of JavaScript returns in the page; what it promises is waited for."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, condition: Callable[[], object], failing: str = "the condition never came true") -> None:
        """Wait for a condition, and take what the browser tells meanwhile."""
        ends = monotonic() + PATIENCE
        while not condition():
            assert monotonic() < ends, failing
            self._hear(0.005)

    def until_true(self, script: str) -> None:
        """Wait until a piece of JavaScript returns something true."""
        self.until(lambda: self.run(script), f"this never came true: {script}")

    def text(self, selector: str) -> str:
        """Return the text of an element, with plain spaces."""
        found: str = self.run(f"document.querySelector({json.dumps(selector)}).textContent")
        return found.replace("\u202f", " ")

    def press(self, key: str, text: str = "", modifiers: int = 0) -> None:
        """Press a key and let it go."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "p": 80}
        more = {"Enter": "\r"}.get(key, text)
        common: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0), "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=more, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Type a text where the keyboard is."""
        self.call("Input.insertText", text=text)

    def size(self, width: int, height: int, *, scale: float = 1, is_phone: bool = False) -> None:
        """Set the size of the window, in pixels of CSS."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=is_phone
        )

    def scheme(self, name: str) -> None:
        """Prefer ``light`` or ``dark`` colours."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def picture(self, *, whole: bool = False, kind: str = "png") -> bytes:
        """Return the page as a PNG, or a WebP; ``whole`` is also what lies below the window."""
        quality = {"quality": 82} if kind != "png" else {}
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole, format=kind, **quality)
        return base64.b64decode(found["data"])

    def complaints(self) -> list[str]:
        """Return what the browser has logged since the page was opened: violations of its policy, exceptions."""
        found = []
        for each in self.events:
            if each["method"] == "Log.entryAdded":
                found.append(each["params"]["entry"]["text"])
            elif each["method"] == "Runtime.exceptionThrown":
                found.append(str(each["params"]["exceptionDetails"]))
        return found

    def close(self) -> None:
        """End the browser."""
        self._session = ""
        try:
            self.call("Browser.close")
        except (AssertionError, OSError):
            self._process.kill()
        self._process.wait(PATIENCE)
        os.close(self._writer)
        os.close(self._reader)
        shutil.rmtree(self.profile, ignore_errors=True)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
