"""What tokens cost: a file of the user, above a list kept for everybody (`kept_list.py`). Other models have no price.

The kept list has no longest answers: those are in this package. A price that is not known is None and never zero.
Subscriptions, volume discounts and taxes are left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from sotopia_rl_data import yaml_nodes
from sotopia_rl_data.costs import kept_list
from sotopia_rl_data.costs.price import NOTHING, Price
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.request import Target

T = TypeVar("T")

VARIABLE = "SOTOPIA_RL_DATA_PRICES"
_BATCH = 0.5  # the share of the usual price that OpenAI's and Anthropic's batch APIs charge
_LONGEST = Path(__file__).with_name("longest_answers.yaml")
_RELEASE = re.compile(r"([-@](\d{8}|\d{4}-\d{2}-\d{2}|latest))?")  # the end of a snapshot's name: a date or "latest"
# Providers that cost nothing: models on this machine, and answers that people gave.
_UNPAID = ("offline", "human", "transformers")


@dataclass(frozen=True, slots=True)
class Prices:
    """A price list. `as_of` is its date, `batch` the share of the price that a batch API charges where no batch price
    is known. A model that `hosts` does not have is looked up in the kept list where `with_kept` says so."""

    as_of: str
    batch: float
    hosts: Mapping[str, Mapping[str, Price]]
    with_kept: bool = False

    def of(self, target: Target, in_batch: bool = False) -> Price | None:
        """The price of a target's tokens, under its host (with its port, or without) or else "*", and its model's name
        without a date. `NOTHING` for a provider that costs nothing, None where no list has the model."""
        if target.provider in _UNPAID:
            return NOTHING
        price = _named(self.hosts, target)
        if price is None and self.with_kept:
            price = kept_list.find(target.model, target.base_url)
            if price is not None:
                price = replace(price, longest=_named(_longest_answers(), target))
        if price is None or not in_batch:
            return price
        return replace(price.batch, longest=price.longest) if price.batch else price.times(self.batch)

    def source(self, target: Target) -> str:
        """Where the price of a target is from: the date of the user's file, or the kept list and the day."""
        return kept_list.name() if self.with_kept and _named(self.hosts, target) is None else self.as_of


def load(path: Path | str | None = None, own: Mapping[str, Mapping[str, Price]] | None = None) -> Prices:
    """The kept list, overridden by the entries of `path` (default: the file that SOTOPIA_RL_DATA_PRICES names), and
    these by `own`, by host and model.

    Raises InputError where a file is missing or is not a price list.
    """
    theirs = path or os.environ.get(VARIABLE)
    prices = _read(Path(theirs)) if theirs else Prices("", _BATCH, {})
    hosts = dict(prices.hosts)
    for host, models in (own or {}).items():
        hosts[host] = {**hosts.get(host, {}), **models}
    as_of = prices.as_of or ("the judges file" if own else kept_list.name())
    return Prices(as_of, prices.batch, hosts, with_kept=True)


def _named(hosts: Mapping[str, Mapping[str, T]], target: Target) -> T | None:
    """What a list has under a target's host and its model's name without a date."""
    parts = urlsplit(target.base_url)
    for host in (parts.netloc, parts.hostname or "", "*"):
        models = hosts.get(host, {})
        for name in sorted(models, key=len, reverse=True):
            if target.model.startswith(name) and _RELEASE.fullmatch(target.model[len(name) :]):
                return models[name]
    return None


@cache
def _longest_answers() -> Mapping[str, Mapping[str, int]]:
    import yaml

    longest: dict[str, dict[str, int]] = yaml.safe_load(_LONGEST.read_text(encoding="utf-8"))
    return longest


def _read(path: Path) -> Prices:
    hint = "write as_of and hosts: {HOST: {MODEL: [input, cached, written, output]}}, USD per million tokens"
    try:
        text = yaml_nodes.text_of(path)
        data: Any = yaml_nodes.values(text, f"The price list {path}", "prices", hint)
        hosts = {host: _models(models) for host, models in data["hosts"].items()}
        batch = float(data.get("batch", _BATCH))
        if not 0 <= batch <= 1:
            raise ValueError("batch is a share of the usual price, from 0 to 1")
        return Prices(str(data["as_of"]), batch, hosts)
    except OSError as error:
        raise InputError(
            f"The price list {path} cannot be read: {error.strerror}.",
            f"check the path after --prices, or in the environment variable {VARIABLE}",
        ) from error
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise InputError(f"The file {path} is not a price list: {' '.join(str(error).split())}.", hint) from error


def _models(models: Mapping[str, Iterable[Any]]) -> dict[str, Price]:
    priced = {str(name): _price(*prices) for name, prices in models.items()}
    for name, price in priced.items():
        if not all(0 <= value < 1e6 for value in (price.input, price.cached, price.written, price.output)):
            raise ValueError(f"{name} has an impossible price")
        if price.longest is not None and not 0 <= price.longest < 1e9:
            raise ValueError(f"{name} has an impossible longest answer")
    return priced


def _price(input_: float, cached: float, written: float, output: float, longest: int | None = None) -> Price:
    return Price(float(input_), float(cached), float(written), float(output), None if longest is None else int(longest))
