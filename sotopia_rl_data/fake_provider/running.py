"""The loopback provider's options, and how to start it: from a command line, or as a child process of a test.

with running(latency=0.5) as provider: …
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sotopia_rl_data.errors import AskingError, UsageError


@dataclass(frozen=True, slots=True)
class Running:
    """A provider that listens. `url` has no path: Anthropic clients use it as it is, OpenAI clients use
    `openai_url`."""

    url: str
    pid: int

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    def playing(self, habit: str) -> Running:
        """The same server at the path under which it plays a habit, with counts of its own."""
        return replace(self, url=f"{self.url}/{habit}")

    def log(self) -> dict[str, Any]:
        """Counts of what the provider has received and answered so far: see `server.Provider.log`."""
        return self._get("__log__")

    def hurry(self) -> None:
        """End the batches that are under way now, whatever their `--batch-seconds`."""
        self._get("__hurry__")

    def _get(self, path: str) -> dict[str, Any]:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"{self.url}/{path}", timeout=30) as answer:
            body: dict[str, Any] = json.load(answer)
        return body


@contextmanager
def running(**options: Any) -> Iterator[Running]:
    """Start a provider with these `ProviderOptions`, and stop it at the end of the block."""
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


MALFORMED = (
    "fenced",
    "truncated",
    "extra",
    "missing",
    "range",
    "strings",
    "floats",
    "null",
    "nested",
    "agent",
    "empty",
    "refusal",
)  # the kinds that `malformed` may name


def _option(default: Any, help_: str, most: float = math.inf) -> Any:
    """An option whose value, where it is a number, is from 0 to `most`."""
    return field(default=default, metadata={"help": help_, "most": most})


def _share(help_: str) -> Any:
    return _option(0.0, help_, 1.0)


@dataclass(frozen=True, slots=True)
class ProviderOptions:
    """What the provider can do. Shares are from 0 to 1, times in seconds; each field's metadata has its help text.

    Raises UsageError for a share outside 0…1, a negative time or an unknown kind of answer.
    """

    host: str = _option("127.0.0.1", "address to listen on")
    port: int = _option(0, "port to listen on; 0: a free one")
    latency: float = _option(0.0, "seconds that an answer takes")
    limit: float = _option(0.0, "requests per second that are accepted, the others get 429; 0: all")
    burst: float = _option(0.1, "seconds of unused --limit that may be saved up for a burst")
    retry_after: float = _option(1.0, "seconds that a 429 asks to wait; 0: its reply has no Retry-After")
    throttled: float = _share("share of requests answered with 429, whatever the rate")
    broken: float = _share("share of requests answered with 500, 502, 503 or a lost connection")
    hanging: float = _share("share of requests that get no answer for --hang seconds")
    hang: float = _option(3_600.0, "seconds that a request or a batch step hangs")
    malformed: str = _option("", "kinds of malformed answers, comma-separated, or all")
    malformed_share: float = _share("share of answers that are malformed")
    malformed_where: str = _option("", "only answers to prompts that contain these words are malformed")
    habit: str = _option("", "a habit of a real provider, from fake_provider/habits")
    refuse: int = _option(0, "an HTTP status that every request gets")
    key: str = _option("", "the only API key that is accepted; the refusal repeats a wrong key, as some providers do")
    formats: str = _option("json_schema,json_object", "response formats that are known; others get a 400")
    schema_in_prefix: int = _option(1, "1: the answer schema stands before the messages in the cached prefix")
    cache: int = _option(1, "0: no prompt is kept in a prefix cache")
    model: str = _option("", "the model id in answers; default: the model asked for, with a date")
    batches: int = _option(1, "1: there are batch APIs; 0: requests to them get 404")
    batch_seconds: float = _option(0.0, "seconds that a batch takes")
    batch_shuffled: int = _option(1, "1: a batch's results come in another order; 0: in that of its requests")
    batch_dropped: float = _share("share of a batch's requests that its results leave out")
    batch_doubled: float = _share("share of a batch's requests whose result comes twice")
    batch_strange: float = _share("share of a batch's requests whose result is followed by one of an unknown custom_id")
    batch_torn: float = _share("share of a batch's requests whose result is cut off in the middle of its line")
    batch_failed: float = _share("share of a batch's requests that end in an error of the server")
    batch_expired: float = _share("share of a batch's requests that expire")
    batch_told: str = _option(
        "", "how batches are told: bare (no counts, no status), loud (other words), late, never (files)"
    )
    batch_queue: int = _option(0, "requests that may be under way in batches at once; 0: any number")
    stall: str = _option("", "steps at which batches hang for --hang s: upload, list, create, created, poll, fetch")
    stalls: int = _option(1, "how many requests hang at each of these steps, counted from the first")
    seed: int = _option(0, "seed of the answers and faults, which depend on the request too")

    def __post_init__(self) -> None:
        for option in fields(ProviderOptions):
            value, most = getattr(self, option.name), option.metadata["most"]
            if isinstance(value, float) and not 0 <= value <= most:
                name = f"--{option.name.replace('_', '-')}"
                allowed = "from 0" if most == math.inf else f"from 0 to {most:g}"
                raise UsageError(f"{name} {value:g} is out of range.", f"give {name} a number {allowed}")
        unknown = [kind for kind in self.kinds if kind not in MALFORMED]
        if unknown:
            raise UsageError(
                f"There is no malformed kind {unknown[0]!r}.", f"choose from {', '.join(MALFORMED)}, or all"
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of malformed answers that were asked for."""
        return MALFORMED if self.malformed == "all" else tuple(kind for kind in self.malformed.split(",") if kind)


def from_arguments(arguments: Sequence[str] | None = None) -> ProviderOptions:
    """Options from a command line: `--latency 0.5` for `latency` and so on."""
    parser = argparse.ArgumentParser(
        prog="python -m sotopia_rl_data.fake_provider",
        description="A provider on this machine that speaks OpenAI's and Anthropic's protocols.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for option in fields(ProviderOptions):
        kind, words = type(option.default), option.metadata["help"]
        parser.add_argument(f"--{option.name.replace('_', '-')}", type=kind, default=option.default, help=words)
    return ProviderOptions(**vars(parser.parse_args(arguments)))
