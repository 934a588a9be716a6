"""A headless Chromium, driven over its DevTools protocol: open a page, evaluate, click, take a picture, collect noise.

Only what the tests of our own pages need. `find()` says where a browser is; where there is none, tests skip and say so.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
NOISE = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")


def find() -> str | None:
    """The browser's program: CHROMIUM, or what is on the PATH."""
    return os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


needs_browser = pytest.mark.skipif(find() is None, reason="no Chromium here: apt-get install chromium, or set CHROMIUM")


class Page:
    """One tab. `noise` are the console messages, exceptions and violations so far, `requests` the URLs asked for."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._loop, self._socket, self._number, self._session = loop, socket, 0, ""
        self.noise: list[dict[str, Any]] = []
        self.requests: list[str] = []

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its result; events that come meanwhile are noted."""
        return self._loop.run_until_complete(self._send(method, params))

    async def _send(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        number, session = self._number, {"sessionId": self._session} if self._session else {}
        await self._socket.send_json({"id": number, "method": method, "params": params, **session})
        while True:
            told = json.loads((await self._socket.receive(timeout=60)).data)
            if told.get("id") == number:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']['message']}")
                return told["result"]
            self._note(told)

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") in NOISE:
            self.noise.append(event)
        elif event.get("method") == "Network.requestWillBeSent":
            self.requests.append(event["params"]["request"]["url"])

    def attach(self, width: int, height: int, dark: bool) -> None:
        """A tab of this size that reports everything."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=scheme)

    def open(self, path: Path, ready: str = "document.documentElement.dataset.ready === 'yes'") -> float:
        """Load a file; returns the seconds until `ready` is true."""
        began = time.monotonic()
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.wait(ready)
        return time.monotonic() - began

    def wait(self, condition: str, seconds: float = 60) -> None:
        """Until a JavaScript condition holds."""
        end = time.monotonic() + seconds
        while not self.js(f"(() => {{ try {{ return !!({condition}) }} catch {{ return false }} }})()"):
            if time.monotonic() > end:
                raise TimeoutError(condition)
            time.sleep(0.02)

    def js(self, expression: str) -> Any:
        """The value of an expression, as JSON. Raises RuntimeError with what it throws."""
        told = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise RuntimeError(told["exceptionDetails"].get("exception", {}).get("description", "thrown"))
        return told["result"].get("value")

    def set(self, control: str, value: str | int, event: str = "input") -> None:
        """Give the control with this id a value, as a person would."""
        change = f"box.value = {json.dumps(str(value))}; box.dispatchEvent(new Event('{event}'))"
        self.js(f"(() => {{ const box = document.getElementById('{control}'); {change} }})()")

    def settle(self) -> None:
        """Until what was asked for has been drawn."""
        self.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def picture(self, path: Path) -> None:
        """A PNG of what is in view."""
        shot = self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def page(width: int = 1440, height: int = 900, dark: bool = False) -> Iterator[Page]:
    """A new browser with one tab, ended at the end of the block."""
    program = find()
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium, or set CHROMIUM")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.PIPE, text=True
        )
        loop = asyncio.new_event_loop()
        session: aiohttp.ClientSession | None = None
        try:
            url = _endpoint(process)
            session = loop.run_until_complete(_session())
            tab = Page(loop, loop.run_until_complete(session.ws_connect(url, max_msg_size=0)))
            tab.attach(width, height, dark)
            yield tab
        finally:
            if session is not None:
                loop.run_until_complete(session.close())
            process.kill()
            process.wait()
            process.stderr.close()
            loop.close()


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(trust_env=False)


def _endpoint(process: subprocess.Popen[str]) -> str:
    for line in process.stderr:
        if "DevTools listening on " in line:
            return line.split()[-1]
    raise RuntimeError("the browser did not start")
