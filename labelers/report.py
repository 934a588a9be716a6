"""The report of a run that asks judges, and what a version's provenance keeps of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sotopia_rl_data.asking.report import RunReport
from sotopia_rl_data.code import code
from sotopia_rl_data.costs.bill import Bill, Line
from sotopia_rl_data.labelers.plan import LabelPlan
from sotopia_rl_data.labelers.questions import LabelTally
from sotopia_rl_data.request import Usage
from sotopia_rl_data.store import Version

_REASONS_KEPT = 100
_REJECTED_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedReport(RunReport):
    """The report of a run that asks judges. `episodes` is how many episodes were asked about. An answer that breaks its
    form is sent back once, which is one more call: `repaired` answers could then be used, `unusable` ones could not."""

    episodes: int
    repaired: int
    unusable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport(JudgedReport):
    """The report of `label`: how many `utterances` there are, how many of them are `rewarded`, and how many `labels`
    (attributions) there are. `rejected` records of a file that was imported for it are no episodes."""

    utterances: int
    labels: int
    rewarded: int
    rejected: int = 0

    @property
    def failed(self) -> int:
        """How many (utterance, dimension, judge, sample) have no label."""
        return sum(self.failures.values())


def rejected_records(version: Version) -> tuple[int, list[str]]:
    """How many records of its files an imported version has rejected, and a warning for the first ones."""
    import pyarrow.dataset as ds

    files = [str(path) for paths in version.files("failures").values() for path in paths]
    rows = ds.dataset(files).to_table(["source", "reason"]).to_pylist() if files else []
    warnings = [f"{row['source']} was not imported: {row['reason']}" for row in rows[:_REJECTED_SHOWN]]
    if len(rows) > _REJECTED_SHOWN:
        query = f'sotopia-rl-data query {version.ref} "SELECT source, reason FROM failures"'
        warnings.append(f"{len(rows):,} records were not imported in all: {query}")
    return len(rows), warnings


def by_number(tally: LabelTally) -> dict[str, int]:
    """The reasons of failures, the most frequent first."""
    return dict(sorted(tally.failures.items(), key=lambda item: (-item[1], item[0])))


def remarks(plan: LabelPlan) -> list[str]:
    """What readers of the judges' labels must know (`Judge.remark`), such as that one judge is a baseline."""
    return list(filter(None, (getattr(judge, "remark", "") for judge in plan.judges)))


def unrewarded(labels: int, rewarded: int, weighed: Sequence[str]) -> list[str]:
    """A warning where there are labels, and yet no utterance has all labels that a reward weighs."""
    if not labels or rewarded:
        return []
    return [
        f"no utterance has a reward: none has labels on all weighed dimensions ({', '.join(weighed)}); another "
        "--preset may weigh fewer"
    ]


def provenance(
    parent: Version, plan: LabelPlan, tally: LabelTally, bill: Bill, more: Mapping[str, Any]
) -> dict[str, Any]:
    """What is worth knowing of the labels besides the recipe. It is not part of the digest."""
    facts: dict[str, Any] = {
        "parents": [{"name": parent.name, "version": parent.version, "digest": parent.digest}],
        "code": code(),
        "wording_sha256": plan.schema.wording_sha256(plan.scale) if plan.judges else None,
    }
    if plan.rubric is not None:
        facts["rubric"] = plan.rubric.as_dict()
    return facts | {"judges": judged_by(plan, tally, bill), "failures": top_failures(tally), **more}


def top_failures(tally: LabelTally) -> dict[str, int]:
    """The most frequent reasons of failures, which are what a manifest keeps."""
    return dict(tally.failures.most_common(_REASONS_KEPT))


def judged_by(plan: LabelPlan, tally: LabelTally, bill: Bill) -> list[dict[str, Any]]:
    """Each judge with its remark, the models that answered for it, and what all its calls took and cost."""
    judges = []
    for judge, line in zip(plan.judges, bill.lines, strict=True):
        facts: dict[str, Any] = {"judge": judge.id}
        remark = getattr(judge, "remark", "")
        if remark:
            facts["remark"] = remark
        facts |= {
            "calls": line.calls,
            "returned_models": dict(sorted(tally.models.get(judge.id, {}).items())),
            **({"forms": dict(sorted(tally.forms[judge.id].items()))} if judge.id in tally.forms else {}),
            "usage": asdict(line.usage),
            **_cost(line),
        }
        judges.append(facts)
    return judges


def _cost(line: Line) -> dict[str, Any]:
    """What a judge cost, in all and by kind of token; an empty dict where it used no tokens or its
    price is unknown."""
    if line.total is None or line.usage == Usage():
        return {}
    parts = ("input", "cached", "written", "output", "failed", "repaired", "maybe")
    return {
        "cost_usd": line.total,
        "cost_usd_of": {name: getattr(line, name) for name in parts if getattr(line, name)},
        "prices_as_of": line.as_of,
    }
