"""What the loopback provider can be told to do: its command line and its settings are one dataclass."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from sotopia_rl_data.errors import UsageError


@dataclass(frozen=True, slots=True)
class Options:
    """Shares are between 0 and 1, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 0
    latency: float = 0.0
    limit: float = 0.0  # requests/s; 0: none
    burst: float = 0.1  # seconds' worth of the limit that may be saved up
    retry_after: float = 1.0  # what a 429 asks for; 0: no header
    throttled: float = 0.0  # share of requests that meet 429 whatever the rate
    broken: float = 0.0  # share that meet 500, 502, 503 or a lost connection
    hanging: float = 0.0  # share that get no answer for `hang` seconds
    hang: float = 3_600.0
    malformed: str = ""  # kinds, comma-separated (see answers.MALFORMED), or "all"
    malformed_share: float = 0.0
    refuse: int = 0  # an HTTP status that every request gets
    key: str = ""  # the only key that is let in; the refusal repeats the wrong one, as some providers do
    formats: str = "json_schema,json_object"  # response formats that are known; others get a 400
    schema_in_prefix: int = 1  # 1: the answer schema stands before the messages in the cached prefix, as at OpenAI
    model: str = ""  # the model id that answers name; default: the one asked for, with a date
    seed: int = 0


def from_arguments(arguments: Sequence[str] | None = None) -> Options:
    """Options from a command line: `--latency 0.5` for `latency` and so on."""
    parser = argparse.ArgumentParser(prog="python -m sotopia_rl_data.asking.loopback", description=__doc__)
    for field in fields(Options):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    return checked(Options(**vars(parser.parse_args(arguments))))


def checked(options: Options) -> Options:
    """The same options. Raises UsageError for a share outside 0…1, a negative time or an unknown kind."""
    from sotopia_rl_data.asking.loopback.answers import MALFORMED

    for name in ("throttled", "broken", "hanging", "malformed_share"):
        if not 0 <= getattr(options, name) <= 1:
            raise UsageError(f"{name} is a share.", f"give --{name.replace('_', '-')} a number from 0 to 1")
    for name in ("latency", "limit", "burst", "retry_after", "hang"):
        if getattr(options, name) < 0:
            raise UsageError(f"{name} cannot be negative.", f"give --{name.replace('_', '-')} a number from 0")
    unknown = [k for k in kinds(options) if k not in MALFORMED]
    if unknown:
        raise UsageError(f"There is no malformed kind {unknown[0]!r}.", f"choose from {', '.join(MALFORMED)}, or all")
    return options


def kinds(options: Options) -> tuple[str, ...]:
    """The malformed kinds that were asked for."""
    from sotopia_rl_data.asking.loopback.answers import MALFORMED

    if options.malformed == "all":
        return MALFORMED
    return tuple(k for k in options.malformed.split(",") if k)


def to_arguments(**options: Any) -> list[str]:
    """The command line that `from_arguments` reads back."""
    return [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
