"""What having judges asked came to: frozen nouns for whoever called, and what of it goes into the provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sotopia_rl_data.asking.report import RunReport
from sotopia_rl_data.code import code
from sotopia_rl_data.costs.bill import Bill, Line
from sotopia_rl_data.labelers.plan import LabelPlan
from sotopia_rl_data.labelers.reading import LabelTally
from sotopia_rl_data.request import Usage
from sotopia_rl_data.store import Version

_REASONS_KEPT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedReport(RunReport):
    """Also: `episodes` were asked about. An answer that does not say what was asked is sent back once, which is a call
    more: `repaired` of them could be used then, `unusable` could not."""

    episodes: int
    repaired: int
    unusable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport(JudgedReport):
    """Also: `labels` counts attributions, `rewarded` those of the `utterances` that have a reward."""

    utterances: int
    labels: int
    rewarded: int

    @property
    def failed(self) -> int:
        """How many (utterance, dimension, judge, sample) have no label."""
        return sum(self.failures.values())


def by_number(tally: LabelTally) -> dict[str, int]:
    """The reasons of failures, the most frequent first."""
    return dict(sorted(tally.failures.items(), key=lambda item: (-item[1], item[0])))


def remarks(plan: LabelPlan) -> list[str]:
    """What the judges have to say of themselves (`Judge.remark`): that one is a baseline, for instance."""
    return [remark for judge in plan.judges if (remark := getattr(judge, "remark", ""))]


def unrewarded(labels: int, rewarded: int, weighed: Sequence[str]) -> list[str]:
    """The warning where there are labels, and no utterance has all that a reward weighs."""
    if not labels or rewarded:
        return []
    return [
        f"no utterance has a reward: none has labels on all that is weighed ({', '.join(weighed)}); another --preset "
        "may weigh less"
    ]


def provenance(
    parent: Version, plan: LabelPlan, tally: LabelTally, bill: Bill, more: Mapping[str, Any]
) -> dict[str, Any]:
    """What is worth knowing of the labels besides the recipe: no part of the digest."""
    return {
        "parents": [{"name": parent.name, "version": parent.version, "digest": parent.digest}],
        "code": code(),
        "wording_sha256": plan.schema.wording_sha256(plan.scale) if plan.judges else None,
        **({"rubric": plan.rubric.as_dict()} if plan.rubric is not None else {}),
        "judges": judged_by(plan, tally, bill),
        "failures": top_failures(tally),
        **more,
    }


def top_failures(tally: LabelTally) -> dict[str, int]:
    """The reasons of failures that a manifest keeps."""
    return dict(tally.failures.most_common(_REASONS_KEPT))


def judged_by(plan: LabelPlan, tally: LabelTally, bill: Bill) -> list[dict[str, Any]]:
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
