"""`label --schema counterfactual` and `--schema shapley`: credit by playing dialogues anew and judging their ends.

    play      what counterfactual.py or coalitions.py wants played                branching.py, rollouts/, asking/
    judge     the ends, on the dimensions asked, as `evaluate` judges              labelers/evaluation
    credit    the differences, each an opinion of the schema                       counterfactual.py, coalitions.py
    reward    their mean; `spread` / √n_opinions is its standard error             replay_rows.py, rewards/

Every answer of a policy or judge is in the ledger before it is read: a run that was killed goes on where it stopped.
The plays are kept as a dataset of their own, with the judge's scores, so that a number can be looked into.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np

from sotopia_rl_data.asking import ask as asking
from sotopia_rl_data.asking.ask import bill_of
from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.asking.report import RunReport, asking_warnings
from sotopia_rl_data.code import code
from sotopia_rl_data.costs.bill import Bill, Tally
from sotopia_rl_data.credit.branching import (
    Asking,
    BranchPlan,
    CreditDraw,
    Gaps,
    Juncture,
    PlaySettings,
    ReplaySettings,
    Scores,
    junctures,
)
from sotopia_rl_data.credit.coalitions import Coalitions, ShapleySettings
from sotopia_rl_data.credit.counterfactual import Alternatives
from sotopia_rl_data.credit.replay_rows import ReplayedVersion, width
from sotopia_rl_data.credit.replaying import CreditEstimate, Floats, mean_of
from sotopia_rl_data.errors import AskingError, UsageError
from sotopia_rl_data.labelers.evaluation.evaluating import evaluate
from sotopia_rl_data.labelers.plan import Elicitation, dimensions_of, episodes_of, judges_of
from sotopia_rl_data.labelers.requests import asked_judges
from sotopia_rl_data.labelers.selection import Selection, episodes_version
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Outcome
from sotopia_rl_data.refs import check_name
from sotopia_rl_data.rollouts.episode_run import EpisodeRun, EpisodeSpec
from sotopia_rl_data.rollouts.rollout import EpisodeChains, Recording
from sotopia_rl_data.schema import Episode, Failure, Turn
from sotopia_rl_data.store import Store, Version


class PlayedCredit(Protocol):
    """What is played and how its scores are credit. `draws` are the opinions that the plays are for, and `failures`
    those that came to nothing before; `unjudged` says of one without a score why it has none."""

    unjudged: str
    failures: list[tuple[CreditDraw, Failure]]

    @property
    def draws(self) -> Sequence[CreditDraw]: ...

    def plays(self, ask: Asking) -> list[EpisodeSpec]: ...

    def gaps(self, scores: Scores, judges: Sequence[str], dimensions: Sequence[str]) -> Gaps: ...


@dataclass(frozen=True, slots=True)
class TurnEstimate:
    """What an utterance changed for its agent on a dimension, in the judge's points, from `draws` differences."""

    episode_id: str
    agent: str
    turn: int
    dimension: str
    judge: str
    draws: int
    estimate: CreditEstimate

    def as_dict(self) -> dict[str, Any]:
        """For JSON, flat."""
        known = asdict(self)
        return {**{name: value for name, value in known.items() if name != "estimate"}, **known["estimate"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport(RunReport):
    """The report: `replays` is the version with the plays and their scores; `turns` were re-played by `plays` plays,
    and `left_out` come after the dialogue's end; `unusable` answers of judges have no scores; `estimates` has a line
    for each turn, dimension and judge."""

    replays: str
    turns: int
    left_out: int
    plays: int
    unusable: int
    estimates: Sequence[TurnEstimate]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        known = RunReport.as_dict(self)
        return known | {"estimates": [one.as_dict() for one in self.estimates]}


def label_by_replaying(
    store: Store,
    source: str | Path | None,
    settings: ReplaySettings | ShapleySettings,
    judged: Elicitation,
    *,
    only: Selection | None = None,
    out: str | None = None,
    options: AskOptions | None = None,
) -> ReplayReport:
    """Re-play the turns of `source`'s episodes (all, or those that `only` names; for Shapley values all turns of the
    agents that have one) and commit their credit and rewards.

    `judged` names the judges of the ends and the dimensions (default: goal). A budget is one cap over draws, plays and
    judges. Raises UsageError, NotFound and KeyMissing before anything is asked; then what `rollout` and `evaluate`
    raise.
    """
    began = time.monotonic()
    options = options or AskOptions()
    dimensions = dimensions_of(judged.dimensions or ("goal",))
    judges = judges_of(judged.judges, judged.sampling)
    asking.check([*settings.players, *asked_judges(judges)], options, options.price_list())
    parent = episodes_version(store, source, lambda scored: None)
    turns, left_out = chosen_turns(parent, only, settings)
    name = check_name(out or f"{parent.name}-{settings.schema}")
    replay: PlayedCredit = (
        Coalitions(settings, turns) if isinstance(settings, ShapleySettings) else Alternatives(settings, turns)
    )
    run = _Playing(settings, options, options.ledger_in(store))
    with TemporaryDirectory(prefix="sotopia-rl-data-") as folder:
        specs = replay.plays(run.ask)
        scratch = Store(Path(folder))  # plays become a dataset of the store once they have their scores
        unscored = run.play(scratch, f"{name}-plays", specs)
        evaluated = evaluate(scratch, unscored.ref, replace(judged, dimensions=dimensions), options=run.left())
        plays = _taken_over(store, evaluated.committed.version)
    of_judges = [judge.id for judge in judges]
    gaps = replay.gaps(_scores(plays), of_judges, dimensions)
    failures = [*replay.failures, *_without_gap(replay, gaps, of_judges, dimensions)]
    credit = ReplayedVersion(parent, settings, dimensions, judges, gaps, failures)
    asked, judged_bill = [*run.outcomes, *evaluated.outcomes], evaluated.bill
    bill = replace(judged_bill, lines=(*run.bill().lines, *judged_bill.lines))
    committed = credit.commit(store, name, run.bill(), judged_bill)
    return ReplayReport(
        committed=committed,
        outcomes=asked,
        calls=sum(outcome.settled for outcome in asked),
        failures=Counter(failure.reason for _, failure in failures),
        bill=bill,
        warnings=asking_warnings(asked),
        seconds=round(time.monotonic() - began, 3),
        replays=plays.ref,
        turns=len(turns),
        left_out=left_out,
        unusable=evaluated.unusable,
        plays=len(specs),
        estimates=[
            TurnEstimate(draw.episode_id, draw.agent, draw.turn, name, judge, len(each), mean_of(each, width(name)))
            for (draw, name, judge), each in _by_turn(gaps).items()
            if len(each) > 1
        ],
    )


def chosen_turns(
    parent: Version, only: Selection | None, settings: ReplaySettings | ShapleySettings
) -> tuple[list[Juncture], int]:
    """The turns to re-play, and how many others were named that come after the dialogue's end by the rules. Raises
    UsageError where one cannot be re-played, or there is none."""
    chosen, asked, whole = list[Juncture](), 0, isinstance(settings, ShapleySettings)
    for split, files in parent.files("episodes").items():
        for episode in episodes_of(files):
            wanted = _named(episode, only)
            if whole:
                agents = {turn.agent for turn in wanted}
                wanted = [turn for turn in episode.turns if turn.agent in agents]
            asked += len(wanted)
            chosen += junctures(episode, split, wanted, settings.rules, whole=whole) if wanted else ()
    if asked and not chosen:
        raise UsageError(
            "By these rules the dialogue was over before every turn that was named.", "name others with --only"
        )
    if not asked:
        raise UsageError("The list of --only names no turn of these episodes.", "compare the list with the episodes")
    return chosen, asked - len(chosen)


def _named(episode: Episode, only: Selection | None) -> list[Turn]:
    return [turn for turn in episode.turns if only is None or only.names(episode.episode_id, turn.agent, turn.turn)]


class _Playing:
    """The rounds in which policies are asked, and what they cost."""

    def __init__(self, settings: PlaySettings, options: AskOptions, ledger: Path) -> None:
        self._settings, self._options, self._prices = settings, replace(options, ledger=ledger), options.price_list()
        self._ledger, self._tally = ledger, Tally()
        self.outcomes: list[Outcome] = []

    def left(self) -> AskOptions:
        """The options, with what is spent of the budget."""
        bill = self.bill()
        return replace(self._options, spent=bill.known + bill.maybe)

    def bill(self) -> Bill:
        """What the policies cost, a line for each."""
        return bill_of(self._settings.players, self._tally, self._prices)

    def ask(self, specs: Sequence[EpisodeSpec], take: Callable[[EpisodeRun], None]) -> None:
        """Play the dialogues that have turns left, and hand each on as it ends."""
        with Ledger(self._ledger) as ledger:
            chains = EpisodeChains(BranchPlan(self._settings, tuple(specs)), ledger, take)
            left, chains.tally = self.left(), self._tally
            self.outcomes += asking.ask(chains, ledger, left, self._prices)

    def play(self, store: Store, name: str, specs: Sequence[EpisodeSpec]) -> Version:
        """Play the dialogues, and commit them to `store`. Raises AskingError where none comes to its end."""
        settings = self._settings
        with store.stage(name) as stage:
            recording = Recording(stage)
            for run in BranchPlan(settings, tuple(specs)).ended():
                recording.add(run)
            self.ask(specs, recording.add)
            recording.finish()
            if not recording.episodes:
                raise AskingError(f"No play came to an end: {recording.first_reason}.", "see what the policy answers")
            recipe = {"kind": "rollouts", "seed": 0, "replay": settings.recipe()}
            return stage.commit(recipe, recording.provenance() | {"code": code()}).version


def _taken_over(store: Store, version: Version) -> Version:
    """The version in `store`."""
    with store.stage(version.name) as stage:
        for config in version.manifest.configs:
            stage.link(version, config)
        return stage.commit(version.manifest.recipe, version.manifest.provenance).version


def _scores(plays: Version) -> Scores:
    return {
        (episode.episode_id, score.agent, score.dimension, score.evaluator): score.score
        for files in plays.files("episodes").values()
        for episode in episodes_of(files)
        for score in episode.scores
    }


def _without_gap(
    replay: PlayedCredit, gaps: Gaps, judges: Sequence[str], dimensions: Sequence[str]
) -> list[tuple[CreditDraw, Failure]]:
    """A failure for each draw, dimension and judge without a difference."""
    return [
        (draw, Failure(replay.unjudged, draw.episode_id, draw.agent, draw.turn, dimension, judge, draw.call_id))
        for draw, dimension, judge in product(replay.draws, dimensions, judges)
        if (draw, dimension, judge) not in gaps
    ]


def _by_turn(gaps: Gaps) -> dict[tuple[Juncture, str, str], Floats]:
    """The differences of each turn, dimension and judge."""
    found: dict[tuple[Juncture, str, str], list[float]] = {}
    for (draw, dimension, judge), gap in gaps.items():
        found.setdefault((draw.juncture, dimension, judge), []).append(gap)
    return {key: np.array(each) for key, each in found.items()}
