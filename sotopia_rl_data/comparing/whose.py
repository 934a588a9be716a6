"""Whose agent a run is about: the units that are compared, under the name of their method.

A run is episodes of one method's agent with a partner, in one position or (--swap) in both. A rollout says which is
which. Elsewhere the method is by default the one model that not every run has: what all runs share is the partner. A
run of one model alone (self-play) is about all its agents. A single run is about each of its models. Where that does
not tell, the caller must.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sotopia_rl_data.comparing.runs import Unit
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.store import Version

POSITIONS = {"first": 0, "second": 1}
ALL = "all"
ITSELF, EACH_OTHER = "itself", "each other"
ANY = "any"

_HINT = "say whose agent counts: --partner MODEL, --agent MODEL, or --agent first"


def methods(
    units: Sequence[Unit],
    refs: Sequence[str],
    agents: Sequence[str] = (),
    partners: Iterable[str] = (),
    tested: Sequence[str | None] = (),
) -> dict[str, list[Unit]]:
    """The units of each method by its name, in the runs' order.

    `agents` says whose agent counts, once for all runs or once for each: "first", "second", "all" or a model's name.
    `partners` are models that are no method; `tested` names each run's method where the run itself says so. `refs`
    names the runs, for names that models alone do not tell apart.
    Raises UsageError where neither they nor the models tell.
    """
    if agents and len(agents) not in (1, len(refs)):
        raise UsageError(f"There are {len(agents)} --agent for {len(refs)} runs.", "give it once, or once for each REF")
    by_run = [[unit for unit in units if unit.run == run] for run in range(len(refs))]
    if len(refs) == 1 and not agents:
        models = _models(units) - set(partners) or _models(units)
        return {model: [unit for unit in units if unit.model == model] for model in sorted(models)}
    told = agents if len(agents) == len(refs) else [*agents] * len(refs)
    known = [*tested, *[None] * len(refs)]
    chosen = [told[run] if told else known[run] or _auto(run, by_run, refs, set(partners)) for run in range(len(refs))]
    picked = [_picked(who, some, ref) for who, some, ref in zip(chosen, by_run, refs, strict=True)]
    found: dict[str, list[Unit]] = {}
    for name, some in zip(_names(picked, refs), picked, strict=True):
        found.setdefault(name, []).extend(some)
    return found


def tested_in(version: Version) -> str | None:
    """Whose run a rollout is: `--a`; "all" where it plays with itself. None where a version does not say."""
    played = version.manifest.recipe.get("rollout", {})
    a, b = (played.get(side, {}).get("model") for side in "ab")
    return None if a is None else ALL if a == b else str(a)


def by_partner(methods: Mapping[str, Sequence[Unit]], pooled: bool = False) -> dict[str, dict[str, list[Unit]]]:
    """Partner -> method -> its units with that partner: the columns of an ablation.

    Where no partner is met by two methods, they play with themselves ("itself") or with each other ("each other"), and
    that is what they share. `pooled` takes all partners as one.
    """
    if pooled:
        return {ANY: {name: list(units) for name, units in methods.items()}}
    met = [{unit.partner for unit in units} for units in methods.values()]
    shared = len(met) < 2 or any(sum(one in other for other in met) > 1 for one in set().union(*met))
    compared = {unit.model for units in methods.values() for unit in units}
    found: dict[str, dict[str, list[Unit]]] = {}
    for name, units in methods.items():
        for unit in units:
            partner = unit.partner
            if not shared and partner in compared:
                partner = ITSELF if partner == unit.model else EACH_OTHER
            found.setdefault(partner, {}).setdefault(name, []).append(unit)
    return found


def _auto(run: int, by_run: Sequence[Sequence[Unit]], refs: Sequence[str], partners: set[str]) -> str:
    """The run's own model; "all" where the run has but one."""
    mine = _models(by_run[run])
    if len(mine) == 1:
        return ALL
    shared = partners or set.intersection(*map(_models, by_run))
    own = mine - shared
    if len(own) == 1:
        return own.pop()
    listed = ", ".join(sorted(mine))
    if not own:
        raise UsageError(f"{refs[run]} is played by {listed}, as the other runs are.", _HINT)
    raise UsageError(f"{refs[run]} is played by {listed}: which of them is compared is not clear.", _HINT)


def _picked(who: str, units: Sequence[Unit], ref: str) -> list[Unit]:
    """The units that `who` names. Raises UsageError where that is none."""
    if who == ALL:
        return list(units)
    found = [unit for unit in units if (unit.position == POSITIONS[who] if who in POSITIONS else unit.model == who)]
    if not found:
        raise UsageError(
            f"No agent of {ref} is {who!r}.", f"name one of: {', '.join([*POSITIONS, ALL, *sorted(_models(units))])}"
        )
    return found


def _names(picked: Sequence[Sequence[Unit]], refs: Sequence[str]) -> list[str]:
    """The model where it is one, and the run where it plays with the same partner in another run. Runs of one model
    with other partners are one method."""
    models = [_models(units) for units in picked]
    names = [next(iter(some)) if len(some) == 1 else ref for some, ref in zip(models, refs, strict=True)]
    met = [{unit.partner for unit in units} for units in picked]

    def twice(run: int) -> bool:
        return any(names[run] == names[other] and met[run] & met[other] for other in range(len(refs)) if other != run)

    return [f"{name} · {refs[run]}" if twice(run) else name for run, name in enumerate(names)]


def _models(units: Iterable[Unit]) -> set[str]:
    return {unit.model for unit in units}
