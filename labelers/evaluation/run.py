"""evaluate(): episodes in, the same episodes with a judge's scores out, as the dataset's next version.

    plan      check everything that can be wrong, count the calls            here
    ask       every judge what the ledger does not answer                    questions.py
    read      the ledger -> scores with their reasons, and failures          labelers/reading.py
    commit    the parent's rows with the scores added                        sotopia_rl_data/evaluations.py

Every raw answer is durable before it is parsed; the version is a function of (episodes, plan, ledger). Leaves out what
a command prints.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from sotopia_rl_data import refs
from sotopia_rl_data.asking import run as asking
from sotopia_rl_data.asking.estimate import Estimate, estimate
from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.asking.report import asking_warnings
from sotopia_rl_data.asking.run import bill_of
from sotopia_rl_data.asking.transport import without_api_keys
from sotopia_rl_data.costs.prices import load as load_prices
from sotopia_rl_data.dimensions import SOTOPIA_EVAL as SEVEN
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.evaluations import Evaluated, Judged, add_scores, check_evaluator, provenance
from sotopia_rl_data.hub.resolve import resolve
from sotopia_rl_data.labelers.evaluation.sotopia_eval import SOTOPIA_EVAL
from sotopia_rl_data.labelers.plan import Elicitation, LabelPlan, check_can_ask, dimensions_of, episodes_of, judges_of
from sotopia_rl_data.labelers.questions import QuestionPart, Questions
from sotopia_rl_data.labelers.reading import LabelTally, rows_of
from sotopia_rl_data.labelers.report import JudgedReport, by_number, judged_by, remarks, top_failures
from sotopia_rl_data.labelers.requests import asked_judges, target_of
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.store.versions import check as check_version


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport(JudgedReport):
    """Also: `evaluators` are the names of the new scores; `scores` counts what the judges said, sample by sample."""

    evaluators: Sequence[str]
    scores: int


def evaluate(
    store: Store,
    source: str,
    asked: Elicitation,
    *,
    evaluator: str | None = None,
    version: str | None = None,
    options: AskOptions | None = None,
) -> EvaluationReport:
    """Have judges score every agent of every episode, and add the scores to the dataset.

    `source` is the reference of a dataset, which gets the next version. Of `asked` it reads who is asked (`judges`,
    `sampling`), on which `dimensions` (default: SOTOPIA-EVAL's seven), how often (`samples`; the score is the mean of
    what was answered) and in which `packing` (default: "packed", one call an episode). `evaluator` is what the scores
    are said to be by (default: the judge's id). `options` says how it is asked.

    Raises UsageError, NotFound, KeyMissing, and VersionExists where `version` is taken and something is left to ask,
    before anything is asked or written; Interrupted after Ctrl-C; UnderWay where batches are not waited for; Rejected
    and Unavailable where a provider answers nothing; BudgetSpent; StoreError. Whatever is raised, the store's versions
    are as they were and every answer is kept.
    """
    began = time.monotonic()
    options = options or AskOptions()
    prices = load_prices(options.prices)
    plan = _plan(asked, evaluator)
    asking.check(asked_judges(plan.judges), options, prices)
    parent, names = _parent(store, source, plan, evaluator)
    version = version and check_version(version)
    files = parent.files("episodes")
    tally = LabelTally()
    with store.stage(parent.name) as stage, Ledger(options.ledger_in(store.root)) as kept:
        questions = _questions(plan, parent)
        store.check_untaken(parent.name, version, lambda: estimate(questions, kept, options, prices).asked)
        outcomes = asking.ask(questions, kept, options, prices)
        judged = {split: _judged(plan, kept, paths, names, tally) for split, paths in files.items()}
        recipe = add_scores(stage, parent, _evaluated(plan, names), judged)
        bill = bill_of(questions.judges, tally, prices)
        told = provenance(
            parent,
            judged_by(plan, tally, bill),
            wording_sha256=plan.schema.wording_sha256(),
            failures=top_failures(tally),
        )
        committed = stage.commit(recipe=recipe, provenance=told, version=version)
    return EvaluationReport(
        committed=committed,
        outcomes=outcomes,
        calls=questions.total,
        failures=by_number(tally),
        bill=bill,
        warnings=[*remarks(plan), *asking_warnings(outcomes)],
        seconds=round(time.monotonic() - began, 3),
        episodes=questions.episodes,
        repaired=tally.repaired,
        unusable=tally.unusable,
        evaluators=list(names.values()),
        scores=tally.labels,
    )


def estimate_evaluation(
    store: Store,
    source: str,
    asked: Elicitation,
    *,
    evaluator: str | None = None,
    options: AskOptions | None = None,
) -> Estimate:
    """What `evaluate` would ask and cost with the same arguments; it asks nobody. Raises what `evaluate` raises before
    it asks, but that no API key is needed."""
    options = options or AskOptions()
    prices = load_prices(options.prices)
    with without_api_keys():
        plan = _plan(asked, evaluator)
    parent, _ = _parent(store, source, plan, evaluator)
    with Ledger(options.ledger_in(store.root)) as kept:
        return estimate(_questions(plan, parent), kept, options, prices)


def _parent(store: Store, source: str, plan: LabelPlan, evaluator: str | None) -> tuple[Version, dict[str, str]]:
    """The version to evaluate, and judge -> what its scores are said to be by. Raises UsageError, NotFound."""
    parent = dataset(store, source)
    names = {judge.id: evaluator or judge.id for judge in plan.judges}
    for name in names.values():
        check_evaluator(parent, name)
    return parent, names


def _questions(plan: LabelPlan, parent: Version) -> Questions:
    files = list(chain.from_iterable(parent.files("episodes").values()))
    return Questions(QuestionPart(plan, lambda: episodes_of(files)))


def dataset(store: Store, source: str) -> Version:
    """The version that `source` names, with episodes in it. Raises UsageError where it is a file: scores are added to a
    dataset, and a file is none. NotFound."""
    if refs.is_path(source) and Path(source).is_file():
        raise UsageError(f"{source} is a file.", f"make it a dataset: sotopia-rl-data import {source} --name ORG/NAME")
    found = resolve(store, source)
    if "episodes" not in found.manifest.configs:
        raise UsageError(f"{found.ref} holds no episodes.", "name the dataset that the dialogues are in")
    return found


def _plan(asked: Elicitation, evaluator: str | None) -> LabelPlan:
    """Everything that can be wrong, found before anything is asked. Raises UsageError, KeyMissing."""
    packing = asked.packing or "packed"
    check_can_ask(packing, asked.samples)
    if evaluator is not None and (len(asked.judges) > 1 or not evaluator.strip()):
        raise UsageError(
            f"{len(asked.judges)} judges cannot all be called {evaluator!r}.", "evaluate with one --judge at a time"
        )
    dimensions = dimensions_of([one.name for one in SEVEN] if asked.dimensions is None else asked.dimensions)
    judges = judges_of(asked.judges, asked.sampling)
    return LabelPlan(SOTOPIA_EVAL, dimensions, "", judges, packing=packing, samples=asked.samples)


def _judged(
    plan: LabelPlan, ledger: Ledger, files: Sequence[Path], names: Mapping[str, str], tally: LabelTally
) -> Iterator[Judged]:
    """What was said of each episode, by the evaluators' names; what nobody was asked about is missing from each."""
    for labels, failures in rows_of(plan, ledger, episodes_of(files), tally):
        lost = [replace(one, judge=names[who]) for one in failures for who in ([one.judge] if one.judge else names)]
        tally.failures.update(one.reason for one in lost[len(failures) :])  # the rest is counted already
        yield [replace(label, judge=names[label.judge]) for label in labels], lost


def _evaluated(plan: LabelPlan, names: Mapping[str, str]) -> list[Evaluated]:
    how = {"schema_version": SOTOPIA_EVAL.version, "ask": plan.packing, "samples": plan.samples}
    targets = {judge.id: target_of(judge) for judge in plan.judges}
    return [
        Evaluated(
            names[who],
            plan.dimensions,
            {**how, "judge": who, "provider": target.provider, "sampling": dict(target.sampling)},
        )
        for who, target in targets.items()
    ]
