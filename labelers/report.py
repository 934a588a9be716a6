"""What a run did: a frozen noun for whoever called it, and what of it goes into the manifest's provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sotopia_rl_data.asking.progress import Outcome
from sotopia_rl_data.code import code
from sotopia_rl_data.costs.bill import Bill, Line, added
from sotopia_rl_data.labelers.plan import Plan, Size
from sotopia_rl_data.labelers.reading import Tally
from sotopia_rl_data.request import Usage
from sotopia_rl_data.store import Version
from sotopia_rl_data.store.stage import Committed

_REASONS_KEPT = 100
_FEWEST_EXPECTED = 10  # calls that should have found a cached prefix, before anything is said
_MISSED = 0.1  # of them


@dataclass(frozen=True, slots=True)
class RunReport:
    """What having judges asked came to.

    `version` ("org/name@v1.0.0") lies in `directory`; `created` is False where the store already had this content.
    `failures` counts, by reason, what was not answered usably. Of the `calls` that the plan needs, `asked` went out in
    this run, the ledger knew `hits`, `repeated` are equal to others, `unreachable` got no answer. An answer that does
    not say what was asked is sent back once, which is a call more: `repaired` of them could be used then, `unusable`
    could not. `usage` is what this run's calls used, by model; `bill` what it all cost, earlier runs included;
    `seconds` how long it took.
    """

    version: str
    directory: str
    digest: str
    created: bool
    episodes: int
    failures: Mapping[str, int]
    calls: int
    asked: int
    hits: int
    repeated: int
    unreachable: int
    repaired: int
    unusable: int
    usage: Mapping[str, Usage]
    bill: Bill
    warnings: Sequence[str]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return asdict(self) | {"bill": self.bill.as_dict()}


@dataclass(frozen=True, slots=True)
class LabelReport(RunReport):
    """Also: `labels` counts attributions, `rewarded` those of the `utterances` that have a reward."""

    utterances: int
    labels: int
    rewarded: int

    @property
    def failed(self) -> int:
        """How many (utterance, dimension, judge, sample) have no label."""
        return sum(self.failures.values())


def ran(
    committed: Committed,
    size: Size,
    tally: Tally,
    outcomes: Sequence[Outcome],
    bill: Bill,
    warnings: Sequence[str],
    seconds: float,
) -> dict[str, Any]:
    """The fields of a RunReport; `outcomes` are the judges', in order."""
    counts = ("asked", "hits", "repeated", "unreachable")
    return {
        "version": committed.version.ref,
        "directory": str(committed.version.dir),
        "digest": committed.version.digest,
        "created": committed.created,
        "episodes": size.episodes,
        "failures": dict(sorted(tally.failures.items(), key=lambda item: (-item[1], item[0]))),
        "calls": size.calls,
        **{name: sum(getattr(one, name) for one in outcomes) for name in counts},
        "repaired": tally.repaired,
        "unusable": tally.unusable,
        "usage": usage_of(outcomes),
        "bill": bill,
        "warnings": list(warnings),
        "seconds": round(seconds, 3),
    }


def usage_of(outcomes: Sequence[Outcome]) -> dict[str, Usage]:
    """What the runs' calls took, by model; a model that named no tokens is absent."""
    usage: dict[str, Usage] = {}
    for outcome in outcomes:
        for model, more in outcome.usage.items():
            if more != Usage():
                usage[model] = added(usage.get(model, Usage()), more)
    return usage


def remarks(plan: Plan) -> list[str]:
    """What the judges have to say of themselves (`Judge.remark`): that one is a baseline, for instance."""
    return [remark for judge in plan.judges if (remark := getattr(judge, "remark", ""))]


def cold(outcomes: Sequence[Outcome]) -> list[str]:
    """The warning where prompts that began like one just before were billed in full."""
    expected, missed = sum(o.cache_expected for o in outcomes), sum(o.cache_missed for o in outcomes)
    if expected < _FEWEST_EXPECTED or missed <= _MISSED * expected:
        return []
    return [
        f"{missed:,} of {expected:,} calls that began like one before them were billed in full: the provider's prompt "
        "cache does not hit, or it does not say so"
    ]


def bare(labels: int, rewarded: int, weighed: Sequence[str]) -> list[str]:
    """The warning where there are labels, and no utterance has all that a reward weighs."""
    if not labels or rewarded:
        return []
    return [
        f"no utterance has a reward: none has labels on all that is weighed ({', '.join(weighed)}); another --preset "
        "may weigh less"
    ]


def provenance(parent: Version, plan: Plan, tally: Tally, bill: Bill, rewards: Mapping[str, Any]) -> dict[str, Any]:
    """What is worth knowing of the labels besides the recipe: no part of the digest."""
    return {
        "parents": [{"name": parent.name, "version": parent.version, "digest": parent.digest}],
        "code": code(),
        "wording_sha256": plan.schema.wording_sha256(plan.scale) if plan.judges else None,
        **({"rubric": plan.rubric.as_dict()} if plan.rubric is not None else {}),
        "judges": judged_by(plan, tally, bill),
        "failures": dict(tally.failures.most_common(_REASONS_KEPT)),
        "rewards": dict(rewards),
    }


def judged_by(plan: Plan, tally: Tally, bill: Bill) -> list[dict[str, Any]]:
    """Each judge with what it says of itself, the models that answered for it, and what all its calls took and cost."""
    return [
        {
            "judge": judge.id,
            **({"remark": remark} if (remark := getattr(judge, "remark", "")) else {}),
            "calls": line.calls,
            "returned_models": dict(sorted(tally.models.get(judge.id, {}).items())),
            "usage": asdict(line.usage),
            **_cost(line, bill.as_of),
        }
        for judge, line in zip(plan.judges, bill.lines, strict=True)
    ]


def _cost(line: Line, as_of: str) -> dict[str, Any]:
    """What a judge cost, where it used tokens at a known price: in all, and of what."""
    if line.total is None or line.usage == Usage():
        return {}
    parts = ("input", "cached", "written", "output", "failed", "repaired", "maybe")
    return {
        "cost_usd": line.total,
        "cost_usd_of": {name: getattr(line, name) for name in parts if getattr(line, name)},
        "prices_as_of": as_of,
    }
