"""What the loopback provider can be told to do: its command line and its settings are one dataclass."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from sotopia_rl_data.errors import UsageError

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
)  # kinds of malformed answers


def _option(default: Any, help_: str, most: float = math.inf) -> Any:
    """An option whose value, where it is a number, is from 0 to `most`."""
    return field(default=default, metadata={"help": help_, "most": most})


def _share(help_: str) -> Any:
    return _option(0.0, help_, 1.0)


@dataclass(frozen=True, slots=True)
class ProviderOptions:
    """Shares are between 0 and 1, times in seconds. Each field's metadata says what it does.

    Raises UsageError for a share outside 0…1, a negative time or an unknown kind of answer.
    """

    host: str = _option("127.0.0.1", "address to listen on")
    port: int = _option(0, "port to listen on; 0: a free one")
    latency: float = _option(0.0, "seconds that an answer takes")
    limit: float = _option(0.0, "requests/s that are let in, the others get 429; 0: all")
    burst: float = _option(0.1, "seconds' worth of the limit that may be saved up")
    retry_after: float = _option(1.0, "seconds that a 429 asks to wait; 0: it does not say")
    throttled: float = _share("share of requests that meet 429 whatever the rate")
    broken: float = _share("share that meet 500, 502, 503 or a lost connection")
    hanging: float = _share("share that get no answer for --hang seconds")
    hang: float = _option(3_600.0, "seconds that a hanging request hangs")
    malformed: str = _option("", "kinds of malformed answers, comma-separated, or all")
    malformed_share: float = _share("share of answers that are malformed")
    malformed_where: str = _option("", "words: answers to prompts that hold them are malformed, no others")
    refuse: int = _option(0, "an HTTP status that every request gets")
    key: str = _option("", "the only API key that is let in; others are repeated in the refusal, as some providers do")
    formats: str = _option("json_schema,json_object", "response formats that are known; others get a 400")
    schema_in_prefix: int = _option(1, "1: the answer schema stands before the messages in the cached prefix")
    cache: int = _option(1, "0: no prompt is kept in a prefix cache")
    model: str = _option("", "the model id that answers name; default: the one asked for, with a date")
    batches: int = _option(1, "1: there are batch APIs; 0: they are not found")
    batch_seconds: float = _option(0.0, "seconds that a batch takes")
    batch_shuffled: int = _option(1, "1: a batch's results come in another order; 0: in that of its requests")
    batch_dropped: float = _share("share of a batch's requests that its results leave out")
    batch_doubled: float = _share("share whose result comes twice")
    batch_strange: float = _share("share beside whose result stands one that nobody asked for")
    batch_torn: float = _share("share whose result is cut off in the middle of its line")
    batch_failed: float = _share("share that end in an error of the server")
    batch_expired: float = _share("share that expire")
    batch_queue: int = _option(0, "requests that may be under way in batches at once; 0: any number")
    stall: str = _option("", "steps at which batches hang for --hang s: upload, list, create, created, poll, fetch")
    stalls: int = _option(1, "how many requests hang at each of these steps, the first ones")
    seed: int = _option(0, "what answers and faults are drawn from, with the request")

    def __post_init__(self) -> None:
        for option in fields(ProviderOptions):
            value, most = getattr(self, option.name), option.metadata["most"]
            if isinstance(value, float) and not 0 <= value <= most:
                name = f"--{option.name.replace('_', '-')}"
                allowed = "from 0" if most == math.inf else f"from 0 to {most:g}"
                raise UsageError(f"{name} {value:g} is not possible.", f"give {name} a number {allowed}")
        unknown = [k for k in self.kinds if k not in MALFORMED]
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
