"""label(): episodes in, a version of rewards out, and never a call too many."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.flat_calls import label
from fixtures.labelling import BOAT, BY, ODD, UNSCORED, Highest, Sulking, boats, put, rows, sim
from fixtures.places import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sotopia_rl_data import open_dataset
from sotopia_rl_data.asking.pacing import Pacing
from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.errors import (
    Rejected,
    Unavailable,
    UsageError,
)  # fmt: skip
from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.questions import NO_SCORE
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.schema import Agent, Episode, Score, Turn
from sotopia_rl_data.store import Store

SEVEN = tuple(one.name for one in SOTOPIA_EVAL)
QUICK = Pacing(tries=2, backoff_s=0.01)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def provider() -> Iterator[Running]:
    with running() as one:
        yield one


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_one_call_leaves_a_dataset_that_trains(store: Store):
    put(store, [BOAT])
    done = label(store, "lab/episodes", judges=[Highest()])
    assert (done.version, done.created) == ("lab/episodes-rewards@v1.0.0", True)
    assert (done.episodes, done.utterances, done.labels, done.rewarded, done.calls, done.asked) == (1, 5, 15, 5, 6, 6)
    version = store.resolve("lab/episodes-rewards")
    assert set(version.manifest.configs) == {"rewards", "episodes", "attributions", "failures", "trajectories"}
    found = {(r["agent"], r["turn"]): r for r in rows(version, "rewards")}
    assert list(found) == [("a", 0), ("a", 2), ("a", 4), ("b", 1), ("b", 3)]
    assert found["a", 0]["raw_goal"] == 2.0
    assert found["b", 1]["raw_knowledge"] == 6.0
    assert found["a", 2]["completion"][0]["role"] == "assistant"
    assert found["a", 2]["prompt"][0]["role"] == "user"
    assert rows(version, "failures") == []


def test_direct_gives_the_references_rewards_raw_over_three_times_the_score(store: Store):
    """The reference's annotated rows hold `attribution` 0–3, `reward` = attribution / 3 × goal score."""
    annotated = [("a", 0, 1, 2 / 3), ("a", 2, 3, 2.0), ("a", 4, 0, 0.0), ("b", 1, 2, 2.0), ("b", 3, 3, 3.0)]

    class Annotated(Highest):
        def say(self, question: Question) -> str:
            said = {(agent, turn): raw for agent, turn, raw, _ in annotated}
            answer: dict[str, Any] = {}
            for (agent, name, turn), slot in question.slots.items():
                answer.setdefault(agent, {}).setdefault(name, {})[turn] = said[slot.agent, slot.turn]
            return json.dumps(answer)

    put(store, [BOAT])
    version = label(store, "lab/episodes", judges=[Annotated()], preset="goal-only").version
    assert [(r["agent"], r["turn"], r["raw_goal"]) for r in rows(version, "rewards", store)] == [
        (agent, turn, pytest.approx(reward, abs=1e-12)) for agent, turn, _, reward in annotated
    ]


@pytest.mark.slow
@pytest.mark.parametrize("ask", ["per-dimension", "packed"])
@pytest.mark.parametrize("schema", ["direct", "scaled", "singular"])
def test_every_utterance_of_every_dimension_ends_in_a_label_or_a_failure(store: Store, schema: str, ask: Any):
    episodes = [BOAT, ODD, UNSCORED]
    put(store, episodes)
    done = label(
        store, "lab/episodes", judges=[Sulking("s1")], schema=schema, dimensions=SEVEN, packing=ask, evaluator=BY
    )
    version = store.resolve(done.version)
    labelled = {(r["episode_id"], r["agent"], r["turn"], r["dimension"]) for r in rows(version, "attributions")}
    failed = {(r["episode_id"], r["agent"], r["turn"], r["dimension"]) for r in rows(version, "failures")}
    assert labelled | failed == {(e.episode_id, t.agent, t.turn, d) for e in episodes for t in e.turns for d in SEVEN}
    assert not labelled & failed
    unscored = {
        (e.episode_id, t.agent, t.turn, d)
        for e in episodes
        for t in e.turns
        for d in SEVEN
        if e.score(t.agent, d, BY) is None
    }
    assert {tuple(r.values())[:4] for r in rows(version, "failures") if r["reason"] == NO_SCORE} == unscored
    for row in rows(version, "rewards"):  # nothing is on the wrong turn, and what is missing is NULL, never 0
        for name in SEVEN:
            known = (row["episode_id"], row["agent"], row["turn"], name) in labelled
            assert (row[f"raw_{name}"] is not None) == known
    assert done.failed == len(failed)
    assert done.failures[NO_SCORE] == len(unscored)


NAMES = st.sampled_from(["Sam", "Finnegan O'Malley", "Jean-Luc", "Dr. Ana-María Núñez", 'A "B" C', ""])
TEXTS = st.sampled_from(
    ["hello", 'I "did nothing".', "a\n\nb", "agent_2 says:", "[turn_0] agent_1 does nothing.", "did nothing", ""]
)


@st.composite
def episode(draw: st.DrawFn, number: int) -> Episode:
    count = draw(st.integers(2, 3))
    agents = tuple(Agent(f"id{i}", draw(NAMES)) for i in range(count))
    kinds = st.sampled_from(["speak", "none", "leave", "action", "non-verbal communication"])
    turns = tuple(
        Turn(t, f"id{draw(st.integers(0, count - 1))}", draw(kinds), draw(TEXTS))
        for t in range(draw(st.integers(0, 6)))
    )
    given_ = tuple(
        Score(a.agent, d.name, draw(st.integers(int(d.low), int(d.high))), BY)
        for a in agents
        for d in SOTOPIA_EVAL
        if draw(st.booleans())
    )
    return Episode(f"e{number}", f"env{draw(st.integers(0, 3))}", agents, turns, given_)


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_episodes_nothing_is_lost_and_nothing_is_on_the_wrong_turn(
    data: st.DataObject, tmp_path_factory: Any
):
    store = Store(tmp_path_factory.mktemp("law") / "store")
    sure = replace(BOAT, episode_id="sure")
    episodes = [sure, *(data.draw(episode(i)) for i in range(3))]
    put(store, episodes)

    class Telling(Highest):
        """Says each utterance's own turn number modulo four: a label on a wrong turn would show."""

        def say(self, question: Question) -> str:
            answer: dict[str, Any] = {}
            for (agent, name, turn), slot in question.slots.items():
                answer.setdefault(agent, {}).setdefault(name, {})[turn] = slot.turn % 4
            return json.dumps(answer)

    how = data.draw(st.sampled_from(["per-dimension", "packed"]))
    version = store.resolve(label(store, "lab/episodes", judges=[Telling()], dimensions=SEVEN, packing=how).version)
    labels = {(r["episode_id"], r["agent"], r["turn"], r["dimension"]): r["raw"] for r in rows(version, "attributions")}
    lost = {(r["episode_id"], r["agent"], r["turn"], r["dimension"]) for r in rows(version, "failures")}
    assert all(raw == turn % 4 for (_, _, turn, _), raw in labels.items())
    wanted = {(e.episode_id, t.agent, t.turn, d) for e in episodes for t in e.turns for d in SEVEN}
    assert labels.keys() | lost == wanted
    assert not labels.keys() & lost
    by_id = {e.episode_id: e for e in episodes}
    for row in rows(version, "rewards"):
        for name in SEVEN:
            g = by_id[row["episode_id"]].score(row["agent"], name, BY)
            assert row[f"raw_{name}"] == (None if g is None else pytest.approx(g * (row["turn"] % 4) / 3))


@pytest.mark.parametrize(
    ("schema", "raw_goal"), [("uniform", [2, 2, 2]), ("uniform-share", [2 / 3] * 3), ("discounted", [1.62, 1.8, 2])]
)
def test_arithmetic_schemas_need_no_judge_and_make_no_call(store: Store, schema: str, raw_goal: list[float]):
    put(store, [BOAT])
    done = label(store, "lab/episodes", schema=schema)
    assert (done.calls, done.labels) == (0, 0)
    assert not (store.root / ".ledger").exists()
    assert [r["raw_goal"] for r in rows(done.version, "rewards", store) if r["agent"] == "a"] == pytest.approx(raw_goal)
    with pytest.raises(UsageError, match="asks no judge"):
        label(store, "lab/episodes", schema=schema, judges=["lexical"])


def test_several_judges_and_samples_are_opinions_side_by_side(store: Store):
    put(store, [BOAT])
    done = label(store, "lab/episodes", judges=[Highest("x"), "lexical"], samples=2, preset="goal-only")
    assert (done.calls, done.asked, done.labels) == (8, 8, 20)
    found = rows(done.version, "attributions", store)
    assert {(r["judge"], r["sample"]) for r in found} == {("x", 0), ("x", 1), ("lexical", 0), ("lexical", 1)}
    assert {r["n_opinions"] for r in rows(done.version, "rewards", store)} == {4}
    with pytest.raises(UsageError, match="Two judges are called 'x'"):
        label(store, "lab/episodes", judges=[Highest("x"), Highest("x", temperature=1)])


@pytest.mark.slow
def test_the_manifest_says_what_was_asked_of_whom_and_no_url(store: Store, provider: Running):
    parent = put(store, [BOAT, UNSCORED])
    done = label(store, "lab/episodes", judges=[sim(provider)], evaluator=BY)
    manifest = store.resolve(done.version).manifest
    assert manifest.recipe["labels"] == {
        "schema": "direct",
        "schema_version": 2,
        "dimensions": ["relationship", "knowledge", "goal"],
        "evaluator": BY,
        "ask": "per-dimension",
        "samples": 1,
        "wording": "v2",
        "judges": [{"judge": "sim-judge", "provider": "openai", "sampling": {"temperature": 0}}],
    }
    assert manifest.recipe["scale"] == 3
    assert manifest.recipe["layout"]["layout"] == "single"
    known = manifest.provenance
    assert known["parents"] == [{"name": parent.name, "version": "v1.0.0", "digest": parent.digest}]
    assert known["judges"][0]["returned_models"] == {"sim-judge-2026-01-01": 6}
    assert known["judges"][0]["usage"]["input"] == done.usage["sim-judge"].input == provider.log()["usage"]["input"]
    assert known["failures"] == {NO_SCORE: 15}
    assert len(known["wording_sha256"]) == 64
    version = store.resolve(done.version)
    written = b"".join(path.read_bytes() for path in version.dir.rglob("*") if path.is_file())
    assert b"127.0.0.1" not in written


def test_the_rewards_name_their_call_and_the_ledger_has_it(store: Store, provider: Running):
    put(store, [BOAT])
    done = label(store, "lab/episodes", judges=[sim(provider)])
    with Ledger.default(store.root) as ledger:
        for row in rows(done.version, "attributions", store):
            (attempt,) = ledger.attempts(row["call_id"])
            assert attempt.status == "answer"
            assert attempt.returned_model == "sim-judge-2026-01-01"


def test_the_documented_judge_works_as_it_stands(store: Store, tmp_path: Path):
    blocks = (ROOT / "docs" / "labelling.md").read_text("utf-8").split("```python\n")[1:]
    (code,) = (block.split("```")[0] for block in blocks if "class AllEqual" in block)
    (tmp_path / "mine.py").write_text(code)
    put(store, [BOAT])
    done = label(store, "lab/episodes", judges=[f"{tmp_path / 'mine.py'}:AllEqual"], packing="packed")
    assert {(r["judge"], r["raw"]) for r in rows(done.version, "attributions", store)} == {("all-equal", 3.0)}
    assert done.failures == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v014", "head_patched"])
def test_recorded_episodes_end_in_labels_and_failures_without_a_remainder(recordings, store: Store, name: str):
    from sotopia_rl_data.importers.importing import import_dataset

    import_dataset(store, [recordings.episodes / name], "real/set")
    done = label(store, "real/set", judges=["lexical"], dimensions=SEVEN, packing="packed")
    assert done.labels + done.failed == 7 * done.utterances
    assert set(done.failures) <= {NO_SCORE}
    assert done.rewarded == done.utterances - done.failures.get(NO_SCORE, 0) // 7


# --- what is not asked again ------------------------------------------------------------------------------------------


def test_the_same_command_again_asks_nothing_and_finds_its_version(store: Store):
    put(store, [BOAT, ODD])
    first = label(store, "lab/episodes", judges=[Highest()])
    judge = Highest()
    again = label(store, "lab/episodes", judges=[judge])
    assert (judge.calls, again.hits, again.created, again.digest) == (0, first.calls, False, first.digest)


def test_one_episode_more_asks_about_that_one_only(store: Store):
    put(store, boats(3))
    label(store, "lab/episodes", judges=[Highest()], dimensions=["goal"], preset="goal-only")
    put(store, boats(4))
    judge = Highest()
    done = label(store, "lab/episodes", judges=[judge], dimensions=["goal"], preset="goal-only")
    assert {episode for episode, _ in judge.asked} == {"e0003"}
    assert (done.asked, done.hits) == (2, 6)


STRICT = """
from sotopia_rl_data.errors import BadAnswer
from sotopia_rl_data.labelers.schemas.offline import Importance

class Strict(Importance):  # direct, read by another parser: it takes no threes
    def read(self, question, text):
        values = super().read(question, text)
        if 3.0 in values.values():
            raise BadAnswer("no threes here")
        return values

STRICT = Strict(id="direct")
"""


def test_a_changed_parser_costs_no_call(store: Store, tmp_path: Path):
    file = tmp_path / "strict.py"
    file.write_text(STRICT)
    put(store, [BOAT])
    before = label(store, "lab/episodes", judges=[Highest()])
    judge = Highest()
    after = label(store, "lab/episodes", judges=[judge], schema=f"{file}:STRICT")
    assert (judge.calls, after.hits) == (6, 6)  # what does not count any more is sent back once, and not asked anew
    assert (before.labels, after.labels) == (15, 0)
    assert after.failures == {"no threes here": 15}
    repaired = label(store, "lab/episodes", judges=[judge])  # and back: the old answers count again
    assert judge.calls == 6
    assert (repaired.labels, repaired.digest) == (15, before.digest)


@pytest.mark.slow
def test_another_judge_rubric_scale_or_sampling_asks_everything(store: Store):
    put(store, [BOAT])
    label(store, "lab/episodes", judges=[Highest()])
    for changed in (
        {"judges": [Highest("other")]},
        {"judges": [Highest(temperature=1)]},
        {"judges": [Highest()], "schema": "singular"},
        {"judges": [Highest()], "scale": 5},
    ):
        assert label(store, "lab/episodes", **changed).asked == 6  # type: ignore[arg-type]
    assert label(store, "lab/episodes", judges=[Highest()], schema="scaled").asked == 0  # it asks what direct asks
    assert label(store, "lab/episodes", judges=[Highest()], samples=3).asked == 12  # two samples more
    assert label(store, "lab/episodes", judges=[Highest()], dimensions=SEVEN).asked == 0  # no scores on the other four
    assert label(store, "lab/episodes", judges=[Highest()], packing="packed").asked == 1


def test_equal_questions_are_asked_once_and_answer_for_every_episode(store: Store):
    put(store, [BOAT, replace(BOAT, episode_id="copy")])
    done = label(store, "lab/episodes", judges=[Highest()])
    assert (done.calls, done.asked, done.repeated, done.labels) == (12, 6, 6, 30)


def test_a_failed_answer_is_a_failure_and_asked_again_only_when_told(store: Store):
    put(store, [BOAT])
    judge = Sulking("b")
    first = label(store, "lab/episodes", judges=[judge])
    assert (first.asked, first.unusable, first.repaired, first.labels) == (9, 3, 0, 9)  # three were sent back
    (reason,) = first.failures
    assert first.failures == {reason: 6}
    assert reason == "the answer is not JSON: I would rather not."
    lost = [r for r in rows(first.version, "failures", store) if r["dimension"] == "goal"]
    assert [(r["agent"], r["turn"], r["judge"]) for r in lost] == [("b", 1, "sulking"), ("b", 3, "sulking")]
    assert all(r["call_id"] for r in lost)
    judge.sulks_about.clear()
    assert label(store, "lab/episodes", judges=[judge]).asked == 0
    assert label(store, "lab/episodes", judges=[judge]).digest == first.digest
    retried = label(store, "lab/episodes", judges=[judge], retry_failed=True)
    assert (retried.asked, retried.labels, retried.failures) == (3, 15, {})
    assert label(store, "lab/episodes", judges=[judge], retry_failed=True).asked == 0


@pytest.mark.slow
def test_every_kind_of_malformed_reply_becomes_a_reason_and_never_a_number(store: Store):
    put(store, boats(40, turns=3))
    with running(malformed="all", malformed_share=0.5) as provider:
        done = label(store, "lab/episodes", judges=[sim(provider)], preset="goal-only")
        assert provider.log()["requests"] <= 120  # one call each, and one more for about every other
    assert done.labels + done.failed == 120
    assert done.failed > 10
    assert len(done.failures) >= 6, "the draw should meet most of the twelve kinds"
    for row in rows(done.version, "rewards", store):
        assert (row["raw_goal"] is None) == (row["reward"] is None)


@pytest.mark.slow
def test_replay_gives_the_very_rows_without_a_call(store: Store, tmp_path: Path, provider: Running):
    episodes = boats(5)
    put(store, episodes)
    first = label(store, "lab/episodes", judges=[sim(provider)], preset="goal-only")
    asked = provider.log()["requests"]
    other = Store(tmp_path / "other")
    put(other, episodes)
    second = label(other, "lab/episodes", judges=[f"replay:{store.root}"], preset="goal-only")
    assert (second.digest, provider.log()["requests"]) == (first.digest, asked)


# --- when things go wrong ---------------------------------------------------------------------------------------------


def test_a_provider_that_is_down_leaves_no_version(store: Store):
    put(store, [BOAT])
    with pytest.raises(Unavailable, match="cannot be reached"):
        label(store, "lab/episodes", judges=["openai:m@http://127.0.0.1:9/v1"], pacing=QUICK)
    assert store.names() == ["lab/episodes"]
    assert not list(store.root.glob(".staging/*--*"))


def test_a_provider_that_refuses_leaves_no_version(store: Store):
    put(store, boats(6))
    with running(refuse=401) as provider, pytest.raises(Rejected, match="401"):
        label(store, "lab/episodes", judges=[sim(provider)], preset="goal-only")
    assert store.names() == ["lab/episodes"]


@pytest.mark.slow
def test_calls_that_get_no_answer_are_failures_that_the_next_run_asks_again(store: Store):
    put(store, boats(30))
    with running(broken=0.6) as provider:
        judge = sim(provider)
        first = label(
            store, "lab/episodes", judges=[judge], preset="goal-only", pacing=replace(QUICK, tries=1), concurrency=4
        )
    assert first.unreachable > 0
    assert first.failed == 2 * first.unreachable
    reasons = {r["reason"] for r in rows(first.version, "failures", store)}
    assert all(reason.startswith("no answer: ") and "127.0.0.1" not in reason for reason in reasons)
    with running(port=int(provider.url.rpartition(":")[2])):
        second = label(store, "lab/episodes", judges=[judge], preset="goal-only")
    assert (second.asked, second.failures) == (first.unreachable, {})


# --- files, notebooks -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_bundled_samples_are_labelled_where_nothing_is_named(store: Store):
    done = label(store, None, judges=["lexical"])
    assert done.version == "samples-rewards@v1.0.0"
    assert done.episodes >= 24
    assert done.labels > 300
    counted = open_dataset(done.version, store).sql("SELECT count(*) AS n FROM rewards").to_pylist()
    assert counted == [{"n": done.utterances}]


def test_label_works_where_an_event_loop_runs_already(store: Store):
    import asyncio

    put(store, [BOAT])

    async def notebook() -> int:
        return label(store, "lab/episodes", judges=[Highest()]).labels

    assert asyncio.run(notebook()) == 15


def test_progress_counts_the_calls_of_all_judges_together(store: Store):
    put(store, [BOAT])
    heard: list[tuple[int, int | None, str]] = []
    label(store, "lab/episodes", judges=[Highest("x"), Sulking("b")], progress=lambda *told: heard.append(told))  # type: ignore[arg-type]
    assert heard[-1] == (12, 12, "3 failed")
    assert all(total == 12 for _, total, _ in heard)


@pytest.mark.slow
def test_keys_are_written_nowhere(store: Store, monkeypatch: pytest.MonkeyPatch):
    key = "sk-this-is-a-secret-key-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    put(store, boats(6))
    with running(key="another") as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.openai_url)
        with pytest.raises(Rejected) as caught:
            label(store, "lab/episodes", judges=[sim(provider)], preset="goal-only")
    assert key not in str(caught.value)
    with running(key=key) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.openai_url)
        label(store, "lab/episodes", judges=[sim(provider)], preset="goal-only")
    for path in store.root.rglob("*"):
        assert path.is_dir() or key.encode() not in path.read_bytes(), path
