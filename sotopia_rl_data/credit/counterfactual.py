"""`label --schema counterfactual`: what each utterance changed, by playing other utterances on to the end.

    draw      K utterances of the policy at each turn                               branching.py, rollouts/, asking/
    play      what was said and each of these, on to the end, M times               the same
    judge     the ends, on the dimensions asked, as `evaluate` judges               labelers/evaluation
    subtract  K differences a turn, each an opinion of the schema `counterfactual`   here
    reward    their mean; `spread` / √K is its standard error                        rewards/

Every answer of a policy or judge is in the ledger before it is read: a run that was killed goes on where it stopped.
The plays are kept as a dataset of their own, with the judge's scores, so that a number can be looked into. The estimand
and its interval are in `replaying.py`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from sotopia_rl_data.asking import ask as asking
from sotopia_rl_data.asking.ask import bill_of
from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.asking.report import RunReport, asking_warnings
from sotopia_rl_data.code import code
from sotopia_rl_data.costs.bill import Bill, Tally
from sotopia_rl_data.credit.branching import BranchPlan, Draw, Juncture, ReplaySettings, action_of, junctures
from sotopia_rl_data.credit.counterfactual_rows import SCHEMA, CounterfactualVersion, width
from sotopia_rl_data.credit.replaying import CreditEstimate, Floats, mean_of
from sotopia_rl_data.errors import AskingError, UsageError
from sotopia_rl_data.labelers.evaluation.evaluating import evaluate
from sotopia_rl_data.labelers.plan import Elicitation, dimensions_of, episodes_of, judges_of
from sotopia_rl_data.labelers.requests import asked_judges
from sotopia_rl_data.labelers.selection import Selection, episodes_version
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Outcome
from sotopia_rl_data.refs import check_name
from sotopia_rl_data.rollouts.actions import Action
from sotopia_rl_data.rollouts.episode_run import EpisodeRun, EpisodeSpec
from sotopia_rl_data.rollouts.rollout import EpisodeChains, Recording
from sotopia_rl_data.schema import Failure
from sotopia_rl_data.store import Store, Version

_UNJUDGED = "no pair of plays has both scores"


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
    settings: ReplaySettings,
    judged: Elicitation,
    *,
    only: Selection | None = None,
    out: str | None = None,
    options: AskOptions | None = None,
) -> ReplayReport:
    """Re-play the turns of `source`'s episodes (all, or those that `only` names) and commit their credit and rewards.

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
    name = check_name(out or f"{parent.name}-{SCHEMA}")
    run = _Replaying(settings, turns, replace(options, ledger=options.ledger_in(store.root)))
    with TemporaryDirectory(prefix="sotopia-rl-data-") as folder:
        run.draw()
        scratch = Store(Path(folder))  # plays become a dataset of the store once they have their scores
        unscored = run.play(scratch, f"{name}-plays")
        evaluated = evaluate(scratch, unscored.ref, replace(judged, dimensions=dimensions), options=run.left())
        plays = _taken_over(store, evaluated.committed.version)
    gaps = _gaps(run.pairs, _scores(plays), [judge.id for judge in judges], dimensions)
    failures = [*run.failures, *_without_gap(run.pairs, gaps, [judge.id for judge in judges], dimensions)]
    credit = CounterfactualVersion(parent, settings, dimensions, judges, gaps, failures)
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
        plays=2 * sum(map(len, run.pairs.values())),
        estimates=[
            TurnEstimate(draw.episode_id, draw.agent, draw.turn, name, judge, len(each), mean_of(each, width(name)))
            for (draw, name, judge), each in _by_turn(gaps).items()
            if len(each) > 1
        ],
    )


def chosen_turns(parent: Version, only: Selection | None, settings: ReplaySettings) -> tuple[list[Juncture], int]:
    """The turns to re-play, and how many others were named that come after the dialogue's end by the rules. Raises
    UsageError where one cannot be re-played, or there is none."""
    chosen, asked = list[Juncture](), 0
    for split, files in parent.files("episodes").items():
        for episode in episodes_of(files):
            wanted = [t for t in episode.turns if only is None or only.names(episode.episode_id, t.agent, t.turn)]
            asked += len(wanted)
            chosen += junctures(episode, split, wanted, settings.rules) if wanted else ()
    if asked and not chosen:
        raise UsageError(
            "By these rules the dialogue was over before every turn that was named.", "name others with --only"
        )
    if not asked:
        raise UsageError("The list of --only names no turn of these episodes.", "compare the list with the episodes")
    return chosen, asked - len(chosen)


class _Replaying:
    """The two rounds in which policies are asked, and what they cost. `pairs` has the ids of the M plays of what was
    said and of what was drawn, for each draw; `failures` what could not be drawn."""

    def __init__(self, settings: ReplaySettings, turns: Sequence[Juncture], options: AskOptions) -> None:
        self._settings, self._turns = settings, turns
        self._options, self._prices = options, options.price_list()
        self._drawn: dict[Draw, Action] = {}
        self._tally = Tally()
        self.pairs: dict[Draw, list[tuple[str, str]]] = {}
        self.outcomes: list[Outcome] = []
        self.failures: list[tuple[Draw, Failure]] = []

    def left(self) -> AskOptions:
        """The options, with what is spent of the budget."""
        bill = self.bill()
        return replace(self._options, spent=bill.known + bill.maybe)

    def bill(self) -> Bill:
        """What the policies cost, a line for each."""
        return bill_of(self._settings.players, self._tally, self._prices)

    def draw(self) -> None:
        """Have the policy speak K times at every turn."""
        settings = self._settings
        specs = [(turn, k, turn.draw(settings, k)) for turn in self._turns for k in range(settings.alternatives)]
        draws = {
            spec.episode_id: Draw(turn, k, EpisodeRun(spec, settings.rules).first().key) for turn, k, spec in specs
        }

        def take(run: EpisodeRun) -> None:
            draw = draws[run.spec.episode_id]
            if run.failures:  # the policy could not be asked, or said nothing that can be read
                told = run.failures[0]
                failure = replace(told, episode_id=draw.episode_id, agent=draw.agent, turn=draw.turn)
                self.failures.append((draw, failure))
            else:
                self._drawn[draw] = action_of(run.episode().turns[-1])

        self._ask([spec for *_, spec in specs], take)

    def play(self, store: Store, name: str) -> Version:
        """Play on what was said and what was drawn, and commit the plays to `store`. Raises AskingError where nothing
        was drawn."""
        settings, specs = self._settings, list[EpisodeSpec]()
        for draw, action in self._drawn.items():
            self.pairs[draw] = []
            for m in range(settings.rollouts):
                said = draw.juncture.play(settings, "said", draw.juncture.said, draw.k, m)
                other = draw.juncture.play(settings, "drawn", action, draw.k, m)
                specs += [said, other]
                self.pairs[draw].append((said.episode_id, other.episode_id))
        if not specs:
            reason = self.failures[0][1].reason if self.failures else "none was asked for"
            raise AskingError(f"The policy drew no utterance that can be played on: {reason}.", "see what it answers")
        with store.stage(name) as stage:
            recording = Recording(stage)
            for run in BranchPlan(settings, tuple(specs)).ended():
                recording.add(run)
            self._ask(specs, recording.add)
            recording.finish()
            if not recording.episodes:
                raise AskingError(f"No play came to an end: {recording.first_reason}.", "see what the policy answers")
            recipe = {"kind": "rollouts", "seed": 0, "replay": settings.recipe()}
            return stage.commit(recipe, recording.provenance() | {"code": code()}).version

    def _ask(self, specs: Sequence[EpisodeSpec], take: Callable[[EpisodeRun], None]) -> None:
        with Ledger(self._options.ledger_in(Path())) as ledger:
            chains = EpisodeChains(BranchPlan(self._settings, tuple(specs)), ledger, take)
            left, chains.tally = self.left(), self._tally
            self.outcomes += asking.ask(chains, ledger, left, self._prices)


def _taken_over(store: Store, version: Version) -> Version:
    """The version in `store`."""
    with store.stage(version.name) as stage:
        for config in version.manifest.configs:
            stage.link(version, config)
        return stage.commit(version.manifest.recipe, version.manifest.provenance).version


Scores = Mapping[tuple[str, str, str, str], float]
"""By the id of the play, the agent, the dimension and the evaluator."""


def _scores(plays: Version) -> Scores:
    return {
        (episode.episode_id, score.agent, score.dimension, score.evaluator): score.score
        for files in plays.files("episodes").values()
        for episode in episodes_of(files)
        for score in episode.scores
    }


def _gaps(
    pairs: Mapping[Draw, Sequence[tuple[str, str]]], scores: Scores, judges: Sequence[str], dimensions: Sequence[str]
) -> dict[tuple[Draw, str, str], float]:
    """For each draw, dimension and judge, the mean difference of the scores of what was said and of what was drawn,
    over the plays of which both ends are judged; none where no pair is."""
    found = {}
    for (draw, names), dimension, judge in product(pairs.items(), dimensions, judges):
        ends = [[scores.get((play, draw.agent, dimension, judge)) for play in pair] for pair in names]
        whole = [said - other for said, other in ends if said is not None and other is not None]
        if whole:
            found[draw, dimension, judge] = float(np.mean(whole))
    return found


def _without_gap(
    draws: Iterable[Draw], gaps: Container[tuple[Draw, str, str]], judges: Sequence[str], dimensions: Sequence[str]
) -> list[tuple[Draw, Failure]]:
    """A failure for each draw, dimension and judge without a difference."""
    return [
        (draw, Failure(_UNJUDGED, draw.episode_id, draw.agent, draw.turn, dimension, judge, draw.call_id))
        for draw, dimension, judge in product(draws, dimensions, judges)
        if (draw, dimension, judge) not in gaps
    ]


def _by_turn(gaps: Mapping[tuple[Draw, str, str], float]) -> dict[tuple[Juncture, str, str], Floats]:
    """The differences of each turn, dimension and judge."""
    found: dict[tuple[Juncture, str, str], list[float]] = {}
    for (draw, dimension, judge), gap in gaps.items():
        found.setdefault((draw.juncture, dimension, judge), []).append(gap)
    return {key: np.array(each) for key, each in found.items()}
