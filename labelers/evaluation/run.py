"""evaluate(): episodes in, the same episodes with a judge's scores out, as the dataset's next version.

    plan      check everything that can be wrong, count the calls            here
    ask       every judge what the ledger does not answer                    labelers/asking.py
    read      the ledger -> scores with their reasons, and failures          labelers/reading.py
    commit    the parent's rows with the scores added                        sotopia_rl_data/evaluations.py

Every raw answer is durable before it is parsed; the version is a function of (episodes, plan, ledger). Leaves out what
a command prints.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from sotopia_rl_data import refs
from sotopia_rl_data.asking.batch.run import Batching
from sotopia_rl_data.asking.dispatch import Pacing
from sotopia_rl_data.asking.transport import without_api_keys
from sotopia_rl_data.costs.prices import load as load_prices
from sotopia_rl_data.dimensions import SOTOPIA_EVAL as SEVEN
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.evaluations import Evaluated, Judged, add_scores, check_evaluator, provenance
from sotopia_rl_data.hub.resolve import resolve
from sotopia_rl_data.labelers.asking import Asking, Progress, wait
from sotopia_rl_data.labelers.costs import bill_of, capped, check_budget
from sotopia_rl_data.labelers.evaluation.sotopia_eval import SOTOPIA_EVAL
from sotopia_rl_data.labelers.judge import Judge
from sotopia_rl_data.labelers.judges.batches import check_batches
from sotopia_rl_data.labelers.judges.sending import target_of
from sotopia_rl_data.labelers.plan import Plan, episodes_of, size
from sotopia_rl_data.labelers.preparing import dimensions_of, judges_of, left_to_ask
from sotopia_rl_data.labelers.reading import Tally, rows_of
from sotopia_rl_data.labelers.report import RunReport, cold, judged_by, ran, remarks
from sotopia_rl_data.labelers.schemas.phrasing import Packing
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.schema import Episode
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.store.versions import check as check_version

if TYPE_CHECKING:
    from sotopia_rl_data.labelers.estimate import Estimate

_REASONS_KEPT = 100


@dataclass(frozen=True, slots=True)
class EvaluationReport(RunReport):
    """Also: `evaluators` are the names of the new scores; `scores` counts what the judges said, sample by sample."""

    evaluators: Sequence[str]
    scores: int


def evaluate(
    store: Store,
    source: str,
    *,
    judges: Sequence[str | Judge] = (),
    dimensions: Sequence[str] | None = None,
    samples: int = 1,
    ask: Packing = "packed",
    evaluator: str | None = None,
    sampling: Mapping[str, Any] | None = None,
    version: str | None = None,
    retry_failed: bool = False,
    concurrency: int | None = None,
    pacing: Pacing | None = None,
    batching: Batching | None = None,
    budget: float | None = None,
    prices: Path | None = None,
    ledger: Path | None = None,
    progress: Progress | None = None,
) -> EvaluationReport:
    """Have judges score every agent of every episode, and add the scores to the dataset.

    `source` is the reference of a dataset, which gets the next version. `dimensions` are by default SOTOPIA-EVAL's
    seven. `samples` repeats every question; the score is the mean of what was answered. `ask` is "packed", one call an
    episode, or "per-dimension", one for each agent and dimension. `evaluator` is what the scores are said to be by
    (default: the judge's id). The rest is as in `label`, `batching`, `budget` and `prices` too.

    Raises UsageError, NotFound, KeyMissing, and VersionExists where `version` is taken and something is left to ask,
    before anything is asked or written; Interrupted after Ctrl-C; UnderWay where batches are not waited for; Rejected
    and Unavailable where a provider answers nothing; BudgetSpent; StoreError. Whatever is raised, the store's versions
    are as they were and every answer is kept.
    """
    began = time.monotonic()
    price_list = load_prices(prices)
    plan = _plan(judges, dimensions, samples, ask, evaluator, sampling)
    if batching is not None:
        check_batches(plan.judges)
    if budget is not None:
        check_budget(budget, plan, price_list)
    parent = dataset(store, source)
    names = _names(plan, evaluator)
    for name in names.values():
        check_evaluator(parent, name)
    version = version and check_version(version)
    files = parent.files("episodes")

    def episodes() -> Iterator[Episode]:
        return episodes_of(chain.from_iterable(files.values()))

    counted = size(plan, episodes())
    tally = Tally()
    with store.stage(parent.name) as stage, Ledger(ledger or store.root / ".ledger") as kept:
        left = partial(left_to_ask, plan, kept, episodes, price_list, retry_failed)
        store.check_untaken(parent.name, version, left)
        how: dict[str, Any] = {"retry_failed": retry_failed, "concurrency": concurrency, "pacing": pacing}
        how |= {"batching": batching, "progress": progress}
        with capped(budget, plan, kept, episodes, price_list) as cap:
            asking = Asking(plan, kept, episodes).ask(counted.calls, **how, budget=cap, prices=price_list)
            outcomes = wait(asking)
        judged = {split: _judged(plan, kept, paths, names, tally) for split, paths in files.items()}
        recipe = add_scores(stage, parent, _evaluated(plan, names), judged)
        cost = bill_of(plan, tally, price_list)
        told = provenance(
            parent,
            judged_by(plan, tally, cost),
            wording_sha256=plan.schema.wording_sha256(),
            failures=dict(tally.failures.most_common(_REASONS_KEPT)),
        )
        committed = stage.commit(recipe=recipe, provenance=told, version=version)
    warnings = [*remarks(plan), *cold(outcomes)]
    return EvaluationReport(
        **ran(committed, counted, tally, outcomes, cost, warnings, time.monotonic() - began),
        evaluators=list(names.values()),
        scores=tally.labels,
    )


def estimate_evaluation(
    store: Store,
    source: str,
    *,
    retry_failed: bool = False,
    concurrency: int | None = None,
    prices: Path | None = None,
    ledger: Path | None = None,
    in_batches: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Estimate:
    """What `evaluate` would ask and cost with the same arguments; it asks nobody. Raises what `evaluate` raises before
    it asks, but that no API key is needed."""
    from sotopia_rl_data.labelers.estimate import of_plan

    price_list = load_prices(prices)
    with without_api_keys():
        plan = _plan(**options)
    parent = dataset(store, source)
    for name in _names(plan, options.get("evaluator")).values():
        check_evaluator(parent, name)
    files = [path for paths in parent.files("episodes").values() for path in paths]
    with Ledger(ledger or store.root / ".ledger") as kept:
        asked = plan, kept, lambda: episodes_of(files), price_list
        return of_plan(*asked, retry_failed, concurrency, in_batches, progress)


def dataset(store: Store, source: str) -> Version:
    """The version that `source` names, with episodes in it. Raises UsageError where it is a file: scores are added to a
    dataset, and a file is none. NotFound."""
    if refs.is_path(source) and Path(source).is_file():
        raise UsageError(f"{source} is a file.", f"make it a dataset: sotopia-rl-data import {source} --name ORG/NAME")
    found = resolve(store, source)
    if "episodes" not in found.manifest.configs:
        raise UsageError(f"{found.ref} holds no episodes.", "name the dataset that the dialogues are in")
    return found


def _plan(
    judges: Sequence[str | Judge] = (),
    dimensions: Sequence[str] | None = None,
    samples: int = 1,
    ask: Packing = "packed",
    evaluator: str | None = None,
    sampling: Mapping[str, Any] | None = None,
) -> Plan:
    """Everything that can be wrong, found before anything is asked. Raises UsageError, KeyMissing."""
    if ask not in get_args(Packing):
        raise UsageError(f"{ask!r} is no way to ask.", f"use {' or '.join(get_args(Packing))}")
    if samples < 1:
        raise UsageError(f"There cannot be {samples} samples.", "ask for one or more")
    if evaluator is not None and (len(judges) > 1 or not evaluator.strip()):
        raise UsageError(
            f"{len(judges)} judges cannot all be called {evaluator!r}.", "evaluate with one --judge at a time"
        )
    asked = dimensions_of([one.name for one in SEVEN] if dimensions is None else dimensions)
    return Plan(SOTOPIA_EVAL, asked, "", judges_of(judges, sampling), ask=ask, samples=samples)


def _names(plan: Plan, evaluator: str | None) -> dict[str, str]:
    """Judge -> what its scores are said to be by."""
    return {judge.id: evaluator or judge.id for judge in plan.judges}


def _judged(
    plan: Plan, ledger: Ledger, files: Sequence[Path], names: Mapping[str, str], tally: Tally
) -> Iterator[Judged]:
    """What was said of each episode, by the evaluators' names; what nobody was asked about is missing from each."""
    for labels, failures in rows_of(plan, ledger, episodes_of(files), tally):
        lost = [replace(one, judge=names[who]) for one in failures for who in ([one.judge] if one.judge else names)]
        tally.failures.update(one.reason for one in lost[len(failures) :])  # the rest is counted already
        yield [replace(label, judge=names[label.judge]) for label in labels], lost


def _evaluated(plan: Plan, names: Mapping[str, str]) -> list[Evaluated]:
    how = {"schema_version": SOTOPIA_EVAL.version, "ask": plan.ask, "samples": plan.samples}
    targets = {judge.id: target_of(judge) for judge in plan.judges}
    return [
        Evaluated(
            names[who],
            plan.dimensions,
            {**how, "judge": who, "provider": target.provider, "sampling": dict(target.sampling)},
        )
        for who, target in targets.items()
    ]
