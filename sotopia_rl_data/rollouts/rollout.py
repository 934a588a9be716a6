"""rollout(): scenes and two policies in, a version of episodes out. The only loop that plays.

    plan      which episodes, who plays whom; checks everything that can be wrong    plan.py
    play      each episode is a chain of requests, hundreds in flight                episode_run.py, asking/
    commit    episodes, prompts and completions as served, scores, failures          Recording, store/

Every raw answer is durable before it is read, and the episodes are a function of (scenes, plan, ledger): after a run
was killed, the next one replays the answers in the ledger and asks only for the rest. Leaves out what a command prints.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa

from sotopia_rl_data import tables
from sotopia_rl_data.asking import ask as asking
from sotopia_rl_data.asking.ask import bill_of
from sotopia_rl_data.asking.plan import AskOptions, Group
from sotopia_rl_data.asking.providers import ModelName
from sotopia_rl_data.asking.report import AskedReport, RunReport, asking_warnings
from sotopia_rl_data.code import code
from sotopia_rl_data.costs.bill import Tally
from sotopia_rl_data.errors import AskingError, UsageError
from sotopia_rl_data.ledger.attempt import Attempt
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Settled
from sotopia_rl_data.refs import check_name
from sotopia_rl_data.request import Reply, Request
from sotopia_rl_data.rollouts.episode_run import EpisodeRun, EpisodeSpec, Rules, TurnRequest
from sotopia_rl_data.rollouts.plan import EpisodePlan, RolloutPlan
from sotopia_rl_data.rollouts.policies import Local, Player, Policy, is_model, player
from sotopia_rl_data.rollouts.scene import Scene
from sotopia_rl_data.schema import Attribution, split_of
from sotopia_rl_data.shards import WHOLE, Shard
from sotopia_rl_data.store import Store, versions
from sotopia_rl_data.store.stage import Stage

DEFAULT_A, DEFAULT_B = "scripted:warm", "scripted:firm"


def plan_of(
    scenes: Iterable[Scene],
    rules: Rules | None = None,
    *,
    a: str | ModelName | Policy | Player = DEFAULT_A,
    b: str | ModelName | Policy | Player = DEFAULT_B,
    swap: bool = False,
    repeat: int = 1,
    sampling: Mapping[str, Any] | None = None,
    local: Local | None = None,
) -> RolloutPlan:
    """Which episodes are played, by which policies and rules. Everything that can be wrong with them is found here.

    `a` and `b` are policies by name (`policies.py`) or callables. `swap` plays each scene with `a` in every place;
    `repeat` plays each so many times. `rules` hold for all episodes: the turn limit, the dialect, the seed, best-of-N.
    `sampling` (temperature, max_tokens …) overrides the models' defaults. `local` makes players of `transformers:…`.
    Raises UsageError, and KeyMissing where a provider needs a key.
    """
    rules = rules or Rules()
    first = player(a, sampling, seed=rules.seed, local=local)
    second = first if a == b else player(b, sampling, seed=rules.seed, local=local)
    if sampling and not (is_model(first) or is_model(second)):
        raise UsageError(
            f"Neither {first.id} nor {second.id} is a model that {', '.join(sampling)} could apply to.",
            f"leave {', '.join(sampling)} out",
        )
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
    policies are asked; its `concurrency` is the largest number of episodes in flight.

    Before anything is asked, raises UsageError, and VersionExists where `version` is taken and an episode is left to
    play. Then raises Interrupted after Ctrl-C; BudgetSpent; Rejected and Unavailable where a provider gives no answer;
    AskingError where no episode came to an end; StoreError. After an error the store's versions are unchanged and every
    answer is kept. An episode in which a policy could not be asked is left out, and listed in `failures`.
    """
    began = time.monotonic()
    options = options or AskOptions()
    name = check_name(out)
    if version:
        version = versions.check(version)  # before anything is played, not after
    prices = options.price_list()
    asking.check(plan.players(), options, prices)
    with store.stage(name) as stage, Ledger(options.ledger_in(store)) as ledger:
        store.check_untaken(name, version, partial(unfinished, plan, ledger), "episodes")
        recording = Recording(stage)
        chains = EpisodeChains(plan, ledger, recording.add)
        outcomes = asking.ask(chains, ledger, options, prices)
        recording.finish()
        if not recording.episodes:
            raise AskingError(f"No episode came to an end: {recording.first_reason}.", "see what the policy answers")
        committed = stage.commit(plan.recipe(), recording.provenance() | {"code": code()}, version)
    return RolloutReport(
        committed=committed,
        outcomes=outcomes,
        calls=sum(outcome.settled for outcome in outcomes),
        failures=dict(recording.reasons.most_common()),
        bill=bill_of(plan.players(), chains.tally, prices),
        warnings=asking_warnings(outcomes),
        seconds=round(time.monotonic() - began, 3),
        planned=len(plan),
        episodes=recording.episodes,
        utterances=recording.utterances,
        abandoned=recording.abandoned,
        failed_turns=recording.failed_turns,
        ended=dict(recording.ended.most_common()),
    )


def ask_rollout(
    store: Store, plan: RolloutPlan, *, shard: Shard = WHOLE, options: AskOptions | None = None
) -> AskedReport:
    """Play the episodes of `shard`, keep the answers and make no version: `rollout` does that when the ledgers of all
    shards are merged. Raises what `rollout` raises; nothing but the ledger is written."""
    began = time.monotonic()
    options = options or AskOptions()
    prices = options.price_list()
    asking.check(plan.players(), options, prices)
    reasons: Counter[str] = Counter()
    with Ledger(options.ledger_in(store)) as ledger:

        def note(run: EpisodeRun) -> None:
            reasons.update(failure.reason for failure in run.failures)

        chains = EpisodeChains(plan, ledger, note, shard)
        outcomes = asking.ask(chains, ledger, options, prices)
        return AskedReport(
            outcomes=outcomes,
            calls=sum(outcome.settled for outcome in outcomes),
            failures=dict(reasons.most_common()),
            bill=bill_of(plan.players(), chains.tally, prices),
            warnings=asking_warnings(outcomes),
            seconds=round(time.monotonic() - began, 3),
            shard=str(shard),
            episodes=chains.total,
            ledger=ledger.address,
        )


class TurnRequests:
    """What a plan whose requests are turns of episodes knows of their answers."""

    def accepts(self, request: Request, reply: Reply, ledger: Ledger) -> bool:
        """Whether a reply can be used by its episode."""
        asked = turn_request(request)
        return asked.run.accepts(asked, reply)

    def fault(self, request: Request, reply: Reply) -> str:
        """What is wrong with a reply that has no action or scores."""
        asked = turn_request(request)
        return asked.run.fault(asked, reply)

    async def send(self, request: Request) -> Reply:
        """Send a request to the policy that it is for."""
        return await turn_request(request).player.send(request)


def turn_request(request: Request) -> TurnRequest:
    """The request, as one that knows its episode."""
    if not isinstance(request, TurnRequest):
        raise TypeError(f"a {type(request).__name__} belongs to no episode")
    return request


class EpisodeChains(TurnRequests):
    """An `asking.plan.Plan`: each episode of the shard is a chain of requests. `on_end` is called with each
    episode that is over; `tally` counts the attempts."""

    unit = "episodes"

    def __init__(
        self, plan: EpisodePlan, ledger: Ledger, on_end: Callable[[EpisodeRun], None], shard: Shard = WHOLE
    ) -> None:
        self._plan, self._ledger, self._on_end, self._shard = plan, ledger, on_end, shard
        self._is_ours = shard.of((spec.episode_id, 0) for spec in plan.specs())
        self.total, self.tally = sum(self._is_ours(spec.episode_id) for spec in plan.specs()), Tally()
        self._answered_twice: set[str] = set()  # ids of episodes in which one request has several answers in the ledger

    def groups(self) -> list[Group]:
        """One group of all players: each request knows which of them it is for."""
        return [Group(tuple(self._plan.players()), self._first_requests, self.send)]

    def follow_up(self, request: Request, settled: Settled) -> Request | None:
        """The next request of the episode, or None if it is over: then `on_end` is called."""
        asked = turn_request(request)
        run = asked.run
        attempts = count_attempts(asked, self._ledger, self.tally, settled)
        if len([attempt for attempt in attempts if attempt.status == "answer"]) > 1:
            self._answered_twice.add(run.spec.episode_id)
        next_request = run.take(asked, settled)
        if next_request is None:
            if run.spec.episode_id in self._answered_twice:
                count_episode(run.spec, run.rules, self._ledger, self.tally)
            self._on_end(run)
        return next_request

    def count(self, ledger: Ledger, tally: Tally) -> None:
        """Count the attempts by playing every episode again, as far as the ledger has answers."""
        for spec in self._specs():
            count_episode(spec, self._plan.rules, ledger, tally)

    def parts(self, count: int) -> Iterator[Callable[[Ledger], EpisodeChains]]:
        """What makes the chains of each of `count` shards, anywhere."""
        for number in range(1, count + 1):
            yield partial(EpisodeChains, self._plan, on_end=_ignore, shard=self._shard.part(number, count))

    def _first_requests(self) -> Iterator[Request]:
        for spec in self._specs():
            yield EpisodeRun(spec, self._plan.rules).first()

    def _specs(self) -> Iterator[EpisodeSpec]:
        return (spec for spec in self._plan.specs() if self._is_ours(spec.episode_id))


def _ignore(run: EpisodeRun) -> None:
    """For episodes that are only asked about here: the driver reads them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutReport(RunReport):
    """Adds: of the `planned` episodes, `abandoned` have no end, because a policy could not be asked; `failed_turns`
    counts no-ops in place of unreadable answers; `ended` counts the `episodes` by why they ended."""

    planned: int
    episodes: int
    utterances: int
    abandoned: int
    failed_turns: int
    ended: Mapping[str, int]


def count_attempts(
    request: TurnRequest, ledger: Ledger, tally: Tally, settled: Settled | None = None
) -> Sequence[Attempt]:
    """All attempts at a request, newest first; each is counted in `tally`. The only attempt at a settled request is
    not read from the ledger again."""
    if settled is not None and settled.attempt is not None and ledger.tries(request.key) == 1:
        attempts: Sequence[Attempt] = [settled.attempt]
    else:
        attempts = ledger.attempts(request.key)
    if tally.first(request.key):
        for attempt in attempts:
            usable = attempt.status == "answer" and request.run.accepts(request, attempt.reply)
            tally.count(request.player.id, request, attempt, "used" if usable else "failed")
    return attempts


def count_episode(spec: EpisodeSpec, rules: Rules, ledger: Ledger, tally: Tally) -> None:
    """Count the attempts at every request to which any answer in the ledger has led.

    An earlier run may have played on from another answer than the one that counts now, and its requests were paid for.
    """
    branches: list[list[Settled]] = [[]]  # the answers from the beginning of the episode to where each branch starts
    while branches:
        played = branches.pop()
        run = EpisodeRun(spec, rules)
        request: TurnRequest | None = run.first()
        for settled in played:
            request = None if request is None else run.take(request, settled)
        while request is not None:
            answers = _answers(request, count_attempts(request, ledger, tally))
            branches += [[*played, other] for other in answers[1:]]
            played += answers[:1]
            request = run.take(request, answers[0]) if answers else None


def replay(run: EpisodeRun, attempts: Callable[[TurnRequest], Sequence[Attempt]]) -> TurnRequest | None:
    """Play an episode as far as `attempts` has answers. Returns the first request without one, or None where the
    episode is over."""
    request: TurnRequest | None = run.first()
    while request is not None:
        answers = _answers(request, attempts(request))
        if not answers:
            return request
        request = run.take(request, answers[0])
    return None


def _answers(request: TurnRequest, attempts: Iterable[Attempt]) -> list[Settled]:
    """Of the attempts at a request (newest first), the answers that are read differently. The first of them counts: the
    newest usable answer, or else the newest of all."""
    answers = [attempt for attempt in attempts if attempt.status == "answer"]
    readings = [(answer, request.run.reading(request, answer.reply)) for answer in answers]
    readings.sort(key=lambda pair: pair[1] is None)
    distinct: list[tuple[Attempt, Any]] = []
    for answer, reading in readings:
        if all(reading != earlier for _, earlier in distinct):
            distinct.append((answer, reading))
    return [Settled(answer, reading is not None, False) for answer, reading in distinct]


def unfinished(plan: RolloutPlan, ledger: Ledger) -> int:
    """How many of the plan's episodes the ledger cannot play to their end."""
    runs = (EpisodeRun(spec, plan.rules) for spec in plan.specs())
    return len([run for run in runs if replay(run, lambda request: ledger.attempts(request.key)) is not None])


BATCH = 64
SERVED = tables.rewards_schema([])


class Recording:
    """The finished episodes of a run, on their way into a version: turns, prompts as served, scores, failures.

    Episodes end in any order; the stage sorts the rows. They are written in batches. Only the scores, whose range is
    known at the end, and the failures' reasons stay in memory.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._waiting: dict[str, list[EpisodeRun]] = {}
        self._scores: dict[str, list[Attribution]] = {}  # keys: the splits
        self.episodes = self.utterances = self.failed_turns = self.abandoned = 0
        self.reasons: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()

    @property
    def first_reason(self) -> str:
        """The commonest reason why an episode failed."""
        return next((reason.rstrip(".") for reason, _ in self.reasons.most_common(1)), "none was asked for")

    def add(self, run: EpisodeRun) -> None:
        """Add an episode that is over."""
        split = split_of(run.spec.scene.environment.environment_id, 0)
        waiting = self._waiting.setdefault(split, [])
        waiting.append(run)
        self.reasons.update(failure.reason for failure in run.failures)
        if len(waiting) >= BATCH:
            self._flush(split)

    def finish(self) -> None:
        """Write the episodes that are left, the scores, and an empty `failures` if nothing failed."""
        for split in list(self._waiting):
            self._flush(split)
        rewards = [score.raw for scores in self._scores.values() for score in scores]
        for split, scores in self._scores.items():
            low, high = min(rewards), max(rewards)
            scaled = [replace(score, scale_min=low, scale_max=high) for score in scores]
            self._stage.write("attributions", split, tables.attribution_table(scaled))
        self._stage.write("failures", "train", tables.FAILURES.empty_table())

    def provenance(self) -> dict[str, Any]:
        """What the manifest notes besides the recipe: counts, why episodes ended, reasons of failures."""
        counts = {"episodes": self.episodes, "utterances": self.utterances, "failed_turns": self.failed_turns}
        return {
            "command": "rollout",
            "counts": counts | {"abandoned": self.abandoned},
            "ended": dict(sorted(self.ended.items())),
            "failures": dict(self.reasons.most_common(100)),
        }

    def _flush(self, split: str) -> None:
        """Write and count the episodes that wait for this split."""
        runs = self._waiting.pop(split)
        played = [run for run in runs if not run.abandoned]
        episodes = [run.episode() for run in played]
        failures = [failure for run in runs for failure in run.failures]
        if played:
            self._stage.write("episodes", split, tables.episode_table(episodes))
            self._stage.write("rewards", split, _served(played))
        if failures:
            self._stage.write("failures", split, tables.failure_table(failures))
        scores = [score for run in played for score in run.scores]
        if scores:
            self._scores.setdefault(split, []).extend(scores)
        abandoned = len(runs) - len(played)  # an abandoned episode has one failure; all other failures are of turns
        self.episodes += len(played)
        self.abandoned += abandoned
        self.failed_turns += len(failures) - abandoned
        self.utterances += sum(len(episode.turns) for episode in episodes)
        self.ended.update(episode.reasoning.partition("terminated: ")[2].strip(" ;\n") for episode in episodes)


def _served(runs: Iterable[EpisodeRun]) -> pa.Table:
    """Prompts and completions as rows of `rewards` without a reward."""
    rows = [
        {
            "episode_id": run.spec.episode_id,
            "environment_id": run.spec.scene.environment.environment_id,
            "agent": exchange.prompt.agent,
            "turn": exchange.prompt.turn,
            "prompt": list(exchange.prompt.messages),
            "completion": [{"role": "assistant", "content": exchange.completion}],
            "reward": None,
            "n_opinions": 0,
            "spread": None,
        }
        for run in runs
        for exchange in run.served
    ]
    return pa.Table.from_pylist(rows, schema=SERVED)
