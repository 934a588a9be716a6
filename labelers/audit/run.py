"""audit(): probe a judge and leave a small version with the verdict.

    plan     draw episodes, change them                                   plan.py
    ask      through the ledger: what was asked before is not asked again
    read     the ledger -> attributions and failures
    weigh    pairs of labels -> verdict                                   analysis.py
    commit   the changed episodes, the labels, the failures, the verdict

Leaves out what a command prints.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sotopia_rl_data.asking import run as asking
from sotopia_rl_data.asking.estimate import Estimate, estimate
from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.asking.report import asking_warnings
from sotopia_rl_data.asking.run import bill_of
from sotopia_rl_data.asking.transport import without_api_keys
from sotopia_rl_data.costs.bill import Bill
from sotopia_rl_data.costs.prices import load as load_prices
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.hub.resolve import resolve
from sotopia_rl_data.labelers.audit.analysis import ALPHA, Key, Verdict, verdict
from sotopia_rl_data.labelers.audit.plan import AuditPlan, AuditSettings, planned, splits_of
from sotopia_rl_data.labelers.plan import Elicitation
from sotopia_rl_data.labelers.reading import LabelTally
from sotopia_rl_data.labelers.report import JudgedReport, by_number, provenance, remarks
from sotopia_rl_data.labelers.requests import asked_judges
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.refs import check_name
from sotopia_rl_data.schema import Attribution, Episode, Failure
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.store.stage import Committed, Stage
from sotopia_rl_data.store.versions import check as check_version


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport(JudgedReport):
    """Also: the `verdict`, and how many `labels` it stands on."""

    verdict: Verdict
    labels: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return JudgedReport.as_dict(self) | {"verdict": self.verdict.as_dict()}


@dataclass(frozen=True, slots=True)
class AuditAnswers:
    """What a judge said to an audit's questions, and the verdict on it."""

    verdict: Verdict
    labels: Sequence[Attribution]
    failures: Sequence[Failure]
    tally: LabelTally


def audit(
    store: Store,
    source: str | Version,
    asked: Elicitation,
    settings: AuditSettings | None = None,
    *,
    out: str | None = None,
    version: str | None = None,
    options: AskOptions | None = None,
) -> AuditReport:
    """Probe the one judge of `asked` on a draw of the episodes of `source` and commit what it said, with the verdict.

    What `asked` leaves open is as in the labels that `source` holds. `settings` says how the judge is probed, `options`
    how it is asked. `out` is by default the source's name + "-audit".

    Raises UsageError, NotFound, KeyMissing and InputError before anything is asked, and VersionExists where `version`
    is taken and something is left to ask; Interrupted after Ctrl-C; UnderWay where batches are not waited for;
    BudgetSpent; Rejected and Unavailable where the provider answers nothing; InputError where no answer can be used;
    StoreError. Every answer is kept whatever is raised.
    """
    began = time.monotonic()
    settings, options = settings or AuditSettings(), options or AskOptions()
    prices = load_prices(options.prices)
    parent = resolve(store, source) if isinstance(source, str) else source
    plan = planned(parent, asked, settings)
    asking.check(asked_judges(plan.plan.judges), options, prices)
    name, version = check_name(out or f"{parent.name}-audit"), version and check_version(version)
    questions = plan.questions()
    with store.stage(name) as stage, Ledger(options.ledger_in(store.root)) as kept:
        if settings.max_calls is not None:
            _check_calls(estimate(questions, kept, options, prices).asked, settings.max_calls)
        store.check_untaken(name, version, lambda: estimate(questions, kept, options, prices).asked)
        outcomes = asking.ask(questions, kept, options, prices)
        found = read(plan, kept, settings.alpha)
        bill = bill_of(questions.judges, found.tally, prices)
        committed = _commit(stage, version, parent, plan, found, bill)
    return AuditReport(
        committed=committed,
        outcomes=outcomes,
        calls=questions.total,
        failures=by_number(found.tally),
        bill=bill,
        warnings=[*remarks(plan.plan), *asking_warnings(outcomes)],
        seconds=round(time.monotonic() - began, 3),
        episodes=len(plan.episodes),
        repaired=found.tally.repaired,
        unusable=found.tally.unusable,
        verdict=found.verdict,
        labels=len(found.labels),
    )


def estimate_audit(
    store: Store,
    source: str,
    asked: Elicitation,
    settings: AuditSettings | None = None,
    options: AskOptions | None = None,
) -> Estimate:
    """What `audit` would ask and cost with the same arguments; it asks nobody, and no API key is needed."""
    options = options or AskOptions()
    prices = load_prices(options.prices)
    with without_api_keys():
        plan = planned(resolve(store, source), asked, settings or AuditSettings())
    with Ledger(options.ledger_in(store.root)) as kept:
        return estimate(plan.questions(), kept, options, prices)


def read(plan: AuditPlan, ledger: Ledger, alpha: float = ALPHA) -> AuditAnswers:
    """What the ledger says, weighed; what no score asks about is neither a label nor a failure. Asks nobody. Raises
    InputError where no answer can be used."""
    tally = LabelTally()
    labels: list[Attribution] = []
    failures: list[Failure] = []
    for more, lost in plan.questions().rows(ledger, tally):
        labels += more
        failures += [one for one in lost if one.judge is not None]
    tally.failures.clear()
    tally.failures.update(one.reason for one in failures)
    if not labels:
        reason = next(iter(tally.failures), "it was not asked")
        raise InputError(f"{plan.judge.id} gave no answer that can be used ({reason}).", "try it with `label` first")
    return AuditAnswers(_verdict(plan, labels, alpha), labels, failures, tally)


def _check_calls(needed: int, allowed: int) -> None:
    if needed > allowed:
        raise UsageError(
            f"The audit needs {needed:,} calls, and {allowed:,} are allowed.",
            "ask about fewer --episodes, pack them with --ask packed, or raise --max-calls",
        )


def _verdict(plan: AuditPlan, labels: Sequence[Attribution], alpha: float) -> Verdict:
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
    stage: Stage, version: str | None, parent: Version, plan: AuditPlan, found: AuditAnswers, bill: Bill
) -> Committed:
    """The version: every episode as it was asked about, in the split of its original."""
    import pyarrow as pa

    from sotopia_rl_data.tables import EPISODES, attribution_table, episode_row, failure_table

    split = splits_of(parent)
    of = {one.episode.episode_id: split[one.original] for one in plan.probed} | split
    by_split: dict[str, list[Episode]] = {}
    for episode in (*plan.episodes, *(one.episode for one in plan.probed)):
        by_split.setdefault(of[episode.episode_id], []).append(replace(episode, observations=(), reasoning=""))
    for where, some in by_split.items():
        stage.write("episodes", where, pa.Table.from_pylist([episode_row(e) for e in some], schema=EPISODES))
        stage.write("attributions", where, attribution_table(x for x in found.labels if of[x.episode_id] == where))
        stage.write("failures", where, failure_table(x for x in found.failures if of[str(x.episode_id)] == where))
    told = provenance(parent, plan.plan, found.tally, bill, {"audit": found.verdict.as_dict()})
    return stage.commit(recipe=plan.recipe(), provenance=told, version=version)
