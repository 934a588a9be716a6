"""The options that commands share which ask models: what is sent, what it may cost, where answers are kept.

sampling  --temperature --max-tokens         costs        --dry-run --budget --prices
batches   --batch --poll --no-wait           pace         --concurrency --rpm --tpm --timeout
kept      --ledger                           again        --retry-failed
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sotopia_rl_data.errors import UsageError

if TYPE_CHECKING:
    from sotopia_rl_data.asking.plan import AskOptions, Batching

F = TypeVar("F", bound=Callable[..., Any])

kept = click.option(
    "--ledger",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where raw answers are kept.  [default: STORE/.ledger]",
)
again = click.option("--retry-failed", is_flag=True, help="Ask once more, and only, what was answered unusably before.")


def pace(what: str) -> Callable[[F], F]:
    """`--concurrency`, `--rpm`, `--tpm` and `--timeout` of a command that has `what` in flight."""
    limit = f"{what} in flight at most.  [default: the models' own]"
    longest = "The longest wait for one answer.  [default: 180]"
    above = click.FloatRange(0, min_open=True)
    return _together(
        click.option("--concurrency", type=click.IntRange(1), help=limit),
        click.option("--rpm", type=above, metavar="N", help="Requests a minute at most.  [default: what 429s teach]"),
        click.option("--tpm", type=above, metavar="N", help="Tokens a minute at most, in and out."),
        click.option("--timeout", type=above, metavar="SECONDS", help=longest),
    )


def ask_options(options: dict[str, Any]) -> AskOptions:
    """How a command asks: the options of this module that it has, taken out of its options. Raises UsageError."""
    from sotopia_rl_data.asking.pacing import Pacing
    from sotopia_rl_data.asking.plan import AskOptions

    named = {"rpm": options.pop("rpm"), "tpm": options.pop("tpm"), "timeout_s": options.pop("timeout")}
    batching = None
    if "batch" in options:
        batching = _batching(options.pop("batch"), options.pop("poll"), options.pop("no_wait"))
    return AskOptions(
        retry_failed=options.pop("retry_failed", False),
        concurrency=options.pop("concurrency"),
        pacing=Pacing(**{name: value for name, value in named.items() if value is not None}),
        batching=batching,
        budget=options.pop("budget"),
        prices=options.pop("prices"),
        ledger=options.pop("ledger"),
    )


def _batching(batch: bool, poll: float | None, no_wait: bool) -> Batching | None:
    """How batches are waited for; None where none are wanted."""
    from sotopia_rl_data.asking.plan import Batching

    if not batch and (no_wait or poll is not None):
        raise UsageError(f"{'--no-wait' if no_wait else '--poll'} is about batches.", "add --batch, or leave it out")
    if not batch:
        return None
    return Batching(wait=not no_wait) if poll is None else Batching(poll_s=poll, wait=not no_wait)


def sampling(default: float) -> Callable[[F], F]:
    """`--temperature` and `--max-tokens` of a command whose models are asked at this temperature."""
    usual = f"Sent to the models.  [default: {default:g}, where they take one]"
    return _together(
        click.option("--temperature", type=float, help=usual),
        click.option("--max-tokens", type=click.IntRange(1), help="The longest answer."),
    )


def sampling_of(temperature: float | None, max_tokens: int | None) -> dict[str, Any] | None:
    """What `--temperature` and `--max-tokens` lay over the models' defaults; None: nothing. Raises UsageError."""
    if temperature is not None and not 0 <= temperature < math.inf:
        raise UsageError(f"A temperature of {temperature:g} makes no sense.", "give --temperature 0 or more")
    given = {"temperature": temperature, "max_tokens": max_tokens}
    return {name: value for name, value in given.items() if value is not None} or None


def costs(what: str) -> Callable[[F], F]:
    """`--dry-run`, `--budget` and `--prices` of a command that makes `what`."""
    cap = f"A hard cap on what {what} cost, all runs together."
    listed = "Prices of your own, over the built-in list.  [default: $SOTOPIA_RL_DATA_PRICES]"
    file = click.Path(dir_okay=False, path_type=Path)
    return _together(
        click.option("--dry-run", is_flag=True, help="Say what it would ask and cost; ask nobody, write no version."),
        click.option("--budget", type=float, metavar="USD", help=cap),
        click.option("--prices", type=file, metavar="FILE", help=listed),
    )


def batches(command: F) -> F:
    """`--batch`, `--poll` and `--no-wait`."""
    cheap = "Ask through the provider's batch API: half the price, within a day."
    leave = "With --batch: submit and leave. The same command again goes on."
    look = "Between looks at batches.  [default: 60]"
    return _together(
        click.option("--batch", is_flag=True, help=cheap),
        click.option("--poll", type=click.FloatRange(1), metavar="SECONDS", help=look),
        click.option("--no-wait", is_flag=True, help=leave),
    )(command)


def _together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """One decorator for several options, listed in this order."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
