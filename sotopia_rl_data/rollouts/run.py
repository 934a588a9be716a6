"""rollout(): scenes and two policies in, a version of episodes out. The only loop that plays.

    plan      which episodes, who plays whom; everything that can be wrong      plan.py
    play      each episode a chain of requests, hundreds in flight              episode_run.py, sotopia_rl_data/asking
    commit    episodes, the prompts and completions as served, failures         sotopia_rl_data/store

Every raw answer is durable before it is read, and what is played is a function of (scenes, plan, ledger): a run that
was killed plays again from the ledger what was answered (`replay`), and asks on from there. Leaves out what
a command prints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sotopia_rl_data.asking import run as asking
from sotopia_rl_data.asking.plan import AskOptions, Group
from sotopia_rl_data.asking.report import RunReport, uncached
from sotopia_rl_data.asking.run import bill_of
from sotopia_rl_data.code import code
from sotopia_rl_data.costs.bill import Tally
from sotopia_rl_data.costs.prices import load
from sotopia_rl_data.errors import AskingError, UsageError
from sotopia_rl_data.ledger.attempt import Attempt
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Settled
from sotopia_rl_data.refs import check_name
from sotopia_rl_data.request import Reply, Request
from sotopia_rl_data.rollouts.episode_run import EpisodeRun, EpisodeSpec, Rules, TurnRequest
from sotopia_rl_data.rollouts.plan import RolloutPlan
from sotopia_rl_data.rollouts.players import Local, Player, is_model, player
from sotopia_rl_data.rollouts.policies import Policy
from sotopia_rl_data.rollouts.recording import Recording
from sotopia_rl_data.rollouts.scene import Scene
from sotopia_rl_data.store import Store, versions

DEFAULT_A, DEFAULT_B = "scripted:warm", "scripted:firm"


def plan_of(
    scenes: Iterable[Scene],
    rules: Rules | None = None,
    *,
    a: str | Policy | Player = DEFAULT_A,
    b: str | Policy | Player = DEFAULT_B,
    swap: bool = False,
    repeat: int = 1,
    sampling: Mapping[str, Any] | None = None,
    local: Local | None = None,
) -> RolloutPlan:
    """Which episodes are played, by whom and how. Everything that can be wrong with it is found here.

    `a` and `b` are policies by name (`players.py`) or callables. `swap` plays each scene with `a` in every place;
    `repeat` plays each that often. `rules` is the same for all episodes: the turn limit, the dialect, the seed, best-of
    N. `sampling` (temperature, max_tokens …) is laid over the models' defaults. `local` makes players of
    `transformers:…`. Raises UsageError, and KeyMissing where a provider wants a key.
    """
    rules = rules or Rules()
    first = player(a, sampling, seed=rules.seed, local=local)
    second = first if a == b else player(b, sampling, seed=rules.seed, local=local)
    if sampling and not (is_model(first) or is_model(second)):
        raise UsageError(f"Neither {first.id} nor {second.id} samples.", f"leave {', '.join(sampling)} out")
    return RolloutPlan(tuple(scenes), first, second, rules, swap, repeat)


def rollout(
    store: Store,
    plan: RolloutPlan,
    out: str,
    *,
    version: str | None = None,
    options: AskOptions | None = None,
) -> RolloutReport:
    """Play every episode of the plan and commit them as the next version of `out` (ORG/NAME). `options` says how the
    policies are asked; its `concurrency` bounds the episodes in flight.

    Raises UsageError, and VersionExists where `version` is taken and something is left to play, before anything is
    asked; Interrupted after Ctrl-C; BudgetSpent; Rejected and Unavailable where a provider answers nothing; AskingError
    where no episode came to an end; StoreError. Whatever is raised, the store's versions are as they were and every
    answer is kept. An episode in which a policy could not be asked is left out, and listed in `failures`.
    """
    began = time.monotonic()
    options = options or AskOptions()
    name = check_name(out)
    version = version and versions.check(version)  # now, and not when everything is played
    prices = load(options.prices)
    asking.check(plan.players(), options, prices)
    with store.stage(name) as stage, Ledger(options.ledger_in(store.root)) as kept:
        store.check_untaken(name, version, partial(unfinished, plan, kept), "episodes")
        recording = Recording(stage)
        chains = EpisodeChains(plan, kept, recording.add)
        outcomes = asking.ask(chains, kept, options, prices)
        recording.finish()
        if not recording.episodes:
            raise AskingError(f"No episode came to an end: {recording.first_reason}.", "see what the policy answers")
        committed = stage.commit(plan.recipe(), recording.provenance() | {"code": code()}, version)
    return RolloutReport(
        committed=committed,
        outcomes=outcomes,
        calls=sum(one.settled for one in outcomes),
        failures=dict(recording.reasons.most_common()),
        bill=bill_of(plan.players(), chains.tally, prices),
        warnings=uncached(outcomes),
        seconds=round(time.monotonic() - began, 3),
        planned=len(plan),
        episodes=recording.episodes,
        utterances=recording.utterances,
        abandoned=recording.abandoned,
        failed_turns=recording.failed_turns,
        ended=dict(recording.ended.most_common()),
    )


class EpisodeChains:
    """An `asking.plan.Plan`: each episode is a chain of requests. `on_end` is told of each that is over; `tally` counts
    what they took."""

    unit = "episodes"

    def __init__(self, plan: RolloutPlan, ledger: Ledger, on_end: Callable[[EpisodeRun], None]) -> None:
        self._plan, self._ledger, self._on_end = plan, ledger, on_end
        self.total, self.tally = len(plan), Tally()
        self._answered_twice: set[str] = set()  # episodes with several answers to one request

    def groups(self) -> list[Group]:
        """All of them at once: who plays whom is for each request to know."""
        return [Group(tuple(self._plan.players()), self._first_requests, _send)]

    def accepts(self, request: Request, reply: Reply, ledger: Ledger) -> bool:
        """Whether a reply can be used by its episode."""
        turn_request = _turn_request(request)
        return turn_request.run.accepts(turn_request, reply)

    def follow_up(self, request: Request, settled: Settled) -> Request | None:
        """The next request of the episode; where it is over, `on_end` is told."""
        turn_request = _turn_request(request)
        run = turn_request.run
        attempts = count_attempts(turn_request, self._ledger, self.tally, settled)
        if sum(one.status == "answer" for one in attempts) > 1:
            self._answered_twice.add(run.spec.episode_id)
        following = run.take(turn_request, settled)
        if following is None:
            if run.spec.episode_id in self._answered_twice:
                count_episode(run.spec, run.rules, self._ledger, self.tally)
            self._on_end(run)
        return following

    def count(self, ledger: Ledger, tally: Tally) -> None:
        """Play every episode again from the ledger, as far as it knows."""
        for spec in self._plan.specs():
            count_episode(spec, self._plan.rules, ledger, tally)

    def _first_requests(self) -> Iterator[Request]:
        for spec in self._plan.specs():
            yield EpisodeRun(spec, self._plan.rules).first()


async def _send(request: Request) -> Reply:
    return await _turn_request(request).player.send(request)


def _turn_request(request: Request) -> TurnRequest:
    if not isinstance(request, TurnRequest):
        raise TypeError(f"a {type(request).__name__} belongs to no episode")
    return request


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutReport(RunReport):
    """Also: of the `planned` episodes, `abandoned` have no end, because somebody could not be asked; `failed_turns` are
    no-ops that stand for answers that could not be read. `ended` counts the `episodes` by why they ended."""

    planned: int
    episodes: int
    utterances: int
    abandoned: int
    failed_turns: int
    ended: Mapping[str, int]


def count_attempts(
    request: TurnRequest, ledger: Ledger, tally: Tally, settled: Settled | None = None
) -> Sequence[Attempt]:
    """All attempts at a request, newest first, counted. If one alone settled it, it is not read again."""
    only = settled.attempt if settled is not None and ledger.tries(request.key) == 1 else None
    attempts = [only] if only is not None else ledger.attempts(request.key)
    if tally.first(request.key):
        for one in attempts:
            usable = one.status == "answer" and request.run.accepts(request, one.reply)
            tally.count(request.player.id, request, one, "used" if usable else "failed")
    return attempts


def count_episode(spec: EpisodeSpec, rules: Rules, ledger: Ledger, tally: Tally) -> None:
    """Count the attempts at every request that some answer in the ledger has led to: an earlier run may have played on
    from another answer than the one that counts now, and what it asked was paid for."""
    left: list[list[Settled]] = [[]]  # beginnings of the episode, as the answers that were played
    while left:
        played = left.pop()
        run = EpisodeRun(spec, rules)
        request: TurnRequest | None = run.first()
        for settled in played:
            request = None if request is None else run.take(request, settled)
        while request is not None:
            answers = _answers(request, count_attempts(request, ledger, tally))
            left += [[*played, other] for other in answers[1:]]
            played += answers[:1]
            request = run.take(request, answers[0]) if answers else None


def replay(run: EpisodeRun, attempts: Callable[[TurnRequest], Sequence[Attempt]]) -> TurnRequest | None:
    """Play what `attempts` knows of an episode; the first request that it does not know, None where the episode is
    over."""
    request: TurnRequest | None = run.first()
    while request is not None:
        answers = _answers(request, attempts(request))
        if not answers:
            return request
        request = run.take(request, answers[0])
    return None


def _answers(request: TurnRequest, attempts: Iterable[Attempt]) -> list[Settled]:
    """The answers among the attempts at a request (newest first) that say different things. The first is the one that
    counts: the newest that can be used, else the newest."""
    answers = [one for one in attempts if one.status == "answer"]
    readings = [(one, request.run.reading(request, one.reply)) for one in answers]
    readings.sort(key=lambda pair: pair[1] is None)
    distinct = [pair for place, pair in enumerate(readings) if pair[1] not in [one for _, one in readings[:place]]]
    return [Settled(one, reading is not None, False) for one, reading in distinct]


def unfinished(plan: RolloutPlan, ledger: Ledger) -> int:
    """How many of the plan's episodes the ledger does not know to their end."""
    runs = (EpisodeRun(spec, plan.rules) for spec in plan.specs())
    return sum(replay(run, lambda asked: ledger.attempts(asked.key)) is not None for run in runs)
