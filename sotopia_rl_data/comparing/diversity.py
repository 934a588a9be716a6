"""Distinct-n (Li et al. 2016, arXiv 1510.03055): of all n-grams that an agent says, the share that are different.

A low figure means the same phrases again and again, as of a policy that RL has narrowed. It falls with the amount of
speech, so that methods are compared over the same scenarios. Its interval leaves out each episode in turn: a bootstrap
would draw episodes twice, and their n-grams would not be new the second time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from sotopia_rl_data import statistics
from sotopia_rl_data.agreement.measure import Figure
from sotopia_rl_data.comparing.methods import Unit

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_SEVERAL = -1  # episodes that have an n-gram


def distinct(units: Iterable[Unit], n: int, level: float = 0.95) -> Figure:
    """Distinct-n of the units' speech, with its interval over episodes; None where nobody says n words in a row.

    Words are compared without case and punctuation, and an n-gram lies within one utterance.
    """
    places: dict[str, int] = {}
    owner: dict[tuple[str, ...], int] = {}  # the only episode that has it
    totals: list[int] = []
    for unit in units:
        place = places.setdefault(unit.episode, len(places))
        if place == len(totals):
            totals.append(0)
        for text in unit.speech:
            words = _WORD.findall(text.casefold())
            for gram in zip(*(words[start:] for start in range(n)), strict=False):
                totals[place] += 1
                if owner.setdefault(gram, place) != place:
                    owner[gram] = _SEVERAL
    said = np.array(totals)
    total = int(said.sum())
    if not total:
        return Figure(None)
    own = np.bincount([place for place in owner.values() if place != _SEVERAL], minlength=len(said))
    rest = total - said
    without = (len(owner) - own)[rest > 0] / rest[rest > 0]
    value = len(owner) / total
    low, high = statistics.jackknife_interval(value, without, level) or (None, None)
    return Figure(value, low, high)
