"""The hard cap holds for `label`, `evaluate`, `audit` and `rollout` alike: in 200 random schedules of runs that are
killed and run again, and for processes that are ended by `kill -9`."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner
from fixtures.flat_calls import plan_of, planned, prepare
from fixtures.labelling import BY, boats, put
from fixtures.places import ROOT
from fixtures.playing import Longest, act, scenes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sotopia_rl_data.asking import openai
from sotopia_rl_data.asking.ask import ask, capped
from sotopia_rl_data.asking.pacing import Pacing
from sotopia_rl_data.asking.plan import AskOptions, Plan
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.costs.prices import Price, Prices
from sotopia_rl_data.costs.reservations import left_behind
from sotopia_rl_data.costs.tokens import limit_of, most_prompt_tokens, shortest
from sotopia_rl_data.errors import BudgetSpent, Unavailable
from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.labelers.audit.auditing import AuditPlan
from sotopia_rl_data.labelers.evaluation.sotopia_eval import SOTOPIA_EVAL
from sotopia_rl_data.labelers.plan import LabelPlan
from sotopia_rl_data.labelers.questions import QuestionPart, Questions
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.request import Finish, Reply, Request, Target, Usage
from sotopia_rl_data.rollouts import Scene
from sotopia_rl_data.rollouts.rollout import EpisodeChains
from sotopia_rl_data.store import Store

LIMIT = 50  # tokens
PRICE = Price(input=1_000.0, cached=100.0, written=1_250.0, output=4_000.0)
FREE = Price(0.0, 0.0, 0.0, 0.0)
PRICES = Prices("2026-11-01", 0.5, {"*": {"sim-a": PRICE, "sim-b": PRICE, "rm:longest": FREE}})
QUICK = Pacing(backoff_s=0.0005, tries=3, throttles=4, timeout_s=0.01, grace_s=0.05)
STARTING_S = 0.012  # no process begins to ask sooner after another was killed


class Killed(BaseException):
    """The process is gone: nobody catches this."""


class Provider:
    """Answers, throttles, fails, hangs and loses by chance, and bills whatever reaches it. `kills` is how often a call
    is the process's last; what lay on the disk at that moment is copied to `left`, and what the process does while it
    is being taken down reaches nobody. `dear`: what is billed costs all that it may. `thinks`: the tokens of thoughts
    are told in the total alone."""

    def __init__(self, seed: int, kills: float, dear: bool, thinks: bool = False) -> None:
        self.chance, self.kills, self.dear, self.thinks = random.Random(seed), kills, dear, thinks
        self.billed = 0.0
        self.folder = self.left = Path()
        self.dead = False

    def begin(self, folder: Path, left: Path) -> None:
        self.folder, self.left, self.dead = folder, left, False

    async def answer(self, request: Request) -> Reply:
        self.may_kill()
        chance, fate = self.chance, self.chance.random()
        if fate < 0.08:
            raise Unavailable("slow down", status=429, retry_after=0.001)
        usage = self.usage(request)
        if fate > 0.12 or self.dear or chance.random() < 0.5:
            self.billed += PRICE.cost(usage)
        await asyncio.sleep(60 if fate > 0.98 else chance.choice((0, 0, 0.001, 0.002)))
        self.may_kill()
        if fate < 0.14:
            raise Unavailable("broken", status=500)
        if fate < 0.16:
            raise Unavailable("the connection broke")
        finish: Finish = "length" if fate < 0.2 else "stop"
        if self.thinks:
            answer = chance.randint(0, usage.output)
            told = {
                "prompt_tokens": usage.input,
                "completion_tokens": answer,
                "total_tokens": usage.input + usage.output,
            }
            choice = {"message": {"content": self.text(request)}, "finish_reason": finish}
            return openai.read_completion(request.target, {"choices": [choice], "usage": told})
        return Reply(self.text(request), finish, request.target.model, Usage() if fate < 0.22 else usage)

    def text(self, request: Request) -> str:
        """Something that can be used, most of the time."""
        if self.chance.random() < 0.25:
            return f"nonsense {self.chance.randint(0, 3)}"
        if request.answer_schema is not None:
            return json.dumps(shortest(request))
        return act("leave", "") if self.chance.random() < 0.1 else act(argument=f"word {self.chance.randint(0, 9)}")

    def usage(self, request: Request) -> Usage:
        if self.thinks:
            return Usage(most_prompt_tokens(request), 0, 0, self.chance.randint(0, limit_of(request) or 0))
        if self.dear:
            return Usage(most_prompt_tokens(request), 0, most_prompt_tokens(request), limit_of(request) or 0)
        into = self.chance.randint(1, most_prompt_tokens(request))
        written = self.chance.choice((0, into))
        return Usage(
            into, self.chance.randint(0, into - written), written, self.chance.randint(0, limit_of(request) or 0)
        )

    def may_kill(self) -> None:
        if self.dead:
            raise Killed
        if self.chance.random() < self.kills:
            self.dead = True
            if self.folder.exists():
                shutil.copytree(self.folder, self.left)
            raise Killed


class Toy:
    """A judge, or a policy, that the provider plays."""

    concurrency = 16

    def __init__(self, name: str, provider: Provider) -> None:
        self.id, self._provider = name, provider
        self.target = Target("openai", name, "http://localhost:1/v1", {"max_tokens": LIMIT})

    async def send(self, request: Request) -> Reply:
        return await self._provider.answer(request)

    async def answer(self, question: object) -> str:
        raise AssertionError("it is sent requests")

    async def close(self) -> None:
        return


def label_plan(provider: Provider, size: int, ledger: Ledger) -> Plan:
    """Two judges, as many episodes as `size`."""
    judges = (Toy("sim-a", provider), Toy("sim-b", provider))[: 1 + size % 2]
    return Questions(QuestionPart(replace(goal_only(), judges=judges), lambda: boats(size)))


@cache
def goal_only() -> LabelPlan:
    return prepare(judges=["lexical"], preset="goal-only", evaluator=BY)[0]


def evaluate_plan(provider: Provider, size: int, ledger: Ledger) -> Plan:
    """Two dimensions, in one call an episode; up to three samples."""
    judges = (Toy("sim-a", provider),)
    plan = LabelPlan(SOTOPIA_EVAL, ("goal", "secret"), "", judges, packing="packed", samples=1 + size % 3)
    return Questions(QuestionPart(plan, lambda: boats(size)))


def audit_plan(provider: Provider, size: int, ledger: Ledger) -> Plan:
    """Two episodes and one or two probes."""
    plan = probed(1 + size % 2)
    return replace(plan, plan=replace(plan.plan, judges=(Toy("sim-a", provider),))).questions()


@cache
def probed(probes: int) -> AuditPlan:
    with TemporaryDirectory() as folder:
        version = put(Store(Path(folder)), boats(2))
        return planned(version, "lexical", dimensions=["goal"], probes=["order", "padded"][:probes], episodes=2)


def rollout_plan(provider: Provider, size: int, ledger: Ledger) -> Plan:
    """Up to six episodes of up to four turns; now and then with the better of two drafts."""
    best = {"best_of": 2, "scorer": Longest()} if size % 3 == 0 else {}
    a, b = Toy("sim-a", provider), Toy("sim-b", provider)
    plan = plan_of(played()[: 1 + size % 2], a=a, b=b, turns=1 + size % 4, repeat=1 + size % 3, **best)
    return EpisodeChains(plan, ledger, lambda run: None)


@cache
def played() -> Sequence[Scene]:
    return scenes(2)


PLANS: dict[str, Callable[[Provider, int, Ledger], Plan]] = {
    "label": label_plan,
    "evaluate": evaluate_plan,
    "audit": audit_plan,
    "rollout": rollout_plan,
}


@dataclass
class Schedule:
    """Runs of one command, one after the other, each under a cap of its own, in USD."""

    make: Callable[[Provider, int, Ledger], Plan]
    provider: Provider
    size: int
    root: Path
    runs: int = 0

    @property
    def folder(self) -> Path:
        """The ledger of the next run."""
        return self.root / f"ledger-{self.runs}"

    def worst(self) -> float:
        """USD that the first call may cost."""
        with Ledger(self.folder) as ledger:
            first = next(iter(self.make(self.provider, self.size, ledger).groups()[0].requests()))
        return PRICE.most(most_prompt_tokens(first), LIMIT)

    def spent(self) -> float:
        """USD that the next run would count."""
        ledger = Ledger(self.folder)
        with ledger, capped(1.0, self.make(self.provider, self.size, ledger), ledger, PRICES) as budget:
            return budget.spent

    def run(self, cap: float, options: AskOptions) -> bool | None:
        """One run. True where it came to its end, None where it was killed, False where it ended with a sentence."""
        self.provider.begin(self.folder, self.root / f"ledger-{self.runs + 1}")
        try:
            with Ledger(self.folder) as ledger:
                plan = self.make(self.provider, self.size, ledger)
                outcomes = ask(plan, ledger, replace(options, budget=cap), PRICES)
        except Killed:
            self.runs += self.provider.left.exists()
            time.sleep(STARTING_S)
            return None
        except (BudgetSpent, Unavailable):
            return False
        assert sum(one.settled - one.followed for one in outcomes) == plan.total
        return True


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLANS)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(1, 5),
    concurrency=st.integers(1, 16),
    calls=st.lists(st.floats(0.5, 15.0), min_size=1, max_size=3),
    kills=st.sampled_from((0, 0.02, 0.08)),
    dear=st.booleans(),
    thinks=st.booleans(),
    retry_failed=st.booleans(),
)
def test_no_run_passes_its_cap_in_200_random_schedules_of_runs_that_are_killed(
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    size: int,
    concurrency: int,
    calls: Sequence[float],
    kills: float,
    dear: bool,
    thinks: bool,
    retry_failed: bool,
):
    """`calls`: how many of the first call at its worst the cap of each run in turn has room for. A run under a cap
    below what was spent before adds nothing; what was spent is never more than the largest cap, nor less than what was
    billed."""
    provider = Provider(seed, kills, dear, thinks)
    one = Schedule(PLANS[kind], provider, size, tmp_path_factory.mktemp(kind))
    caps = [some * one.worst() for some in calls]
    options = AskOptions(pacing=QUICK, concurrency=concurrency, retry_failed=retry_failed)
    done, ended = None, 0
    for cap in islice(cycle(caps), 60):
        before = provider.billed
        done = one.run(cap, options)
        assert provider.billed <= max(cap, before) + 1e-9
        assert provider.billed - 1e-9 <= one.spent() <= max(caps) + 1e-9
        ended = 0 if done is None else ended + 1
        if done or ended == len(caps):
            break
    else:
        raise AssertionError("it never came to an end")


COMMANDS = {
    "label": "label lab/episodes --judge openai:sim-a@{url} --preset goal-only",
    "evaluate": "evaluate lab/episodes --judge openai:sim-a@{url} --ask per-dimension --dimensions goal",
    "audit": "audit lab/episodes --judge openai:sim-a@{url} --dimensions goal --episodes 6",
    "rollout": "rollout --a openai:sim-a@{url} --b openai:sim-b@{url} --swap --out lab/play",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", COMMANDS)
def test_killed_under_a_budget_what_was_in_flight_is_spent_and_nothing_answered_is_asked_again(
    kind: str, tmp_path: Path
):
    prices, store, other = tmp_path / "prices.yaml", Store(tmp_path / "store"), Store(tmp_path / "other")
    line = "[2.5, 2.5, 2.5, 10, 1000]"
    prices.write_text(f"as_of: 2026-11-01\nhosts: {{'*': {{sim-a: {line}, sim-b: {line}}}}}\n")
    for one in (store, other):
        put(one, boats(30))
    with running(latency=0.1) as slow:
        command = [*COMMANDS[kind].format(url=slow.openai_url).split(), "--prices", str(prices), "--concurrency", "4"]
        for _ in range(2):
            kill([*command, "--store", str(store.root), "--budget", "5"], slow)
        time.sleep(0.3)  # until the provider is through with what nobody waits for
        paid, held = slow.log()["answered"], list(left_behind(store.root / ".ledger"))
        with Ledger(store.root / ".ledger") as ledger:
            kept = sum(one.status == "answer" for one in ledger.scan())
        assert 1 <= paid - kept <= len(held) <= 8
        told = CliRunner().invoke(cli, [*command, "--store", str(store.root), "--budget", "0.0001"]).exception
        assert isinstance(told, BudgetSpent)
        spent = float(told.message.partition("0.0001 USD: ")[2].partition(" USD are spent")[0])
        assert billed(slow) - 1e-4 <= spent <= billed(slow) + sum(hold.usd for hold in held) + 1e-4
        assert slow.log()["answered"] == paid

        done = CliRunner().invoke(cli, [*command, "--store", str(store.root), "--budget", "5", "--json"])
        report, answered = json.loads(done.stdout), slow.log()["answered"]
        assert (done.exit_code, report["hits"], report["failures"]) == (0, kept, {})
        whole = json.loads(CliRunner().invoke(cli, [*command, "--store", str(other.root), "--json"]).stdout)
        assert (report["digest"], answered - paid) == (whole["digest"], whole["asked"] - kept)


def kill(command: Sequence[str], provider: Running) -> None:
    """Run the command until four more calls were answered and two are in flight; then kill -9."""
    before = provider.log()["answered"]
    process = subprocess.Popen([sys.executable, "cli.py", *command], cwd=ROOT, stderr=subprocess.DEVNULL)
    while (log := provider.log())["answered"] < before + 4 or log["in_flight"] < 2:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def billed(provider: Running) -> float:
    """USD, by what the provider counted."""
    usage = provider.log()["usage"]
    return float(usage["input"] * 2.5 + usage["output"] * 10) / 1e6
