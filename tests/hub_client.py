"""The program as a person runs it against a Hub, without starting an interpreter for every command.

A process of its own, because huggingface_hub reads its settings when it is imported; started once for each way of
transfer, it runs command after command through `program.main`, and small scripts, and hands back what they printed.

    python hub_client.py     # reads {"argv": […]} or {"code": "…"} lines, answers {"code": 0, "out": …, "err": …} lines
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class HubClient:
    """Runs commands with this environment. `hf_home` is its cache."""

    def __init__(self, endpoint: str, hf_home: Path, xet: bool, token: str = "hf_alice", **more: str) -> None:
        self.hf_home = hf_home
        self.environment = environment(endpoint, hf_home, xet, token) | more
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, *argv: object, check: bool = True) -> Done:
        """`sotopia-rl-data ARGV…`. With `check`, anything but exit code 0 fails the test with what was said."""
        done = self._ask({"argv": [str(one) for one in argv]})
        if check and done.code:
            raise AssertionError(f"exit {done.code}: {argv}\n{done.out}\n{done.err}")
        return done

    def python(self, code: str) -> Any:
        """Run a script that prints JSON last; that JSON."""
        done = self.script(code)
        if done.code:
            raise AssertionError(done.err)
        return json.loads(done.out.splitlines()[-1])

    def script(self, code: str) -> Done:
        """Run a script; 99 is its exit code where it ends in a traceback."""
        return self._ask({"code": code})

    def start(self, *argv: object) -> subprocess.Popen[str]:
        """The same as a process of its own, not waited for."""
        return subprocess.Popen(
            [sys.executable, str(ROOT / "cli.py"), *map(str, argv)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def _ask(self, asked: dict[str, Any]) -> Done:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return Done(**json.loads(self._process.stdout.readline()))


def environment(endpoint: str, hf_home: Path, xet: bool, token: str) -> dict[str, str]:
    """This process's, made to talk to `endpoint` and to nothing else."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_", "SOTOPIA_"))}
    return clean | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(hf_home),
        "HF_TOKEN": token,
        "HF_HUB_DISABLE_XET": "0" if xet else "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "160",
    }


def _serve() -> None:
    import contextlib
    import io
    import traceback

    from sotopia_rl_data.cli import program

    replies = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        asked, out, err, code = json.loads(line), io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                if "argv" in asked:
                    program.main(asked["argv"])
                else:
                    exec(compile(asked["code"], "script", "exec"), {"__name__": "script"})
            except SystemExit as done:
                code = done.code if isinstance(done.code, int) else 1
            except BaseException:  # noqa: BLE001  # a traceback is what the test is to show
                code = 99
                traceback.print_exc()
        replies.write(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue()}) + "\n")
        replies.flush()


if __name__ == "__main__":
    _serve()
