"""Prices from `genai-prices`, a list of many providers that its community keeps, as data of that package: no network.

Its prices have dates from which they are in force; those of today count. Where a price depends on the time of day, the
dearest counts, and where thinking costs more than the answer, so does all of the output. A model that has no price for
its tokens there, or that costs something for each call besides, has no price here either: None and never zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

from sotopia_rl_data.costs.price import LONG_FROM, Price

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice

_INPUT, _CACHED, _WRITTEN = "input_mtok", "cache_read_mtok", "cache_write_mtok"
_OUTPUT, _THOUGHT, _CALLS = "output_mtok", "output_reasoning_mtok", "requests_kcount"
_BATCH = {"processing": "batch"}


def name() -> str:
    """The list, its version and the day whose prices count."""
    from importlib.metadata import version

    return f"genai-prices {version('genai-prices')} on {_today():%Y-%m-%d}"


def find(model: str, url: str) -> Price | None:
    """The price of a model at a URL, with its long-context tiers and the batch price where the list has them."""
    return _find(model, url, _today())


def _today() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


@cache
def _find(model: str, url: str, day: datetime) -> Price | None:
    from genai_prices.data_snapshot import get_snapshot

    try:
        provider, known = get_snapshot().find_provider_model(model, None, None, url)
    except LookupError:
        return None
    hours = [day + timedelta(minutes=30 * half) for half in range(48)]
    price = _dearest(known.get_prices(hour) for hour in hours)
    if price is None or not any(known is own for own in provider.models):  # another provider's model: no batch price
        return price
    batch = _dearest(known.get_prices(hour, _BATCH) for hour in hours)
    return replace(price, batch=batch) if batch != price else price


def _dearest(prices: Iterable[ModelPrice]) -> Price | None:
    found = [_with_tiers(price) for price in prices]
    known = [price for price in found if price is not None]
    return max(known, key=lambda price: (price.output, price.input)) if len(known) == len(found) else None


def _with_tiers(prices: ModelPrice) -> Price | None:
    """The list's prices of one model as ours; None where it cannot be told what a call costs."""
    starts = {tier.start for value in prices.__dict__.values() for tier in getattr(value, "tiers", ())}
    if getattr(prices, _CALLS) is not None:
        return None
    base = _at(prices, max((start for start in starts if start < LONG_FROM), default=-1) + 1)
    if base is None:
        return None
    longer = [(start, _at(prices, start + 1)) for start in sorted(starts) if start >= LONG_FROM]
    return replace(base, long=tuple((start, price) for start, price in longer if price is not None))


def _at(prices: ModelPrice, input_tokens: int) -> Price | None:
    """The price of a call with this many input tokens."""

    def value(key: str) -> float | None:
        price = getattr(prices, key)
        found = getattr(price, "base", price)
        for tier in getattr(price, "tiers", ()):  # ascending
            if input_tokens > tier.start:
                found = tier.price
        return None if found is None else float(found)

    input_, output = value(_INPUT), value(_OUTPUT)
    if input_ is None or output is None:
        return None
    cached, written = value(_CACHED), value(_WRITTEN)
    return Price(
        input_,
        input_ if cached is None else cached,
        input_ if written is None else written,
        max(output, value(_THOUGHT) or 0.0),
    )
