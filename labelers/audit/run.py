"""audit(): probe a judge and leave a small version with the verdict.

    plan     draw episodes, change them, count and price the calls       planning.py
    ask      through the ledger: what was asked before is not asked again
    read     the ledger -> attributions and failures
    weigh    pairs of labels -> verdict                                   analysis.py
    commit   the changed episodes, the labels, the failures, the verdict

Leaves out what a command prints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.asking.dispatch import Outcome, Pacing, ask_all
from sotopia_rl_data.code import code
from sotopia_rl_data.errors import BadAnswer, InputError, Interrupted
from sotopia_rl_data.hub.resolve import resolve
from sotopia_rl_data.labelers.asking import wait
from sotopia_rl_data.labelers.audit.analysis import ALPHA, Key, Verdict, verdict
from sotopia_rl_data.labelers.audit.planning import Audit, Estimate, check, planned, splits_of
from sotopia_rl_data.labelers.judge import Judge
from sotopia_rl_data.labelers.judges.batches import keys_under_way
from sotopia_rl_data.labelers.judges.sending import Ask, close, sender
from sotopia_rl_data.labelers.reading import Tally, rows_of, values_of
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.refs import check_name
from sotopia_rl_data.request import Reply, Request, Usage
from sotopia_rl_data.schema import Attribution, Episode, Failure
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.store.versions import check as check_version

if TYPE_CHECKING:
    from sotopia_rl_data.labelers.asking import Progress
    from sotopia_rl_data.labelers.schemas.phrasing import Packing

_REASONS_KEPT = 20


@dataclass(frozen=True, slots=True)
class AuditReport:
    """`version` ("org/name@v1.0.0") lies in `directory`; `created` is False where the store had this content already.
    `failures` counts, by reason, labels that are missing. `usage` is what this run's calls cost, by model."""

    version: str
    directory: str
    digest: str
    created: bool
    verdict: Verdict
    estimate: Estimate
    asked: int
    labels: int
    failures: Mapping[str, int]
    usage: Mapping[str, Usage]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"estimate": self.estimate.as_dict(), "verdict": self.verdict.as_dict()}


def audit(
    store: Store,
    source: str | Version,
    judge: str | Judge,
    *,
    episodes: int = 100,
    seed: int = 0,
    probes: Sequence[str] | None = None,
    schema: str | None = None,
    dimensions: Sequence[str] | None = None,
    scale: int | None = None,
    ask: Packing | None = None,
    evaluator: str | None = None,
    sampling: Mapping[str, Any] | None = None,
    max_calls: int | None = None,
    budget: float | None = None,
    alpha: float = ALPHA,
    out: str | None = None,
    version: str | None = None,
    concurrency: int | None = None,
    pacing: Pacing | None = None,
    retry_failed: bool = False,
    ledger: Path | None = None,
    progress: Progress | None = None,
) -> AuditReport:
    """Probe `judge` on a draw of the episodes of `source` and commit what it said, with the verdict.

    `probes` are ids of `PROBES` (None: all); the same question is always asked twice. `schema`, `dimensions`, `scale`,
    `ask` and `evaluator` are by default those of the labels that `source` holds. `max_calls` and `budget` (USD) are
    checked against the estimate before anything is asked. `alpha` is the chance that an unbiased judge is called
    anything else. `out` is by default the source's name + "-audit".

    Raises UsageError, NotFound, KeyMissing and InputError before anything is asked, and VersionExists where `version`
    is taken and something is left to ask; Interrupted after Ctrl-C; Rejected and Unavailable where the provider answers
    nothing; InputError where no answer can be used; StoreError. Every answer is kept whatever is raised.
    """
    began = time.monotonic()
    parent = resolve(store, source) if isinstance(source, str) else source
    plan = planned(
        parent,
        judge,
        episodes=episodes,
        seed=seed,
        probes=probes,
        schema=schema,
        dimensions=dimensions,
        scale=scale,
        ask=ask,
        evaluator=evaluator,
        sampling=sampling,
    )
    name, version = check_name(out or f"{parent.name}-audit"), version and check_version(version)
    with Ledger(ledger or store.root / ".ledger") as kept:
        estimate = plan.estimate(kept)
        check(estimate, max_calls, budget, plan.judge.id)
        store.check_untaken(name, version, lambda: estimate.to_ask)
        found = probe(
            plan,
            kept,
            alpha=alpha,
            concurrency=concurrency,
            pacing=pacing,
            retry_failed=retry_failed,
            progress=None if progress is None else lambda o: progress(o.settled, estimate.calls),
        )
    made, created = _commit(store, name, version, parent, plan, found)
    return AuditReport(
        version=made.ref,
        directory=str(made.dir),
        digest=made.digest,
        created=created,
        verdict=found.verdict,
        estimate=estimate,
        asked=found.outcome.asked,
        labels=len(found.labels),
        failures=dict(found.tally.failures.most_common(_REASONS_KEPT)),
        usage=found.outcome.usage,
        seconds=round(time.monotonic() - began, 3),
    )


@dataclass(frozen=True, slots=True)
class Probing:
    """What a judge said to an audit's questions, and the verdict on it."""

    verdict: Verdict
    labels: Sequence[Attribution]
    failures: Sequence[Failure]
    tally: Tally
    outcome: Outcome


def probe(
    plan: Audit,
    ledger: Ledger,
    *,
    alpha: float = ALPHA,
    concurrency: int | None = None,
    pacing: Pacing | None = None,
    retry_failed: bool = False,
    progress: Callable[[Outcome], None] | None = None,
) -> Probing:
    """Ask what the ledger does not answer, read it, weigh it; nothing is committed. Raises as `audit` does."""
    outcome = wait(_ask(plan, ledger, concurrency, pacing or Pacing(), retry_failed, progress))
    tally = Tally()
    labels, failures = _read(plan, ledger, tally)
    return Probing(_verdict(plan, labels, alpha), labels, failures, tally, outcome)


def estimated(store: Store, source: str, judge: str | Judge, *, ledger: Path | None = None, **how: Any) -> Estimate:
    """What `audit` would ask, and nothing is asked. `how` are the arguments of `planning.planned`."""
    plan = planned(resolve(store, source), judge, **how)
    with Ledger(ledger or store.root / ".ledger") as kept:
        return plan.estimate(kept)


async def _ask(
    plan: Audit,
    ledger: Ledger,
    concurrency: int | None,
    pacing: Pacing,
    retry_failed: bool,
    progress: Callable[[Outcome], None] | None,
) -> Outcome:
    """Ask what the ledger does not answer. Raises Interrupted."""
    own: int = getattr(plan.judge, "concurrency", 1)
    try:
        outcome = await ask_all(
            plan.requests(),
            sender(plan.judge),
            ledger,
            accept=partial(_accepts, plan),
            concurrency=concurrency or own,
            pacing=pacing,
            retry_failed=retry_failed,
            progress=progress,
            elsewhere=keys_under_way(plan.judge, ledger),
        )
    finally:
        await close(plan.judge)
    if outcome.interrupted:
        raise Interrupted(
            f"Interrupted after {outcome.settled:,} calls.",
            "run the same command again: what was answered is kept, and it goes on from there",
        )
    return outcome


def _accepts(plan: Audit, request: Request, reply: Reply) -> bool:
    if not isinstance(request, Ask):
        raise TypeError(f"a {type(request).__name__} carries no question")
    try:
        values_of(plan.plan, request.asked, reply)
    except BadAnswer:
        return False
    return True


def _read(plan: Audit, ledger: Ledger, tally: Tally) -> tuple[list[Attribution], list[Failure]]:
    """Every label and every failure; what no score asks about is neither."""
    labels: list[Attribution] = []
    failures: list[Failure] = []
    sides: list[Iterator[tuple[list[Attribution], list[Failure]]]] = [
        rows_of(plan.twice, ledger, plan.episodes, tally),
        rows_of(plan.plan, ledger, (one.episode for one in plan.probed), tally),
    ]
    for side in sides:
        for more, lost in side:
            labels += more
            failures += [one for one in lost if one.judge is not None]
    tally.failures.clear()
    tally.failures.update(one.reason for one in failures)
    if not labels:
        reason = next(iter(tally.failures), "it was not asked")
        raise InputError(f"{plan.judge.id} gave no answer that can be used ({reason}).", "try it with `label` first")
    return labels, failures


def _verdict(plan: Audit, labels: Sequence[Attribution], alpha: float) -> Verdict:
    values: dict[Key, float] = {(x.episode_id, x.agent, x.turn, x.dimension, x.sample): x.raw for x in labels}
    scales = {(x.scale_min, x.scale_max) for x in labels}
    return verdict(
        plan.judge.id,
        values,
        plan.contrasts(),
        plan.plan.dimensions,
        scale=scales.pop() if len(scales) == 1 else None,
        alpha=alpha,
        seed=plan.seed,
    )


def _commit(
    store: Store,
    name: str,
    version: str | None,
    parent: Version,
    plan: Audit,
    found: Probing,
) -> tuple[Version, bool]:
    """The version: every episode as it was asked about, in the split of its original."""
    import pyarrow as pa

    from sotopia_rl_data.tables import EPISODES, attribution_table, episode_row, failure_table

    split = splits_of(parent)
    of = {one.episode.episode_id: split[one.original] for one in plan.probed} | split
    by_split: dict[str, list[Episode]] = {}
    for episode in (*plan.episodes, *(one.episode for one in plan.probed)):
        by_split.setdefault(of[episode.episode_id], []).append(replace(episode, observations=(), reasoning=""))
    judge, tally = plan.judge.id, found.tally
    provenance = {
        "parents": [{"name": parent.name, "version": parent.version, "digest": parent.digest}],
        "code": code(),
        "wording_sha256": plan.plan.schema.wording_sha256(plan.plan.scale),
        "judges": [
            {
                "judge": judge,
                "calls": tally.of(judge).calls,
                "returned_models": dict(sorted(tally.models.get(judge, {}).items())),
                "usage": asdict(tally.of(judge).usage),
            }
        ],
        "failures": dict(tally.failures.most_common(_REASONS_KEPT)),
        "audit": found.verdict.as_dict(),
    }
    with store.stage(name) as stage:
        for where, some in by_split.items():
            stage.write("episodes", where, pa.Table.from_pylist([episode_row(e) for e in some], schema=EPISODES))
            stage.write("attributions", where, attribution_table(x for x in found.labels if of[x.episode_id] == where))
            stage.write("failures", where, failure_table(x for x in found.failures if of[str(x.episode_id)] == where))
        committed = stage.commit(recipe=plan.recipe(), provenance=provenance, version=version)
    return committed.version, committed.created
