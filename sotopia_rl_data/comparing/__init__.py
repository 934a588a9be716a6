"""Agents compared by their episodes' scores: the papers' tables, and which differences may be noise. Calls no model.

    methods.py   episodes as units: an agent of an episode; the method it belongs to; which units make a pair
    measure.py   compare(): means, paired tests and intervals, per scenario, talk, agreement among evaluators
    diversity.py distinct-n: how much of what an agent says it has not said before
    results.py   the results of compare(), as frozen dataclasses
    tables.py    the papers' tables of it
    page.py      the page, with plots and dialogues side by side

The formulas are in `sotopia_rl_data.statistics`; docs/evaluation.md explains what each figure says.

    from sotopia_rl_data.comparing import compare
    from sotopia_rl_data.hub.resolve import resolve

    compare([resolve(store, "lab/bc"), resolve(store, "lab/rl")]).conditions[0].contrasts[0].effect("goal")
"""

from sotopia_rl_data.comparing.measure import compare
from sotopia_rl_data.comparing.results import Comparison, ComparisonOptions, ConditionResult, Effect, MethodContrast

__all__ = ["Comparison", "ComparisonOptions", "ConditionResult", "Effect", "MethodContrast", "compare"]
