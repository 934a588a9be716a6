"""What tokens cost: a dated list in this package, which a file of the user overrides. Other models have no price.

A price that is not known is None and never zero. Subscriptions, volume discounts and taxes are left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.request import Target, Usage

VARIABLE = "SOTOPIA_RL_DATA_PRICES"
_OURS = Path(__file__).with_name("prices.yaml")
_RELEASE = re.compile(r"([-@](\d{8}|\d{4}-\d{2}-\d{2}|latest))?")  # the end of a snapshot's name: a date or "latest"
# Providers that cost nothing: models on this machine, and answers that people gave.
_UNPAID = ("offline", "human", "transformers")


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens. `cached` is input read from the provider's cache, `written` input written there.
    `longest` is the most tokens that an answer of the model may have; None where that is not known."""

    input: float
    cached: float
    written: float
    output: float
    longest: int | None = None

    def cost(self, usage: Usage) -> float:
        """USD. `usage.cached` and `usage.written` are parts of `usage.input`."""
        fresh = usage.input - usage.cached - usage.written
        parts = (fresh, self.input), (usage.cached, self.cached), (usage.written, self.written)
        return (sum(tokens * price for tokens, price in parts) + usage.output * self.output) / 1e6

    def most(self, input_tokens: int, answer_limit: int | None) -> float:
        """USD of a call at most: nothing is read from a cache, and the answer is as long as it may be. Without any
        limit the answer counts nothing; `Budget` requires a limit."""
        output = (answer_limit or self.longest or 0) * self.output
        return (input_tokens * max(self.input, self.written) + output) / 1e6


@dataclass(frozen=True, slots=True)
class Prices:
    """A price list. `as_of` is its date, `batch` the share of the price that a batch API charges."""

    as_of: str
    batch: float
    hosts: Mapping[str, Mapping[str, Price]]

    def of(self, target: Target) -> Price | None:
        """The price of a target's tokens, under its host (with its port, or without) or else "*", and its model's name
        without a date. `NOTHING` for a provider that costs nothing, None where the list does not have the model."""
        if target.provider in _UNPAID:
            return NOTHING
        parts = urlsplit(target.base_url)
        for host in (parts.netloc, parts.hostname or "", "*"):
            models = self.hosts.get(host, {})
            for name in sorted(models, key=len, reverse=True):
                if target.model.startswith(name) and _RELEASE.fullmatch(target.model[len(name) :]):
                    return models[name]
        return None


NOTHING = Price(0.0, 0.0, 0.0, 0.0)


def load(path: Path | str | None = None, own: Mapping[str, Mapping[str, Price]] | None = None) -> Prices:
    """Our list, overridden by the entries of `path` (default: the file that SOTOPIA_RL_DATA_PRICES names), and these by
    `own`, by host and model.

    Raises InputError where a file is missing or is not a price list.
    """
    prices = _read(_OURS)
    theirs = path or os.environ.get(VARIABLE)
    if theirs:
        prices = _overridden(prices, _read(Path(theirs)))
    return _overridden(prices, replace(prices, hosts=own or {}))


def _overridden(prices: Prices, other: Prices) -> Prices:
    """The prices with the date and the entries of `other`."""
    hosts = {host: {**prices.hosts.get(host, {}), **models} for host, models in other.hosts.items()}
    return Prices(other.as_of, other.batch, {**prices.hosts, **hosts})


def _read(path: Path) -> Prices:
    import yaml

    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        hosts = {host: _models(models) for host, models in data["hosts"].items()}
        return Prices(str(data["as_of"]), float(data.get("batch", 0.5)), hosts)
    except OSError as error:
        raise InputError(
            f"The price list {path} cannot be read: {error.strerror}.",
            f"check the path after --prices, or in the environment variable {VARIABLE}",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"The file {path} is not a price list: {' '.join(str(error).split())}.",
            "write as_of and hosts: {HOST: {MODEL: [input, cached, written, output]}}, USD per million tokens",
        ) from error


def _models(models: Mapping[str, Iterable[Any]]) -> dict[str, Price]:
    priced = {str(name): _price(*prices) for name, prices in models.items()}
    for name, price in priced.items():
        if not all(0 <= value < 1e6 for value in (price.input, price.cached, price.written, price.output)):
            raise ValueError(f"{name} has an impossible price")
    return priced


def _price(input_: float, cached: float, written: float, output: float, longest: int | None = None) -> Price:
    return Price(float(input_), float(cached), float(written), float(output), None if longest is None else int(longest))
