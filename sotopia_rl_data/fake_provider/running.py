"""The loopback provider as a child process, for tests and benchmarks: `with running(latency=0.5) as provider: …`."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sotopia_rl_data.errors import AskingError


@dataclass(frozen=True, slots=True)
class Running:
    """A provider that listens. `url` has no path: OpenAI clients want `openai_url`, Anthropic's the plain one."""

    url: str
    pid: int

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    def log(self) -> dict[str, Any]:
        """What it has received and answered so far: see `server.Provider.log`."""
        return self._get("__log__")

    def hurry(self) -> None:
        """Let the batches that are under way be through now, whatever their `--batch-seconds`."""
        self._get("__hurry__")

    def _get(self, path: str) -> dict[str, Any]:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"{self.url}/{path}", timeout=30) as answer:
            body: dict[str, Any] = json.load(answer)
        return body


@contextmanager
def running(**options: Any) -> Iterator[Running]:
    """Start a provider with the given options (see `options.ProviderOptions`), stop it at the end of the block."""
    command = [sys.executable, "-m", "sotopia_rl_data.fake_provider"]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line.startswith("READY "):
                reason = process.stderr.read() if process.stderr else ""
                raise AskingError(f"The loopback provider did not start: {reason.strip()}")
            yield Running(line.split()[1], process.pid)
        finally:
            process.terminate()
