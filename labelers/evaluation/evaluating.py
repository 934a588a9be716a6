"""evaluate(): episodes in, the same episodes with a judge's scores out, as the dataset's next version.

    plan      check everything that can be wrong, count the calls            here
    ask       put to every judge the questions that the ledger lacks         labelers/questions.py
    read      the ledger -> scores with their reasons, and failures          labelers/questions.py
    commit    the parent's rows with the scores added                        evaluations.py

Every raw answer is durable before it is parsed; the version is a function of (episodes, plan, ledger). Leaves out what
a command prints.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sotopia_rl_data import refs
from sotopia_rl_data.asking import ask as asking
from sotopia_rl_data.asking.ask import bill_of
from sotopia_rl_data.asking.estimate import estimate
from sotopia_rl_data.asking.keys import without_api_keys
from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.asking.report import AskedReport, asking_warnings
from sotopia_rl_data.dimensions import SOTOPIA_EVAL as SEVEN
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.evaluations import Evaluated, Judged, add_scores, check_evaluator, provenance
from sotopia_rl_data.hub.resolve import resolve
from sotopia_rl_data.labelers.ask_only import ask_questions
from sotopia_rl_data.labelers.evaluation.sotopia_eval import SOTOPIA_EVAL
from sotopia_rl_data.labelers.plan import Elicitation, LabelPlan, check_can_ask, dimensions_of, episodes_of, judges_of
from sotopia_rl_data.labelers.questions import LabelTally, Questions, rows_of
from sotopia_rl_data.labelers.report import JudgedReport, by_number, judged_by, remarks, top_failures
from sotopia_rl_data.labelers.requests import asked_judges, target_of
from sotopia_rl_data.labelers.schemas import in_wording
from sotopia_rl_data.labelers.wordings import JudgedEstimate, OtherWording, judged_estimate, tell_other_wordings
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.shards import WHOLE, Shard
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.store.versions import check as check_version


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport(JudgedReport):
    """The report of `evaluate`: `evaluators` are the names that the new scores are stored under; `scores` is how many
    scores the judges gave, each sample counted."""

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
    announce: Callable[[OtherWording], object] | None = None,
) -> EvaluationReport:
    """Have judges score every agent of every episode, and add the scores to the dataset.

    `source` is the reference of a dataset, which gets the next version. These fields of `asked` count: `judges`,
    `sampling` and `wording`; `dimensions` (default: SOTOPIA-EVAL's seven); `samples` (how often each question is
    asked: the score is the mean of the answers); `packing` (default: "packed", one call for each episode).
    `evaluator` is the name that the scores are stored under (default: the judge's id). `options` says how judges are
    asked. `announce` is told, before anything is asked, where the ledger has answers in another wording alone.

    Raises UsageError, NotFound, KeyMissing, and VersionExists where `version` is taken and something is left to ask,
    all before anything is asked or written; Interrupted after Ctrl-C; UnderWay where batches are not waited for;
    Rejected and Unavailable where a provider gives no answer at all; BudgetSpent; StoreError. Whatever is raised, the
    store's versions stay as they were and every answer is kept.
    """
    began = time.monotonic()
    options = options or AskOptions()
    prices = options.price_list()
    plan = evaluation_plan(asked, evaluator)
    asking.check(asked_judges(plan.judges), options, prices)
    parent, names = _parent(store, source, plan, evaluator)
    version = version and check_version(version)
    files = parent.files("episodes")
    tally = LabelTally()
    with store.stage(parent.name) as stage, Ledger(options.ledger_in(store)) as ledger:
        questions = Questions.about(plan, parent)
        store.check_untaken(parent.name, version, lambda: estimate(questions, ledger, options, prices).asked)
        tell_other_wordings(announce, questions, ledger)
        outcomes = asking.ask(questions, ledger, options, prices)
        judged = {split: _judged(plan, ledger, paths, names, tally) for split, paths in files.items()}
        recipe = add_scores(stage, parent, _evaluated(plan, names), judged)
        bill = bill_of(questions.judges, tally, prices)
        committed = stage.commit(
            recipe=recipe,
            provenance=provenance(
                parent,
                judged_by(plan, tally, bill),
                wording_sha256=plan.schema.wording_sha256(),
                failures=top_failures(tally),
            ),
            version=version,
        )
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


def ask_evaluation(
    store: Store,
    source: str,
    asked: Elicitation,
    *,
    evaluator: str | None = None,
    shard: Shard = WHOLE,
    options: AskOptions | None = None,
    announce: Callable[[OtherWording], object] | None = None,
) -> AskedReport:
    """Ask what `evaluate` asks with the same arguments, about the episodes of `shard`, and make no version: `evaluate`
    does that when the ledgers of all shards are merged. Raises what `evaluate` raises; only the ledger is written."""
    options = options or AskOptions()
    prices = options.price_list()
    plan = evaluation_plan(asked, evaluator)
    asking.check(asked_judges(plan.judges), options, prices)
    parent, _ = _parent(store, source, plan, evaluator)
    with Ledger(options.ledger_in(store)) as ledger:
        return ask_questions(Questions.about(plan, parent, shard), ledger, options, prices, shard, announce)


def estimate_evaluation(
    store: Store,
    source: str,
    asked: Elicitation,
    *,
    evaluator: str | None = None,
    options: AskOptions | None = None,
    shard: Shard = WHOLE,
) -> JudgedEstimate:
    """What `evaluate` would ask and cost with the same arguments, or `ask_evaluation` about a shard. Sends no request
    and needs no API key; otherwise raises what `evaluate` raises before it asks."""
    options = options or AskOptions()
    prices = options.price_list()
    with without_api_keys():
        plan = evaluation_plan(asked, evaluator)
    parent, _ = _parent(store, source, plan, evaluator)
    with Ledger(options.ledger_in(store)) as ledger:
        questions = Questions.about(plan, parent, shard)
        return judged_estimate(estimate(questions, ledger, options, prices), questions, ledger)


def _parent(store: Store, source: str, plan: LabelPlan, evaluator: str | None) -> tuple[Version, dict[str, str]]:
    """The version to evaluate, and for each judge's id the name that its scores get. Raises UsageError, NotFound."""
    parent = dataset(store, source)
    names = {judge.id: evaluator or judge.id for judge in plan.judges}
    for name in names.values():
        check_evaluator(parent, name)
    return parent, names


def dataset(store: Store, source: str) -> Version:
    """The version that `source` names. Raises UsageError where it has no episodes, or where it is a file, since scores
    are added to a dataset; NotFound."""
    if refs.is_path(source) and Path(source).is_file():
        raise UsageError(
            f"{source} is a file, but scores can only be added to a dataset.",
            f"make the file a dataset: sotopia-rl-data import {shlex.quote(source)} --name demo/episodes",
        )
    version = resolve(store, source)
    if "episodes" not in version.manifest.configs:
        raise UsageError(
            f"{version.ref} holds no episodes to score.", "name a dataset of dialogues: sotopia-rl-data list"
        )
    return version


def evaluation_plan(asked: Elicitation, evaluator: str | None = None) -> LabelPlan:
    """What is asked. Raises UsageError and KeyMissing, before anything is sent."""
    packing = asked.packing or "packed"
    check_can_ask(packing, asked.samples)
    if evaluator is not None and not evaluator.strip():
        raise UsageError("The evaluator's name is empty.", "leave --evaluator out to use the judge's id")
    if evaluator is not None and len(asked.judges) > 1:
        raise UsageError(
            f"The scores of {len(asked.judges)} judges cannot all be stored under the name {evaluator!r}.",
            "evaluate with one --judge at a time, or leave --evaluator out",
        )
    dimensions = dimensions_of(
        [dimension.name for dimension in SEVEN] if asked.dimensions is None else asked.dimensions
    )
    judges = judges_of(asked.judges, asked.sampling)
    schema = in_wording(SOTOPIA_EVAL, asked.wording)
    return LabelPlan(schema, dimensions, "", judges, packing=packing, samples=asked.samples)


def _judged(
    plan: LabelPlan, ledger: Ledger, files: Sequence[Path], names: Mapping[str, str], tally: LabelTally
) -> Iterator[Judged]:
    """The labels and failures of each episode, under the evaluators' names. What no judge was asked about is a failure
    of every evaluator."""
    for labels, failures in rows_of(plan, ledger, episodes_of(files), tally):
        named_failures = []
        for failure in failures:
            judges = [failure.judge] if failure.judge else list(names)
            named_failures += [replace(failure, judge=names[judge]) for judge in judges]
            tally.failures[failure.reason] += len(judges) - 1  # `rows_of` has counted each failure once
        yield [replace(label, judge=names[label.judge]) for label in labels], named_failures


def _evaluated(plan: LabelPlan, names: Mapping[str, str]) -> list[Evaluated]:
    kept = ("schema_version", "ask", "samples", "wording")
    shared = {name: value for name, value in plan.recipe().items() if name in kept}
    evaluated = []
    for judge in plan.judges:
        target = target_of(judge)
        details = {**shared, "judge": judge.id, "provider": target.provider, "sampling": dict(target.sampling)}
        evaluated.append(Evaluated(names[judge.id], plan.dimensions, details))
    return evaluated
