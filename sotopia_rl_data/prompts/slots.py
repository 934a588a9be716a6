"""Texts with named slots: `{agent}`, `{turn}` … Filled in one pass, so nothing that is filled in is read again.

Only the names that are given are slots: every other brace (a JSON schema is full of them) is plain text. Where plain
text happens to look like a slot, its brace is written `{lbrace}`: `{lbrace}agent}` stands for the letters `{agent}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

BRACE = "lbrace"


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` with each `{name}` of `values` replaced by its value, in one pass."""
    pieces = _pieces(text, tuple(values))
    return "".join(_value(piece, values) if i % 2 else piece for i, piece in enumerate(pieces))


def escape(text: str, names: Iterable[str]) -> str:
    """`text` written so that `fill` with these names gives it back unchanged."""
    return re.sub("{(?=" + _names((*names,)) + "})", "{" + BRACE + "}", text)


def slots_in(text: str, names: Iterable[str]) -> set[str]:
    """The names out of `names` that are slots of `text`."""
    return set(_pieces(text, (*names,))[1::2]) - {BRACE}


def _value(piece: str, values: Mapping[str, str]) -> str:
    return "{" if piece == BRACE else values[piece]


def _names(names: tuple[str, ...]) -> str:
    return "(" + "|".join(map(re.escape, (*names, BRACE))) + ")"


@lru_cache(maxsize=1024)
def _pieces(text: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Literal, name, literal, name … literal."""
    return tuple(re.split("{" + _names(names) + "}", text))
