"""audit(): probe a judge for biases and leave a small version with the verdict.

    plan     draw episodes, change them; everything that can be wrong is found here   probes.py
    ask      through the ledger, so that nothing is asked twice
    read     the ledger -> attributions and failures                                  labelers/questions.py
    weigh    pairs of labels -> verdict                                               analysis.py
    commit   the changed episodes, the labels, the failures, the verdict

Leaves out what a command prints.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from sotopia_rl_data.asking import ask as asking
from sotopia_rl_data.asking.ask import bill_of
from sotopia_rl_data.asking.estimate import estimate
from sotopia_rl_data.asking.keys import without_api_keys
from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.asking.report import asking_warnings
from sotopia_rl_data.costs.bill import Bill
from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.hub.resolve import resolve
from sotopia_rl_data.labelers.audit.analysis import ALPHA, Key, Verdict, verdict
from sotopia_rl_data.labelers.audit.probes import PROBES, REPEAT, LabelContrast, Probed, repeated
from sotopia_rl_data.labelers.judge import Judge
from sotopia_rl_data.labelers.plan import DEFAULT_SCALE, Elicitation, LabelPlan, dimensions_of, episodes_of, judges_of
from sotopia_rl_data.labelers.questions import LabelTally, QuestionPart, Questions
from sotopia_rl_data.labelers.report import JudgedReport, by_number, provenance, remarks
from sotopia_rl_data.labelers.requests import asked_judges
from sotopia_rl_data.labelers.schemas import in_wording, own_dimensions, wording_of
from sotopia_rl_data.labelers.schemas import schema as find_schema
from sotopia_rl_data.labelers.schemas.phrasing import FIRST
from sotopia_rl_data.labelers.schemas.rubric import PREFIX
from sotopia_rl_data.labelers.wordings import JudgedEstimate, OtherWording, judged_estimate, tell_other_wordings
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.refs import check_name
from sotopia_rl_data.rewards.resolve import choose_evaluator, evaluators
from sotopia_rl_data.schema import Attribution, Episode, Failure
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.store.stage import Committed, Stage
from sotopia_rl_data.store.versions import check as check_version

DEFAULT_DIMENSIONS = ("goal", "relationship", "knowledge")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """How a judge is probed: on how many `episodes`, drawn by which `seed`, and with which `probes` (ids of `PROBES`;
    None: all). Nothing is asked where more than `max_calls` calls would be needed. `alpha` is the chance that an
    unbiased judge is called anything else."""

    episodes: int = 100
    seed: int = 0
    probes: Sequence[str] | None = None
    max_calls: int | None = None
    alpha: float = ALPHA


@dataclass(frozen=True, slots=True)
class AuditPlan:
    """Everything that determines what is asked: about the changed episodes in `probed` once, about the original
    `episodes` twice."""

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
        """The plan for the original episodes."""
        return replace(self.plan, samples=2)

    def questions(self) -> Questions:
        """Every question, those about the original episodes first."""
        changed = [probed.episode for probed in self.probed]
        return Questions(QuestionPart(self.twice, lambda: self.episodes), QuestionPart(self.plan, lambda: changed))

    def contrasts(self) -> dict[str, list[tuple[str, LabelContrast]]]:
        """For each probe, the labels that must be equal: (original episode's id, contrast)."""
        by_probe: dict[str, list[tuple[str, LabelContrast]]] = {name: [] for name in (*self.probes, REPEAT)}
        for probed in self.probed:
            by_probe[probed.probe] += [(probed.original, contrast) for contrast in probed.contrasts]
        for episode in self.episodes:
            by_probe[REPEAT] += [(episode.episode_id, contrast) for contrast in repeated(episode)]
        return by_probe

    def recipe(self) -> dict[str, Any]:
        """What determines the rows."""
        labels = self.plan.recipe()
        versions = {name: PROBES[name].version for name in self.probes}
        return {"audit": {"probes": versions, "seed": self.seed}, "labels": labels, "scale": self.plan.scale}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport(JudgedReport):
    """The report of `audit`: its `verdict`, and how many `labels` the verdict is based on."""

    verdict: Verdict
    labels: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return JudgedReport.as_dict(self) | {"verdict": self.verdict.as_dict()}


@dataclass(frozen=True, slots=True)
class AuditAnswers:
    """A judge's answers to an audit's questions, and the verdict on them."""

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
    announce: Callable[[OtherWording], object] | None = None,
) -> AuditReport:
    """Probe the one judge of `asked` on episodes drawn from `source`, and commit its answers with the verdict.

    What is None in `asked` is taken from the labels that `source` holds. `settings` says how the judge is probed,
    `options` how requests are sent. `out` is by default the source's name + "-audit". `announce` is told, before
    anything is asked, where the ledger has answers in another wording alone.

    Raises UsageError, NotFound, KeyMissing and InputError before anything is asked, and VersionExists where `version`
    is taken and something is left to ask; Interrupted after Ctrl-C; UnderWay where batches are not waited for;
    BudgetSpent; Rejected and Unavailable where the provider gives no answer at all; InputError where no answer can be
    used; StoreError. Whatever is raised, every answer is kept.
    """
    began = time.monotonic()
    settings, options = settings or AuditSettings(), options or AskOptions()
    prices = options.price_list()
    parent = resolve(store, source) if isinstance(source, str) else source
    plan = planned(parent, asked, settings)
    asking.check(asked_judges(plan.plan.judges), options, prices)
    name, version = check_name(out or f"{parent.name}-audit"), version and check_version(version)
    questions = plan.questions()
    with store.stage(name) as stage, Ledger(options.ledger_in(store)) as ledger:
        if settings.max_calls is not None:
            _check_calls(estimate(questions, ledger, options, prices).asked, settings.max_calls)
        store.check_untaken(name, version, lambda: estimate(questions, ledger, options, prices).asked)
        tell_other_wordings(announce, questions, ledger)
        outcomes = asking.ask(questions, ledger, options, prices)
        answers = read(plan, ledger, settings.alpha)
        bill = bill_of(questions.judges, answers.tally, prices)
        committed = _commit(stage, version, parent, plan, answers, bill)
    return AuditReport(
        committed=committed,
        outcomes=outcomes,
        calls=questions.total,
        failures=by_number(answers.tally),
        bill=bill,
        warnings=[*remarks(plan.plan), *asking_warnings(outcomes)],
        seconds=round(time.monotonic() - began, 3),
        episodes=len(plan.episodes),
        repaired=answers.tally.repaired,
        unusable=answers.tally.unusable,
        verdict=answers.verdict,
        labels=len(answers.labels),
    )


def estimate_audit(
    store: Store,
    source: str,
    asked: Elicitation,
    settings: AuditSettings | None = None,
    options: AskOptions | None = None,
) -> JudgedEstimate:
    """What `audit` would ask and cost with the same arguments. Sends no request and needs no API key."""
    options = options or AskOptions()
    prices = options.price_list()
    with without_api_keys():
        plan = planned(resolve(store, source), asked, settings or AuditSettings())
    with Ledger(options.ledger_in(store)) as ledger:
        questions = plan.questions()
        return judged_estimate(estimate(questions, ledger, options, prices), questions, ledger)


def read(plan: AuditPlan, ledger: Ledger, alpha: float = ALPHA) -> AuditAnswers:
    """What the ledger says, and the verdict on it. What was not asked about, for lack of an episode score, is neither a
    label nor a failure. Sends no request. Raises InputError where no answer can be used."""
    tally = LabelTally()
    labels: list[Attribution] = []
    failures: list[Failure] = []
    for new_labels, new_failures in plan.questions().rows(ledger, tally):
        labels += new_labels
        failures += [failure for failure in new_failures if failure.judge is not None]
    tally.failures.clear()
    tally.failures.update(failure.reason for failure in failures)
    if not labels:
        reason = next(iter(tally.failures), "it was not asked")
        raise InputError(
            f"The judge {plan.judge.id!r} gave no answer that can be used ({reason}).",
            "label a few episodes with this judge first, and see what it answers",
        )
    return AuditAnswers(_verdict(plan, labels, alpha), labels, failures, tally)


def _check_calls(needed: int, allowed: int) -> None:
    if needed > allowed:
        raise UsageError(
            f"The audit needs {needed:,} calls, but --max-calls allows only {allowed:,}.",
            "ask about fewer --episodes, pack them with --ask packed, or raise --max-calls",
        )


def _verdict(plan: AuditPlan, labels: Sequence[Attribution], alpha: float) -> Verdict:
    values: dict[Key, float] = {
        (label.episode_id, label.agent, label.turn, label.dimension, label.sample): label.raw for label in labels
    }
    scales = {(label.scale_min, label.scale_max) for label in labels}
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
    stage: Stage, version: str | None, parent: Version, plan: AuditPlan, answers: AuditAnswers, bill: Bill
) -> Committed:
    """The version: every episode as it was asked about, in the split of its original."""
    import pyarrow as pa

    from sotopia_rl_data.tables import EPISODES, attribution_table, episode_row, failure_table

    split_of = splits_of(parent)
    split_of |= {probed.episode.episode_id: split_of[probed.original] for probed in plan.probed}
    by_split: dict[str, list[Episode]] = {}
    for episode in (*plan.episodes, *(probed.episode for probed in plan.probed)):
        by_split.setdefault(split_of[episode.episode_id], []).append(replace(episode, observations=(), reasoning=""))
    for split, episodes in by_split.items():
        labels = [label for label in answers.labels if split_of[label.episode_id] == split]
        failures = [failure for failure in answers.failures if split_of[str(failure.episode_id)] == split]
        stage.write("episodes", split, pa.Table.from_pylist([episode_row(e) for e in episodes], schema=EPISODES))
        stage.write("attributions", split, attribution_table(labels))
        stage.write("failures", split, failure_table(failures))
    details = provenance(
        parent, plan.plan, answers.tally, bill, {"command": "audit", "audit": answers.verdict.as_dict()}
    )
    return stage.commit(recipe=plan.recipe(), provenance=details, version=version)


# --- the plan ---------------------------------------------------------------------------------------------------------


def planned(version: Version, elicitation: Elicitation, settings: AuditSettings) -> AuditPlan:
    """The audit of a judge on episodes drawn from the version. What is None in `elicitation` is taken from the labels
    that `version` holds, so that their answers are found in the ledger; without labels, from the defaults of `label`.

    Raises UsageError, KeyMissing, InputError before anything is asked.
    """
    if "episodes" not in version.manifest.configs:
        raise UsageError(
            f"{version.ref} holds no episodes, but an audit asks about episodes.",
            "name a dataset of dialogues: sotopia-rl-data list",
        )
    if settings.episodes < 2:
        raise UsageError(
            f"An audit needs at least two episodes, but --episodes is {settings.episodes}.", "draw more: --episodes 100"
        )
    unknown = [name for name in settings.probes or () if name not in PROBES]
    if unknown:
        raise UsageError(f"{unknown[0]!r} is not a probe.", f"name one of: {', '.join(PROBES)}")
    plan = _label_plan(version, elicitation)
    files = [path for paths in version.files("episodes").values() for path in paths]
    drawn = tuple(_drawn(plan, episodes_of(files), settings.episodes, settings.seed))
    if len(drawn) < 2:
        scored = f" and have a score by {plan.evaluator} on {' or '.join(plan.dimensions)}" if plan.needs_score else ""
        raise InputError(
            f"An audit needs at least two episodes that can be asked about, but {version.ref} has {len(drawn)}.",
            f"name a dataset with more episodes in which two agents act{scored}",
        )
    probes = tuple(name for name in PROBES if settings.probes is None or name in settings.probes)
    changed = (PROBES[name](episode, settings.seed) for episode in drawn for name in probes)
    return AuditPlan(plan, probes, settings.seed, drawn, tuple(probed for probed in changed if probed is not None))


def _label_plan(version: Version, elicitation: Elicitation) -> LabelPlan:
    """What the judge is asked: what `elicitation` names, else what the labels of `version` were made by."""
    recipe = version.manifest.recipe
    before: Mapping[str, Any] = recipe.get("labels") or {}
    chosen = find_schema(elicitation.schema or _schema_before(version, before))
    # The labels of before there were several wordings were asked for in the first.
    was = before.get("wording", FIRST) if before.get("judges") and wording_of(chosen) else None
    chosen = in_wording(chosen, elicitation.wording or was)
    if not chosen.needs_judge:
        raise UsageError(
            f"The schema {chosen.id!r} asks no judge, so there is nothing to audit.",
            "name a schema that asks judges: --schema direct",
        )
    own = own_dimensions(chosen)
    known = own or [dimension.name for dimension in SOTOPIA_EVAL]
    labelled = [name for name in before.get("dimensions", ()) if name in known]
    dimensions = dimensions_of(elicitation.dimensions or labelled or own or DEFAULT_DIMENSIONS, own)
    scale = elicitation.scale or recipe.get("scale") or DEFAULT_SCALE
    chosen.wording_sha256(scale)  # raises UsageError where no prompt explains this scale
    files = [path for paths in version.files("episodes").values() for path in paths]
    named = elicitation.evaluator or before.get("evaluator") or None
    needs_score = getattr(chosen, "needs_score", True)
    evaluator = choose_evaluator(evaluators(files, dimensions), named, dimensions, needs_score)
    judges = judges_of(elicitation.judges, elicitation.sampling, own)
    if len(judges) > 1:
        raise UsageError(f"An audit probes one judge, but {len(judges)} are named.", "audit one --judge at a time")
    packing = elicitation.packing or before.get("ask", "per-dimension")
    return LabelPlan(chosen, dimensions, evaluator, judges, scale, packing)


def _schema_before(version: Version, before: Mapping[str, Any]) -> str:
    """The schema of the labels. Raises UsageError where it is a rubric, whose file the version does not name."""
    schema_id = str(before.get("schema", "direct"))
    if schema_id.startswith(PREFIX):
        name = schema_id.removeprefix(PREFIX)
        raise UsageError(
            f"{version.ref} was labelled by the rubric {name!r}, but it does not hold the rubric's file.",
            "name the file: --schema rubric:FILE.yaml",
        )
    return schema_id


def _drawn(plan: LabelPlan, episodes: Iterable[Episode], count: int, seed: int) -> list[Episode]:
    """Some of the episodes that can be asked about, drawn by the seed; in order of their ids."""

    def can_be_asked(episode: Episode) -> bool:
        return len({turn.agent for turn in episode.turns}) > 1 and any(True for _ in plan.questions(episode))

    eligible = [episode for episode in episodes if can_be_asked(episode)]
    eligible.sort(key=lambda e: hashlib.sha256(f"{seed}\0{e.episode_id}".encode()).digest())
    return sorted(eligible[:count], key=lambda e: e.episode_id)


def splits_of(version: Version) -> dict[str, str]:
    """The split of each episode, by its id."""
    import pyarrow.parquet as pq

    return {
        episode: split
        for split, files in version.files("episodes").items()
        for episode in chain.from_iterable(
            pq.read_table(path, columns=["episode_id"]).column(0).to_pylist() for path in files
        )
    }
