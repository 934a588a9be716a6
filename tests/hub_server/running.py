"""Start the server in a process of its own on a free loopback port, and talk to it from a test."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

TOKENS = ("hf_alice=alice+lab:write", "hf_bob=bob:write", "hf_reader=rita:read")


class HubServer:
    """A running server. `url` is its address; it ends with the `with` block, or with the tests' process."""

    def __init__(self, root: Path, xet: bool) -> None:
        self.root, self.xet = root, xet
        cas = ["--cas", f"local://{root / 'cas'}"] if xet else []
        (root / "cas").mkdir(parents=True, exist_ok=True)
        tokens = [part for token in TOKENS for part in ("--token", token)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hub_server", "--root", str(root), "--with-parent", *cas, *tokens],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = self._process.stdout.readline().split()
        if not said or said[0] != "READY":
            raise RuntimeError("the Hub server did not start")
        self.url = said[1]

    def __enter__(self) -> HubServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> list[str]:
        """The requests since the last call, as "METHOD PATH?QUERY STATUS"."""
        return self._asked("/__log__?clear=1")

    def fault(self, path: str, **what: Any) -> None:
        """See `faults.py`."""
        self._asked("/__fault__", {"path": path} | what)

    def no_faults(self) -> None:
        self._asked("/__fault__", {})

    def get(self, path: str, token: str = "hf_alice") -> Any:
        """The JSON of any GET."""
        return self._asked(path, token=token)

    def text(self, path: str, token: str = "hf_alice") -> str:
        """The text of a small file."""
        request = urllib.request.Request(self.url + path, headers={"authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read().decode()

    def _asked(self, path: str, posted: Any = None, token: str = "hf_alice") -> Any:
        data = None if posted is None else json.dumps(posted).encode()
        headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=30) as answer:
            return json.load(answer)
