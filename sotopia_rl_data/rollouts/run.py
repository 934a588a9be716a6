"""rollout(): scenes and two policies in, a version of episodes out. The only loop that plays.

    plan      which episodes, who plays whom; everything that can be wrong      planning.py
    play      each episode a request with follow-ups, hundreds in flight        games.py, sotopia_rl_data/asking
    commit    episodes, the prompts and completions as served, failures         sotopia_rl_data/store

Every raw answer is durable before it is read, and what is played is a function of (scenes, plan, ledger): a run that
was killed plays again from the ledger what was answered, and asks on from there. Leaves out what a command prints.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from sotopia_rl_data.asking.dispatch import Outcome, Pacing, Settled, ask_all
from sotopia_rl_data.asking.event_loop import wait
from sotopia_rl_data.code import code
from sotopia_rl_data.costs.budget import Budget
from sotopia_rl_data.costs.prices import load
from sotopia_rl_data.errors import AskingError, BudgetSpent, Interrupted, UsageError
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.prompts import Layout, Template
from sotopia_rl_data.refs import check_name
from sotopia_rl_data.request import Reply, Request
from sotopia_rl_data.rollouts.costs import Costs, capped, check_budget, unfinished
from sotopia_rl_data.rollouts.dialects import DialectName
from sotopia_rl_data.rollouts.episode_run import EpisodeRun, Rules, TurnRequest
from sotopia_rl_data.rollouts.planning import Plan
from sotopia_rl_data.rollouts.players import Local, Player, is_model, player
from sotopia_rl_data.rollouts.policies import Policy
from sotopia_rl_data.rollouts.recording import Recording
from sotopia_rl_data.rollouts.report import RolloutReport, report
from sotopia_rl_data.rollouts.scene import Scene
from sotopia_rl_data.store import Store, versions

DEFAULT_A, DEFAULT_B = "scripted:warm", "scripted:firm"


class Progress(Protocol):
    """Hears how many episodes are over, of how many, and a few words; `console.progress` makes one."""

    def __call__(self, done: int, total: int | None = None, words: str = "") -> None: ...


def plan_of(
    scenes: Iterable[Scene],
    *,
    a: str | Policy | Player = DEFAULT_A,
    b: str | Policy | Player = DEFAULT_B,
    swap: bool = False,
    repeat: int = 1,
    turns: int = 20,
    dialect: DialectName = "legacy",
    layout: Layout = "single",
    template: Template | None = None,
    seed: int = 0,
    sampling: Mapping[str, Any] | None = None,
    best_of: int = 1,
    scorer: Player | None = None,
    local: Local | None = None,
) -> Plan:
    """Which episodes are played, by whom and how. Everything that can be wrong with it is found here.

    `a` and `b` are policies by name (`players.py`) or callables. `swap` plays each scene with `a` in every place;
    `repeat` plays each that often. `turns` ends an episode; `dialect` says how observations are written and what else
    ends one. `seed` draws other answers. `sampling` (temperature, max_tokens …) is laid over the models' defaults.
    `best_of` N answers of `a` to each prompt are scored by `scorer` and the highest is kept. `local` makes players of
    `transformers:…`. Raises UsageError, and KeyMissing where a provider wants a key.
    """
    rules = Rules(dialect, turns, layout, template, seed, best_of, scorer)
    first = player(a, sampling, seed=seed, local=local)
    second = first if a == b else player(b, sampling, seed=seed, local=local)
    if sampling and not (is_model(first) or is_model(second)):
        raise UsageError(f"Neither {first.id} nor {second.id} samples.", f"leave {', '.join(sampling)} out")
    return Plan(tuple(scenes), first, second, rules, swap, repeat)


def rollout(
    store: Store,
    plan: Plan,
    out: str,
    *,
    version: str | None = None,
    concurrency: int | None = None,
    pacing: Pacing | None = None,
    budget: float | None = None,
    prices: Path | None = None,
    ledger: Path | None = None,
    progress: Progress | None = None,
) -> RolloutReport:
    """Play every episode of the plan and commit them as the next version of `out` (ORG/NAME).

    `concurrency` bounds the episodes in flight (default: as many as the slower policy takes). `budget` (USD) caps what
    these episodes may cost, all runs together; `prices` is a file laid over the price list.

    Raises UsageError, and VersionExists where `version` is taken and something is left to play, before anything is
    asked; Interrupted after Ctrl-C; BudgetSpent; Rejected and Unavailable where a provider answers nothing; AskingError
    where no episode came to an end; StoreError. Whatever is raised, the store's versions are as they were and every
    answer is kept. An episode in which a policy could not be asked is left out, and listed in `failures`.
    """
    began = time.monotonic()
    name = check_name(out)
    version = version and versions.check(version)  # now, and not when everything is played
    price_list = load(prices)
    if budget is not None:
        check_budget(budget, plan, price_list)
    with store.stage(name) as stage, Ledger(ledger or store.root / ".ledger") as kept:
        store.check_untaken(name, version, partial(unfinished, plan, kept), "episodes")
        recording, costs = Recording(stage, plan.rules.scorer), Costs(plan, kept, price_list)
        with capped(budget, plan, kept, price_list) as cap:
            limits = {"concurrency": concurrency, "pacing": pacing or Pacing(), "budget": cap}
            outcome = wait(_play(plan, kept, recording, costs, limits, progress))
        recording.finish()
        if not recording.episodes:
            raise AskingError(f"No episode came to an end: {recording.first_reason}.", "see what the policy answers")
        committed = stage.commit(plan.recipe(), recording.provenance() | {"code": code()}, version)
    return report(committed, len(plan), recording, outcome, costs.bill(), time.monotonic() - began)


async def _play(
    plan: Plan,
    ledger: Ledger,
    recording: Recording,
    costs: Costs,
    limits: dict[str, Any],
    progress: Progress | None,
) -> Outcome:
    """Ask for every game, all that fit at once. Raises Interrupted, BudgetSpent, and what `ask_all` raises."""
    players, total, done = plan.players(), len(plan), 0

    def requests() -> Iterator[Request]:
        for match in plan.matches():
            yield EpisodeRun(match, plan.rules).first()

    def on_settled(request: Request, settled: Settled) -> Request | None:
        nonlocal done
        move = _as_turn_request(request)
        costs.count(move, move.game, settled)
        following = move.game.take(move, settled)
        if following is None:
            done += 1
            recording.add(move.game)
        return following

    try:
        outcome = await ask_all(
            requests(),
            lambda request: _as_turn_request(request).player.send(request),
            ledger,
            accept=_accepts,
            on_settled=on_settled,
            progress=None if progress is None else lambda outcome: progress(done, total, _words(outcome)),
            **limits | {"concurrency": limits["concurrency"] or min(one.concurrency for one in players)},
        )
    finally:
        for one in players:
            await one.close()
    _check_home(outcome, done, total, limits["budget"])
    return outcome


def _check_home(outcome: Outcome, done: int, total: int, budget: Budget | None) -> None:
    """Raises Interrupted or BudgetSpent where episodes are left undone."""
    if outcome.interrupted:
        raise Interrupted(
            f"Interrupted after {done:,} of {total:,} episodes.",
            "run the same command again: what was answered is kept, and it goes on from there",
        )
    if outcome.exhausted and budget is not None:
        raise BudgetSpent(
            f"Nothing more fits under the budget of {budget.cap:g} USD: {budget.spent:.4f} USD are spent, and "
            f"{total - done:,} of {total:,} episodes are left undone.",
            "raise --budget, which is for all runs together, and run the same command again: what was answered is kept",
        )


def _accepts(request: Request, reply: Reply) -> bool:
    move = _as_turn_request(request)
    return move.game.accepts(move, reply)


def _as_turn_request(request: Request) -> TurnRequest:
    if not isinstance(request, TurnRequest):
        raise TypeError(f"a {type(request).__name__} belongs to no game")
    return request


def _words(outcome: Outcome) -> str:
    tokens = sum(usage.input + usage.output for usage in outcome.usage.values())
    words = [f"{outcome.settled:,} turns"] + [f"{tokens:,} tokens"] * bool(tokens)
    return ", ".join(words + [f"{outcome.unreachable:,} unanswered"] * bool(outcome.unreachable))
