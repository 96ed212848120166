"""A headless Chromium for tests, driven over a pair of pipes: nothing to install but the browser itself."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 30.0
"""Seconds that the browser has for any one answer."""
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]


def installed() -> str | None:
    """The first browser on the PATH that can be driven."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """An empty page of a browser of its own, which is gone afterwards with every process that it started."""
    path = installed()
    assert path is not None
    (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
    # It reads commands from 3 and answers on 4; a shell, unlike subprocess, can give it just these.
    command = f'exec "$@" 3<&{their_in} 4>&{their_out}'
    process = subprocess.Popen(
        ["bash", "-c", command, "browser", path, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(their_in, their_out),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(their_in)
    os.close(their_out)
    try:
        yield Page(our_out, our_in)
    finally:
        end(process)
        os.close(our_out)
        os.close(our_in)


def end(process: subprocess.Popen, grace: float = 0.0) -> None:
    """Ends every process of a session, given its leader; where there is a `grace`, in seconds, asks first."""
    if grace:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
            process.wait(grace)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE)


class Page:
    """One tab. It notes what goes wrong in it (`errors`) and every address that it asks for (`requests`)."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._said, self._calls = write, read, b"", 0
        self._session: str | None = None
        self.errors: list[str] = []
        self.requests: list[str] = []
        (tab,) = (one for one in self._call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=tab["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, address: str, width: int, height: int) -> None:
        """Goes to an address with a screen of so many pixels; below 600 it is a phone's. Forgets what it noted."""
        phone = width < 600
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.errors.clear()
        self.requests.clear()
        failed = self._call("Page.navigate", url=address).get("errorText")
        assert not failed, f"{address}: {failed}"
        self.wait_for("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives."""
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def text(self) -> str:
        """Everything that can be read on the page."""
        return self.value("document.body ? document.body.innerText : ''") or ""

    def wait_for(self, expression: str, patience: float = PATIENCE) -> None:
        """Waits until a JavaScript expression holds.

        Raises:
            AssertionError: it never did; says what was on the page instead.
        """
        until = time.monotonic() + patience
        while not self.value(expression):
            assert time.monotonic() < until, f"never on the page: {expression}\nThere was: {self.text()[:3000]}"
            time.sleep(0.1)

    def wait_for_text(self, *words: str, patience: float = PATIENCE) -> None:
        """Waits until all of some words can be read, in whatever case a style sheet puts them."""
        read = "document.body.innerText.toLowerCase()"
        self.wait_for(f"{json.dumps(words)}.every(word => {read}.includes(word.toLowerCase()))", patience)

    def click(self, selector: str, text: str) -> None:
        """Clicks the last element, in the page's order, that a selector gives and that says just `text`."""
        every = f"[...document.querySelectorAll({json.dumps(selector)})]"
        found = f"{every}.filter(part => part.innerText.trim() === {json.dumps(text)}).at(-1)"
        self.wait_for(f"!!{found}")
        self.value(f"{found}.click()")

    def screenshot(self, path: Path) -> None:
        """Keeps what the screen shows as a PNG."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while (answer := self._next(until)).get("id") != self._calls:
            self._note(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _next(self, until: float) -> dict[str, Any]:
        """The next message; it may come in pieces, or with others."""
        while b"\0" not in self._said:
            ready, _, _ = select.select([self._read], [], [], max(0.0, until - time.monotonic()))
            assert ready, "the browser does not answer"
            piece = os.read(self._read, 1 << 20)
            assert piece, "the browser has ended"
            self._said += piece
        message, _, self._said = self._said.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
