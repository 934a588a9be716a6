"""evaluate(): a judge scores whole episodes, and the scores become the dataset's next version."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.batches import QUICK, judge
from fixtures.flat_calls import estimate_evaluation, evaluate, label
from fixtures.labelling import BOAT, BY, ODD, Highest, Scorer, boats, put, rows, sim
from fixtures.places import ROOT

from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.errors import BadAnswer, BudgetSpent, UnderWay, UsageError
from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.labelers.evaluation.sotopia_eval import SOTOPIA_EVAL as ASKED
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.questions import NOTHING_SAID
from sotopia_rl_data.rewards import preset
from sotopia_rl_data.rewards.build import remake
from sotopia_rl_data.store import Store

SEVEN = tuple(one.name for one in SOTOPIA_EVAL)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def by(store: Store, evaluator: str, ref: str = "lab/episodes") -> dict[tuple[str, str, str], float]:
    """The scores of one evaluator, by (episode, agent, dimension)."""
    return {
        (row["episode_id"], one["agent"], one["dimension"]): one["score"]
        for row in rows(ref, "episodes", store)
        for one in row["scores"]
        if one["evaluator"] == evaluator
    }


def test_one_call_an_episode_scores_every_agent_on_seven_dimensions_with_reasons(store: Store):
    before = put(store, [BOAT])
    judge = Scorer(a=0, b=0)
    done = evaluate(store, "lab/episodes", judges=[judge])
    assert (done.version, done.created, done.scores, done.calls) == ("lab/episodes@v1.1.0", True, 14, 1)
    assert judge.calls == 1
    assert by(store, "scorer") == {("boat", agent, name): 0.0 for agent in "ab" for name in SEVEN}
    assert by(store, BY) == {("boat", s.agent, s.dimension): s.score for s in BOAT.scores}
    said = rows(done.version, "attributions", store)
    assert {(r["agent"], r["dimension"]): r["reasoning"] for r in said} == {
        (agent, name): f"{agent} on {name}" for agent in "ab" for name in SEVEN
    }
    assert {(r["schema"], r["measure"], r["turn"], r["judge"], r["sample"]) for r in said} == {
        ("sotopia-eval", "evaluation", -1, "scorer", 0)
    }
    ranges = {r["dimension"]: (r["scale_min"], r["scale_max"]) for r in said}
    assert ranges == {d.name: (d.low, d.high) for d in SOTOPIA_EVAL}
    assert store.resolve(done.version).manifest.provenance["parents"][0]["digest"] == before.digest
    unscored = [{k: v for k, v in r.items() if k != "scores"} for r in rows(before, "episodes")]
    assert [{k: v for k, v in r.items() if k != "scores"} for r in rows(done.version, "episodes", store)] == unscored


def test_agents_are_known_by_our_keys_and_never_by_name_or_place(store: Store):
    """Two Sams, four agents, one who never speaks; the judge answers last to first."""
    put(store, [ODD])
    scores = {"s1": 1, "s2": 2, "z": 3, "mute": 4}
    evaluate(store, "lab/episodes", judges=[Scorer(**scores)], dimensions=["goal"])
    assert by(store, "scorer") == {(ODD.episode_id, agent, "goal"): score for agent, score in scores.items()}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [11, -1, 7.5, "7", None, True])
def test_what_is_no_score_of_the_dimension_is_a_failure_and_null_and_never_zero(store: Store, wrong: Any):
    put(store, [BOAT])
    done = evaluate(store, "lab/episodes", judges=[Scorer(a=wrong)], dimensions=["goal"])
    assert (done.scores, sum(done.failures.values()), done.unusable) == (0, 2, 1)
    assert by(store, "scorer") == {}
    lost = rows(done.version, "failures", store)
    assert {(r["agent"], r["turn"], r["dimension"], r["judge"]) for r in lost} == {
        (agent, None, "goal", "scorer") for agent in "ab"
    }
    assert all("agent_1.goal.score: expected an integer from 0 to 10" in r["reason"] for r in lost)
    assert all(r["call_id"] for r in lost)


def test_an_answer_lacks_no_agent_no_dimension_and_no_reason():
    question = next(ASKED.questions(BOAT, ("goal", "secret"), None, "packed", 3))
    whole = json.loads(Scorer().say(question))
    assert set(ASKED.read(question, json.dumps(whole)).values()) == {10.0, 0.0}
    for path in (["agent_1"], ["agent_2", "secret"], ["agent_1", "goal", "reasoning"]):
        told = json.loads(json.dumps(whole))
        inner = told
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        with pytest.raises(BadAnswer, match=f"{path[-1]} is missing"):
            ASKED.read(question, json.dumps(told))
    with pytest.raises(BadAnswer, match="expected a string"):
        ASKED.read(question, json.dumps(whole | {"agent_1": whole["agent_2"] | {"goal": {"reasoning": 1, "score": 1}}}))


def test_evaluators_live_side_by_side_and_one_that_comes_again_changes_nothing(store: Store):
    put(store, [BOAT, ODD])
    evaluate(store, "lab/episodes", judges=[Scorer("x", a=0, s1=0)])
    both = evaluate(store, "lab/episodes", judges=[Scorer("y", a=2, s1=2)], dimensions=["goal", "knowledge"])
    assert (both.version, both.created) == ("lab/episodes@v1.2.0", True)
    assert by(store, "x")["boat", "a", "goal"] == 0
    assert by(store, "y")["boat", "a", "goal"] == 2
    again = evaluate(store, "lab/episodes", judges=[Scorer("x", a=0, s1=0)])
    assert (again.digest, again.created, again.asked) == (both.digest, False, 0)
    made = store.resolve("lab/episodes").manifest.recipe["evaluations"]
    assert [(one["evaluator"], len(one["dimensions"])) for one in made] == [("x", 7), ("y", 2)]


def test_an_evaluation_of_one_dimension_leaves_the_evaluators_other_scores(store: Store):
    put(store, [BOAT])
    evaluate(store, "lab/episodes", judges=[Scorer("x", a=1, b=1)], dimensions=["goal", "knowledge"])
    evaluate(store, "lab/episodes", judges=[Scorer("x", a=3, b=3)], dimensions=["goal"], packing="per-dimension")
    assert {key[1:]: score for key, score in by(store, "x").items()} == {
        ("a", "knowledge"): 1,
        ("a", "goal"): 3,
        ("b", "knowledge"): 1,
        ("b", "goal"): 3,
    }


def test_samples_are_kept_one_by_one_and_the_score_is_the_mean_of_those_there_are(store: Store):
    class Moody(Scorer):
        """4, then 7, then nonsense."""

        def say(self, question: Question) -> str:
            self.scores = {"a": [4, 7, 99][self.calls - 1], "b": 0}
            return super().say(question)

    put(store, [BOAT])
    done = evaluate(store, "lab/episodes", judges=[Moody()], dimensions=["goal"], samples=3)
    assert by(store, "scorer") == {("boat", "a", "goal"): 5.5, ("boat", "b", "goal"): 0.0}
    said = [(r["agent"], r["sample"], r["raw"]) for r in rows(done.version, "attributions", store)]
    assert said == [("a", 0, 4.0), ("a", 1, 7.0), ("b", 0, 0.0), ("b", 1, 0.0)]
    assert [r["agent"] for r in rows(done.version, "failures", store)] == ["a", "b"]


def test_where_nobody_did_anything_nobody_is_asked_and_nothing_is_zero(store: Store):
    put(store, [replace(BOAT, turns=(), scores=())])
    done = evaluate(store, "lab/episodes", judges=[Scorer("x"), Scorer("y")], dimensions=["goal"])
    assert (done.calls, done.scores, done.failures) == (0, 0, {NOTHING_SAID: 4})
    assert {(r["agent"], r["judge"]) for r in rows(done.version, "failures", store)} == {
        (agent, judge) for agent in "ab" for judge in "xy"
    }


def test_imported_scores_are_not_written_over(store: Store):
    put(store, [BOAT])
    with pytest.raises(UsageError, match="came with") as told:
        evaluate(store, "lab/episodes", judges=[Scorer(BY)])
    assert told.value.hint == f"store the new scores under another name: --evaluator {BY}-here"
    evaluate(store, "lab/episodes", judges=[Scorer(BY)], evaluator="mine", dimensions=["goal"])
    evaluate(store, "lab/episodes", judges=[Scorer(BY)], evaluator="mine", dimensions=["goal"])
    assert by(store, "mine") == {("boat", agent, "goal"): 10.0 for agent in "ab"}
    assert len(by(store, BY)) == 6


@pytest.mark.slow
def test_a_version_with_rewards_keeps_them_and_labelling_takes_up_the_new_scores(store: Store):
    put(store, [BOAT])
    label(store, "lab/episodes", judges=[Highest()])
    before = {c: rows("lab/episodes-rewards", c, store) for c in ("rewards", "attributions", "failures")}
    done = evaluate(store, "lab/episodes-rewards", judges=[Scorer("x", a=5, b=5)], dimensions=["goal"])
    assert done.version == "lab/episodes-rewards@v1.1.0"
    after = {c: rows(done.version, c, store) for c in before}
    assert after["rewards"] == before["rewards"]
    assert [r for r in after["attributions"] if r["schema"] == "direct"] == before["attributions"]
    relabelled = label(store, done.version, judges=[Highest()], evaluator="x", preset="goal-only", out="lab/new")
    assert {r["raw_goal"] for r in rows(relabelled.version, "rewards", store)} == {5.0}
    known = store.resolve(done.version).manifest.provenance
    assert known["rewards"]["statistics"]  # what the rewards were normalised by is not forgotten
    assert [(one["judge"], one.get("evaluates")) for one in known["judges"]] == [("highest", None), ("x", True)]
    again = remake(store, store.resolve(done.version), replace(preset("sotopia-rl"), evaluator=BY), out="lab/again")
    first = store.resolve("lab/episodes-rewards@v1.0.0").manifest
    assert again.version.manifest.columns["rewards"] == first.columns["rewards"]


@pytest.mark.slow
def test_attributions_of_before_there_were_reasons_are_taken_along(store: Store):
    import pyarrow.parquet as pq

    put(store, [BOAT])
    label(store, "lab/episodes", judges=[Highest()])
    version = store.resolve("lab/episodes-rewards")
    for path in version.files("attributions")["train"]:
        pq.write_table(pq.read_table(path).drop_columns("reasoning"), path)
    manifest = version.dir / "manifest.json"
    known = json.loads(manifest.read_text())
    del known["columns"]["attributions"]["reasoning"]
    manifest.write_text(json.dumps(known))
    done = evaluate(store, "lab/episodes-rewards", judges=[Scorer("x")], dimensions=["goal"])
    assert {(r["judge"], r["reasoning"]) for r in rows(done.version, "attributions", store)} == {
        ("highest", None),
        ("x", "a on goal"),
        ("x", "b on goal"),
    }


@pytest.fixture(scope="module")
def provider() -> Iterator[Running]:
    with running() as one:
        yield one


@pytest.mark.slow
def test_over_http_it_repairs_once_lists_what_is_left_and_asks_again_when_told(store: Store):
    episodes = boats(20)
    put(store, episodes)
    with running(malformed="all", malformed_share=0.5) as broken:
        url = broken.openai_url
        done = evaluate(store, "lab/episodes", judges=[f"openai:sim-judge@{url}"])
        assert done.repaired > 0
        assert done.unusable > 0
        scored = {key[:2] for key in by(store, "sim-judge")}
        lost = {(r["episode_id"], r["agent"]) for r in rows(done.version, "failures", store)}
        assert scored | lost == {(e.episode_id, a) for e in episodes for a in "ab"}
        assert not scored & lost
        again = evaluate(store, "lab/episodes", judges=[f"openai:sim-judge@{url}"])
        assert (again.asked, again.created, again.digest) == (0, False, done.digest)
    port = int(broken.url.rpartition(":")[2])
    with running(port=port):
        mended = evaluate(store, "lab/episodes", judges=[f"openai:sim-judge@{url}"], retry_failed=True)
    assert mended.failures == {}
    assert mended.asked == done.unusable
    assert {key[:2] for key in by(store, "sim-judge")} == {(e.episode_id, a) for e in episodes for a in "ab"}


@pytest.mark.slow
def test_anthropic_is_asked_the_same(store: Store, provider: Running):
    put(store, [BOAT])
    done = evaluate(store, "lab/episodes", judges=[f"anthropic:sim-claude@{provider.url}"])
    assert (done.scores, done.failures) == (14, {})


@pytest.mark.slow
def test_a_cap_is_kept_and_what_it_would_cost_is_known_before(store: Store, tmp_path: Path, provider: Running):
    put(store, boats(30))
    prices = tmp_path / "prices.yaml"
    prices.write_text("as_of: 2026-11-01\nhosts: {'*': {sim-judge: [10, 1, 12.5, 40]}}\n")
    how = {"judges": [sim(provider)], "sampling": {"max_tokens": 1_000}, "prices": prices}
    before = estimate_evaluation(store, "lab/episodes", **how)
    assert [(line.calls, line.asked, line.hits) for line in before.lines] == [(30, 30, 0)]
    assert before.total > 0
    with pytest.raises(BudgetSpent) as told:
        evaluate(store, "lab/episodes", **how, budget=0.2)
    assert "left undone" in told.value.message
    assert store.versions("lab/episodes") == ["v1.0.0"]
    done = evaluate(store, "lab/episodes", **how, budget=100)
    assert 0 < done.hits < 30
    assert 0.2 < done.bill.total < before.total  # the estimate does not know how short the provider's reasons are
    after = estimate_evaluation(store, "lab/episodes", **how)
    assert [(line.asked, line.hits) for line in after.lines] == [(0, 30)]


def test_no_key_is_needed_to_know_the_cost(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    put(store, [BOAT])
    (line,) = estimate_evaluation(store, "lab/episodes", judges=["gpt-4o"]).lines
    assert (line.asked, line.cost is not None and line.cost > 0) == (1, True)


@pytest.mark.slow
def test_batches_end_in_the_digest_of_a_live_run(store: Store, tmp_path: Path):
    put(store, boats(6))
    with running(malformed="missing,refusal", malformed_share=0.3, seed=1) as at:
        done = evaluate(store, "lab/episodes", judges=[judge("openai", at)], batching=QUICK)
        assert at.log()["batch"]["batches"] >= 1
        other = Store(tmp_path / "live")
        put(other, boats(6))
        assert evaluate(other, "lab/episodes", judges=[judge("openai", at)]).digest == done.digest


@pytest.mark.slow
def test_batches_under_a_cap_go_in_rounds_and_a_live_run_does_not_pay_for_what_is_under_way(
    store: Store, tmp_path: Path
):
    put(store, boats(12))
    prices = tmp_path / "prices.yaml"
    prices.write_text("as_of: 2026-11-01\nhosts: {'*': {sim: [10, 10, 10, 40]}}\n")
    with running(batch_seconds=600) as at:
        how = {"judges": [judge("openai", at)], "sampling": {"max_tokens": 2_000}, "prices": prices}
        before = estimate_evaluation(store, "lab/episodes", **how, in_batches=True)
        assert before.most is not None
        cap = before.most / 2
        leave = {"batching": replace(QUICK, wait=False), "budget": cap}
        with pytest.raises(UnderWay, match="fits under the budget only if"):
            evaluate(store, "lab/episodes", **how, **leave)
        with pytest.raises(UsageError, match="under way in batches"):
            evaluate(store, "lab/episodes", **how)
        (line,) = estimate_evaluation(store, "lab/episodes", **how, in_batches=True).lines
        (first,) = at.log()["batch"]["sizes"]
        assert (line.in_batches, line.asked) == (first, 12 - first)
        done = None
        while done is None:
            at.hurry()
            with suppress(UnderWay):
                done = evaluate(store, "lab/episodes", **how, **leave)
        usage = at.log()["usage"]
        assert done.bill.total == pytest.approx((usage["input"] * 10 + usage["output"] * 40) / 1e6 / 2)
        assert done.bill.total <= cap
        assert len(at.log()["batch"]["sizes"]) > 1
        other = Store(tmp_path / "live")
        put(other, boats(12))
        assert evaluate(other, "lab/episodes", **how).digest == done.digest


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)], ids=["kill -9", "Ctrl-C"])
def test_killed_or_interrupted_it_repeats_only_what_was_in_flight_and_ends_the_same(
    store: Store, tmp_path: Path, how: signal.Signals, code: int
):
    put(store, boats(30))
    with running(latency=0.05) as provider:
        told = [sys.executable, "cli.py", "evaluate", "lab/episodes", "--judge", sim(provider), "--concurrency", "4"]
        told += ["--store", str(store.root), "--json"]
        process = subprocess.Popen(told, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while provider.log()["requests"] < 12 and process.poll() is None:
            time.sleep(0.005)
        os.kill(process.pid, how)
        process.communicate()
        assert process.returncode == code
        assert store.versions("lab/episodes") == ["v1.0.0"]
        done = json.loads(subprocess.run(told, cwd=ROOT, capture_output=True, check=True).stdout)
        assert done["hits"] >= 8
        assert provider.log()["requests"] <= 30 + 4
        other = Store(tmp_path / "other")
        put(other, boats(30))
        assert evaluate(other, "lab/episodes", judges=[sim(provider)]).digest == done["digest"]


def test_recorded_episodes_are_evaluated_beside_their_own_evaluator(recordings, store: Store):
    from sotopia_rl_data.importers.importing import import_dataset

    import_dataset(store, [recordings.episodes / "v014" / "episodes.jsonl"], "lab/real")
    done = evaluate(store, "lab/real", judges=["lexical"])
    count = {"own": 7, "large": 28}[recordings.name]
    assert (done.episodes, done.scores, done.failures) == (count, count * 2 * 7, {})
    ours, theirs = by(store, "lexical", "lab/real"), by(store, "sim-judge", "lab/real")
    assert ours.keys() == theirs.keys()


def test_the_offline_judge_plays_the_evaluator_and_says_what_it_is(store: Store):
    put(store, [BOAT, ODD])
    done = evaluate(store, "lab/episodes", judges=["lexical"])
    assert done.failures == {}
    assert "understands nothing" in done.warnings[0]
    assert "baseline" in store.resolve(done.version).manifest.provenance["judges"][0]["remark"]
    for (_, _, name), score in by(store, "lexical").items():
        low, high = ASKED.bounds(3, name)
        assert low <= score <= high
    goal = {agent: by(store, "lexical")["boat", agent, "goal"] for agent in "ab"}
    # Words on the goal weigh 3, new ones 1: a says 3, 2 and 1, b says 6 and 3; the mean as a share of the heaviest, 6.
    assert goal == {"a": 3.0, "b": 8.0}


def command(store: Store, *arguments: str) -> subprocess.CompletedProcess[str]:
    told = [sys.executable, "cli.py", "evaluate", *arguments, "--store", str(store.root)]
    environment = {k: v for k, v in os.environ.items() if k != "OPENAI_API_KEY"}
    return subprocess.run(told, cwd=ROOT, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_the_command_ends_with_3_where_scores_are_missing(store: Store, tmp_path: Path):
    put(store, [BOAT])
    (tmp_path / "bad.py").write_text(
        "class Bad:\n    id = 'bad'\n    async def answer(self, q):\n        return '{}'\n"
    )
    done = command(store, "lab/episodes", "--judge", f"{tmp_path}/bad.py:Bad")
    assert done.returncode == 3
    assert "agent_1 is missing" in done.stdout
    assert "--retry-failed" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["lab/episodes"], 2, "No judge is named"),
        (["lab/episodes", "--judge", "gtp"], 2, "'gtp' is not a judge"),
        (["lab/episodes", "--judge", "gpt-4o"], 2, "OPENAI_API_KEY"),
        (["lab/nothing", "--judge", "lexical"], 2, "lab/nothing"),
        (["./nothing.jsonl", "--judge", "lexical"], 2, "There is no folder nothing.jsonl"),
        pytest.param(["./README.md", "--judge", "lexical"], 2, "./README.md is a file", marks=pytest.mark.invented),
        (["lab/episodes", "--judge", "lexical", "--dimensions", "charm"], 2, "charm"),
        (["lab/episodes", "--judge", "lexical", "--dimensions", ","], 2, "dimension"),
        (["lab/episodes", "--judge", "lexical", "--samples", "0"], 2, "samples"),
        (["lab/episodes", "--judge", "lexical", "--judge", "lexical"], 2, "Two judges are called 'lexical'"),
        (["lab/episodes", "--judge", "lexical", "--evaluator", BY], 2, "came with its episodes"),
        (["lab/episodes", "--judge", "lexical", "--version", "new"], 2, "is not a version"),
        (["lab/episodes", "--judge", "lexical", "--version", "v1.0.0"], 1, "v1.0.0 exists already"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_the_hint_and_nothing_half_written(store: Store, arguments, code, says):
    put(store, [BOAT])
    done = command(store, *arguments)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert " hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert store.versions("lab/episodes") == ["v1.0.0"]
    assert store.names() == ["lab/episodes"]
