"""The four runs, called with keywords alone: a test names what it is about, and the nouns are put together here.

    label(store, "lab/episodes", judges=["gpt-4o"], preset="goal-only", budget=5)

is `label(store, "lab/episodes", Elicitation(judges=["gpt-4o"]), RewardSettings(preset="goal-only"),
options=AskOptions(budget=5))`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sotopia_rl_data.asking.estimate import Estimate
from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.labelers import labelling as labelling
from sotopia_rl_data.labelers import plan as label_plan
from sotopia_rl_data.labelers.audit import auditing as audit_run
from sotopia_rl_data.labelers.audit.auditing import AuditPlan, AuditReport, AuditSettings
from sotopia_rl_data.labelers.evaluation import evaluating as evaluation
from sotopia_rl_data.labelers.evaluation.evaluating import EvaluationReport
from sotopia_rl_data.labelers.plan import Elicitation, LabelPlan, RewardSettings
from sotopia_rl_data.labelers.report import LabelReport
from sotopia_rl_data.rewards import Recipe
from sotopia_rl_data.rollouts import rollout as rollouts
from sotopia_rl_data.rollouts.episode_run import Rules
from sotopia_rl_data.rollouts.plan import RolloutPlan
from sotopia_rl_data.rollouts.rollout import RolloutReport
from sotopia_rl_data.store import Store, Version


def label(store: Store, source: Any = None, **given: Any) -> LabelReport:
    """`labelers.run.label`."""
    asked, rewards, options = taken(Elicitation, given), taken(RewardSettings, given), taken(AskOptions, given)
    return labelling.label(store, source, asked, rewards, options=options, **given)


def estimate(store: Store, source: Any = None, **given: Any) -> Estimate:
    """`labelers.run.estimate_label`; `in_batches` for a price in batches."""
    options = _options(given)
    return labelling.estimate_label(store, source, taken(Elicitation, given), taken(RewardSettings, given), options)


def prepare(**given: Any) -> tuple[LabelPlan, Recipe]:
    """`labelers.plan.prepare`."""
    return label_plan.prepare(taken(Elicitation, given), taken(RewardSettings, given))


def evaluate(store: Store, source: str, **given: Any) -> EvaluationReport:
    """`labelers.evaluation.run.evaluate`."""
    named = {name: given.pop(name) for name in ("evaluator", "version") if name in given}
    asked, options = taken(Elicitation, given), taken(AskOptions, given)
    return evaluation.evaluate(store, source, asked, options=options, **named)


def estimate_evaluation(store: Store, source: str, **given: Any) -> Estimate:
    """`labelers.evaluation.run.estimate_evaluation`."""
    evaluator, options = given.pop("evaluator", None), _options(given)
    asked = taken(Elicitation, given)
    return evaluation.estimate_evaluation(store, source, asked, evaluator=evaluator, options=options)


def audit(store: Store, source: str | Version, judge: Any, **given: Any) -> AuditReport:
    """`labelers.audit.audit`."""
    asked = taken(Elicitation, given | {"judges": [judge]}, given)
    probing, options = taken(AuditSettings, given), taken(AskOptions, given)
    return audit_run.audit(store, source, asked, probing, options=options, **given)


def planned(version: Version, judge: Any, **given: Any) -> AuditPlan:
    """`labelers.audit.run.planned`."""
    return audit_run.planned(
        version, taken(Elicitation, given | {"judges": [judge]}, given), taken(AuditSettings, given)
    )


def plan_of(scenes: Any, **given: Any) -> RolloutPlan:
    """`rollouts.run.plan_of`."""
    return rollouts.plan_of(scenes, taken(Rules, given), **given)


def rollout(store: Store, plan: RolloutPlan, out: str, **given: Any) -> RolloutReport:
    """`rollouts.run.rollout`."""
    options = taken(AskOptions, given)
    return rollouts.rollout(store, plan, out, options=options, **given)


def taken(noun: Any, given: dict[str, Any], rest: dict[str, Any] | None = None) -> Any:
    """The noun made of those keywords that it has, which are taken out of `rest` (default: `given` itself)."""
    names = [one.name for one in fields(noun) if one.name in given]
    made = noun(**{name: given[name] for name in names})
    for name in names:
        (given if rest is None else rest).pop(name, None)
    return made


def _options(given: dict[str, Any]) -> AskOptions:
    if given.pop("in_batches", False):
        from sotopia_rl_data.asking.plan import Batching

        given["batching"] = Batching()
    options: AskOptions = taken(AskOptions, given)
    return options
