"""Which episodes an audit asks about, and what it asks: everything that can be wrong is found before anything is
asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.labelers.audit.analysis import ALPHA
from sotopia_rl_data.labelers.audit.probes import PROBES, REPEAT, LabelContrast, Probed, repeated
from sotopia_rl_data.labelers.judge import Judge
from sotopia_rl_data.labelers.plan import DEFAULT_SCALE, Elicitation, LabelPlan, dimensions_of, episodes_of, judges_of
from sotopia_rl_data.labelers.questions import QuestionPart, Questions
from sotopia_rl_data.labelers.schemas import own_dimensions
from sotopia_rl_data.labelers.schemas import schema as find_schema
from sotopia_rl_data.labelers.schemas.rubric import PREFIX
from sotopia_rl_data.rewards.resolve import choose_evaluator, evaluators
from sotopia_rl_data.schema import Episode
from sotopia_rl_data.store import Version

DEFAULT_DIMENSIONS = ("goal", "relationship", "knowledge")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """How a judge is probed: on so many `episodes`, drawn by `seed`, with these `probes` (ids of `PROBES`; None: all);
    the same question is always asked twice. Nothing is asked where more than `max_calls` calls would be needed. `alpha`
    is the chance that an unbiased judge is called anything else."""

    episodes: int = 100
    seed: int = 0
    probes: Sequence[str] | None = None
    max_calls: int | None = None
    alpha: float = ALPHA


@dataclass(frozen=True, slots=True)
class AuditPlan:
    """Everything that determines what is asked. `plan` asks once; the originals are asked twice."""

    plan: LabelPlan
    probes: tuple[str, ...]
    seed: int
    episodes: tuple[Episode, ...]
    probed: tuple[Probed, ...] = ()

    @property
    def judge(self) -> Judge:
        return self.plan.judges[0]

    @property
    def twice(self) -> LabelPlan:
        """The plan of the originals."""
        return replace(self.plan, samples=2)

    def questions(self) -> Questions:
        """Every question, those of the originals first."""
        changed = [one.episode for one in self.probed]
        return Questions(QuestionPart(self.twice, lambda: self.episodes), QuestionPart(self.plan, lambda: changed))

    def contrasts(self) -> dict[str, list[tuple[str, LabelContrast]]]:
        """By probe, what must be equal: (original episode's id, contrast)."""
        found: dict[str, list[tuple[str, LabelContrast]]] = {name: [] for name in (*self.probes, REPEAT)}
        for one in self.probed:
            found[one.probe] += [(one.original, contrast) for contrast in one.contrasts]
        for episode in self.episodes:
            found[REPEAT] += [(episode.episode_id, contrast) for contrast in repeated(episode)]
        return found

    def recipe(self) -> dict[str, Any]:
        """What determines the rows."""
        labels = self.plan.recipe()
        versions = {name: PROBES[name].version for name in self.probes}
        return {"audit": {"probes": versions, "seed": self.seed}, "labels": labels, "scale": self.plan.scale}


def planned(version: Version, elicitation: Elicitation, settings: AuditSettings) -> AuditPlan:
    """The audit of a judge on a draw of the version's episodes. What is None is as in the labels that `version` holds,
    so that their answers are found in the ledger; else as `label` does by default.

    Raises UsageError, KeyMissing, InputError before anything is asked.
    """
    if "episodes" not in version.manifest.configs:
        raise UsageError(f"{version.ref} holds no episodes.", "name a version that was made from dialogues")
    if settings.episodes < 2:
        raise UsageError(
            f"{settings.episodes} episodes say nothing about a judge.", "ask about two or more: --episodes 100"
        )
    odd = [name for name in settings.probes or () if name not in PROBES]
    if odd:
        raise UsageError(f"{odd[0]!r} is not a probe.", f"name one of: {', '.join(PROBES)}")
    plan = _label_plan(version, elicitation)
    files = [path for paths in version.files("episodes").values() for path in paths]
    drawn = tuple(_drawn(plan, episodes_of(files), settings.episodes, settings.seed))
    if len(drawn) < 2:
        raise InputError(
            f"{len(drawn)} of the episodes of {version.ref} can be asked about.",
            f"an episode needs two agents who act, and scores by {plan.evaluator} on {', '.join(plan.dimensions)}",
        )
    wanted = tuple(name for name in PROBES if settings.probes is None or name in settings.probes)
    changed = (PROBES[name](episode, settings.seed) for episode in drawn for name in wanted)
    return AuditPlan(plan, wanted, settings.seed, drawn, tuple(one for one in changed if one is not None))


def _label_plan(version: Version, elicitation: Elicitation) -> LabelPlan:
    """What the judge is asked, as the labels of `version` were asked for where nothing else is named."""
    made = version.manifest.recipe
    before: Mapping[str, Any] = made.get("labels") or {}
    chosen = find_schema(elicitation.schema or _schema_before(version, before))
    if not chosen.needs_judge:
        raise UsageError(f"The schema {chosen.id!r} asks nobody.", "name one that does: --schema direct")
    own = own_dimensions(chosen)
    known = own or [one.name for one in SOTOPIA_EVAL]
    kept = [name for name in before.get("dimensions", ()) if name in known]
    dimensions = dimensions_of(elicitation.dimensions or kept or own or DEFAULT_DIMENSIONS, own)
    scale = elicitation.scale or made.get("scale") or DEFAULT_SCALE
    chosen.wording_sha256(scale)  # raises where the scale is not worded
    files = [path for paths in version.files("episodes").values() for path in paths]
    named = elicitation.evaluator or before.get("evaluator") or None
    by = choose_evaluator(evaluators(files, dimensions), named, dimensions, getattr(chosen, "needs_score", True))
    judges = judges_of(elicitation.judges, elicitation.sampling, own)
    if len(judges) > 1:
        raise UsageError(f"An audit probes one judge, and {len(judges)} are named.", "audit one --judge at a time")
    return LabelPlan(chosen, dimensions, by, judges, scale, elicitation.packing or before.get("ask", "per-dimension"))


def _schema_before(version: Version, before: Mapping[str, Any]) -> str:
    """The schema of the labels. Raises UsageError where it was a rubric: a version knows its content, not its file."""
    found = str(before.get("schema", "direct"))
    if found.startswith(PREFIX):
        said = f"{version.ref} was labelled by the rubric {found.removeprefix(PREFIX)!r}."
        raise UsageError(said, "name its file: --schema rubric:FILE.yaml")
    return found


def _drawn(plan: LabelPlan, episodes: Iterable[Episode], count: int, seed: int) -> list[Episode]:
    """Some of the episodes that can be asked about, drawn by the seed; in order of their ids."""
    able = [one for one in episodes if len({turn.agent for turn in one.turns}) > 1 and plan.questions(one)]
    able.sort(key=lambda one: hashlib.sha256(f"{seed}\0{one.episode_id}".encode()).digest())
    return sorted(able[:count], key=lambda one: one.episode_id)


def splits_of(version: Version) -> dict[str, str]:
    """Episode -> the split that it is in."""
    import pyarrow.parquet as pq

    return {
        episode: split
        for split, files in version.files("episodes").items()
        for episode in chain.from_iterable(
            pq.read_table(path, columns=["episode_id"]).column(0).to_pylist() for path in files
        )
    }
