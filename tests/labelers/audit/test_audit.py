"""Bias probes: planted biases are found, an unbiased judge is left in peace, nothing is asked that was not allowed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fixtures.batches import PROVIDERS
from fixtures.batches import judge as judge_named
from fixtures.biased_judge import running
from fixtures.flat_calls import audit, label, planned
from fixtures.labelling import BOAT, ODD, Highest, Stumbling, Sulking, boats, put, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from sotopia_rl_data.asking.ask import ask
from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.cli.audit import audit as command
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.costs.prices import load
from sotopia_rl_data.errors import BudgetSpent, InputError, SotopiaDataError, UsageError
from sotopia_rl_data.fake_provider.running import running as running_provider
from sotopia_rl_data.labelers.audit import PROBES
from sotopia_rl_data.labelers.audit.analysis import BIASED, TOO_FEW, UNBIASED, UNSTEADY, verdict
from sotopia_rl_data.labelers.audit.auditing import read
from sotopia_rl_data.labelers.audit.probes import REPEAT, LabelContrast, filler
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.schema import Agent, Episode, Score, Turn
from sotopia_rl_data.store import Store, Version

NAMES = ("Finnegan O'Malley", "Dr. Ana-María Núñez", "Jean-Luc Moreau", "Sam Okafor")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def judge() -> Iterator[str]:
    with running() as url:
        yield url


def dialogues(count: int, turns: int = 8) -> list[Episode]:
    """Episodes of two whose utterances say what they are worth, no two alike."""
    made = []
    for i in range(count):
        agents = (Agent("a", NAMES[i % 4], goal="sell"), Agent("b", NAMES[(i + 1) % 4], goal="buy"))
        said = tuple(
            Turn(t, "ab"[t % 2], "speak", f"[{1 + (i * 7 + t * 5) % 3 / 2}] word{i} word{t}") for t in range(turns)
        )
        scores = tuple(Score(agent, d, 4.0, "gpt-4") for agent in "ab" for d in ("goal", "relationship"))
        made.append(Episode(f"e{i:03}", f"env{i % 9}", agents, said, scores, scenario=f"Market {i}."))
    return made


def test_each_probe_changes_what_it_says_and_nothing_else():
    changed = {name: one(BOAT, 0) for name, one in PROBES.items()}
    order, name, padded, moved = (changed[p].episode for p in ("order", "name", "padded", "moved"))
    assert order.episode_id == "boat~order"
    assert replace(order, episode_id="boat", agents=BOAT.agents) == BOAT
    assert [a.agent for a in order.agents] == ["b", "a"]
    assert [a.name for a in name.agents] == ["Person A", "Person B"]
    assert [t.turn for t in name.turns] == [t.turn for t in BOAT.turns]
    longer = [(a, b) for a, b in zip(BOAT.turns, padded.turns, strict=True) if a != b]
    assert {a.agent for a, _ in longer} == {"a", "b"} or len(longer) == len(changed["padded"].contrasts)
    assert all(b.text == f"{a.text} {filler()}" for a, b in longer)
    # agent a speaks only once, so only b's two spoken turns change places
    assert [t.text for t in moved.turns] == [BOAT.turns[i].text for i in (0, 3, 2, 1, 4)]
    assert changed["moved"].contrasts == (LabelContrast("b", 1, 3, 1), LabelContrast("b", 3, 1, -1))


def test_the_contrasts_of_order_favour_who_is_listed_first():
    signs = {(one.agent, one.sign) for one in PROBES["order"](BOAT, 0).contrasts}
    assert signs == {("a", -1), ("b", 1)}  # b is first in the changed episode, a was first in the original
    three = PROBES["order"](ODD, 0).contrasts
    assert {one.agent for one in three} == {"s1", "s2", "z"}


def test_names_go_wherever_they_stand_and_words_stay():
    agents = (
        Agent("a", "Dr. Ana-María Núñez", goal="Make Will Rose laugh.", background="Ana-María is a doctor."),
        Agent("b", "Will Rose", secret="Rose owes Núñez money."),
        Agent("c", "Sam O'Malley"),
        Agent("d", "Sam Rose"),
    )
    turns = (
        Turn(0, "a", "speak", "Will Rose, will you? O'Malley's boat, Sam."),
        Turn(1, "b", "speak", "Dr. Ana-María Núñez! Nuñez, Ana."),
    )
    hidden = PROBES["name"](Episode("e", "v", agents, turns), 0).episode
    assert hidden.turns[0].text == "Person B, will you? Person C's boat, Person."
    assert hidden.turns[1].text == "Person A! Nuñez, Ana."
    assert hidden.agents[0].background == "Person A is a doctor."
    assert hidden.agents[1].secret == "Person owes Person A money."  # two are called Rose
    assert hidden.agents[0].goal == "Make Person B laugh."


@given(st.integers(0, 5))
@settings(max_examples=6, deadline=None)
def test_a_contrast_is_always_between_utterances_that_both_episodes_have(seed: int):
    for episode in (BOAT, ODD, *dialogues(2)):
        keys = {(t.agent, t.turn) for t in episode.turns}
        for one in PROBES.values():
            found = one(episode, seed)
            if found is not None:
                after = {(t.agent, t.turn) for t in found.episode.turns}
                assert all((c.agent, c.before) in keys and (c.agent, c.after) in after for c in found.contrasts)


def test_the_same_question_is_asked_twice_and_everything_else_once(store: Store):
    put(store, dialogues(3))
    version = store.resolve("lab/episodes")
    made = planned(
        version, Highest(), episodes=10, seed=0, probes=["order", "moved"], schema=None, dimensions=["goal"],
        scale=None, packing="packed", evaluator=None, sampling=None,
    )  # fmt: skip
    (group,) = made.questions().groups()
    asked = [(one.asked.episode.episode_id, one.sample) for one in group.requests()]
    assert asked[:6] == [(f"e{i:03}", n) for i in range(3) for n in (0, 1)]
    assert sorted(asked[6:]) == sorted((f"e{i:03}~{name}", 0) for i in range(3) for name in ("order", "moved"))


def test_the_version_holds_what_was_asked_and_the_verdict(store: Store):
    put(store, dialogues(11))
    report = audit(store, "lab/episodes", Highest(), dimensions=["goal"], packing="packed")
    assert report.verdict.verdict == UNBIASED
    assert report.verdict.noise.equal == 1.0
    made = store.resolve("lab/episodes-audit")
    assert made.ref == report.version
    assert {row["episode_id"] for row in rows(made, "episodes")} == {
        f"e{i:03}{probe}" for i in range(11) for probe in ("", "~order", "~name", "~padded", "~moved")
    }
    assert made.manifest.provenance["audit"]["verdict"] == UNBIASED
    labels = rows(made, "attributions")
    assert len(labels) == report.labels == 11 * 8 * (2 + 4)
    split = {row["episode_id"].split("~")[0]: set() for row in rows(made, "episodes")}
    for name, paths in made.files("episodes").items():
        import pyarrow.parquet as pq

        for episode in (e for path in paths for e in pq.read_table(path).column("episode_id").to_pylist()):
            split[episode.split("~")[0]].add(name)
    assert all(len(found) == 1 for found in split.values())


@pytest.mark.slow
def test_what_was_labelled_costs_nothing_again_and_neither_does_a_second_audit(store: Store):
    put(store, dialogues(4))
    one = Highest()
    label(store, "lab/episodes", judges=[one], dimensions=["goal"], preset="goal-only", scale=5)
    before = one.calls
    report = audit(store, "lab/episodes-rewards", one)  # the labels' own schema, scale and dimensions
    assert report.hits == before
    assert one.calls == report.calls
    assert report.verdict.scale == (0.0, 5.0)
    again = audit(store, "lab/episodes-rewards", one)
    assert (again.asked, again.created, again.digest) == (0, False, report.digest)


def test_a_failed_answer_is_a_failure_and_its_pair_is_left_out(store: Store):
    put(store, dialogues(4))
    report = audit(store, "lab/episodes", Sulking("a"), dimensions=["goal"])
    assert sum(report.failures.values()) == 4 * 4 * (2 + 4)
    assert all(one.labels for one in report.verdict.findings)
    other = store.root / ".other"
    with pytest.raises(InputError, match="no answer that can be used"):
        audit(store, "lab/episodes", Sulking("a", "b"), dimensions=["goal"], out="lab/none", ledger=other)
    assert store.latest("lab/none") is None


@pytest.mark.slow
def test_an_unusable_answer_is_sent_back_once_and_the_second_one_counts(store: Store):
    put(store, dialogues(3))
    one = Stumbling()
    report = audit(store, "lab/episodes", one, dimensions=["goal"], probes=["order"])
    assert (report.calls, report.repaired, report.unusable, report.failures) == (18, 18, 0, {})
    assert (one.calls, report.asked) == (36, 36)
    assert report.labels == 3 * 8 * 3
    assert report.verdict.noise.equal == 1.0
    again = audit(store, "lab/episodes", one, dimensions=["goal"], probes=["order"])
    assert (again.asked, again.repaired, again.digest) == (0, 18, report.digest)
    sulking = audit(store, "lab/episodes", Sulking("a"), dimensions=["goal"], probes=["order"], out="lab/sulking")
    assert (sulking.asked, sulking.repaired, sulking.unusable) == (9 + 2 * 9, 0, 9)  # sent back once, and not twice


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROVIDERS)
def test_batches_end_in_the_digest_of_a_live_audit_at_half_the_price(store: Store, tmp_path: Path, protocol: str):
    prices, other = tmp_path / "prices.yaml", Store(tmp_path / "live")
    prices.write_text('{as_of: 2026-11-01, hosts: {"*": {"sim": [2.5, 2.5, 2.5, 10]}}}')
    for one in (store, other):
        put(one, dialogues(3))
    with running_provider(malformed="missing,refusal", malformed_share=0.3, seed=1) as provider:
        command = [
            "audit",
            "lab/episodes",
            "--judge",
            judge_named(protocol, provider),
            "--dimensions",
            "goal",
            "--json",
        ]
        command += ["--max-tokens", "300", "--prices", str(prices), "--budget", "5", "--json"]
        batched = CliRunner().invoke(cli, [*command, "--store", str(store.root), "--batch", "--poll", "1"])
        assert provider.log()["batch"]["batches"] == 2  # the questions, and the second tries
        usage, answered = provider.log()["usage"], provider.log()["answered"]
        live = CliRunner().invoke(cli, [*command, "--store", str(other.root)])
    first, second = json.loads(batched.stdout), json.loads(live.stdout)
    assert first["digest"] == second["digest"]
    assert first["repaired"] == second["repaired"] > 0
    assert first["asked"] == second["asked"] == answered
    assert first["bill"]["total"] == pytest.approx((usage["input"] * 2.5 + usage["output"] * 10) / 1e6 / 2)
    assert second["bill"]["total"] == pytest.approx(2 * first["bill"]["total"])


def labels_of(shift: float = 0.0, noise: float = 0.0, episodes: int = 30) -> tuple[dict, dict]:
    """Labels of one probe by hand: the changed ones are shifted, all have noise."""
    rng = np.random.default_rng(0)
    contrasts = {"padded": [], REPEAT: []}
    labels = {}
    for i in range(episodes):
        for t in range(4):
            contrasts["padded"].append((f"e{i}", LabelContrast("a", t, t, 1)))
            contrasts[REPEAT].append((f"e{i}", LabelContrast("a", t, t, 1)))
            for key, moved in (((f"e{i}", 0), 0.0), ((f"e{i}", 1), 0.0), ((f"e{i}~padded", 0), shift)):
                labels[key[0], "a", t, "goal", key[1]] = 1.0 + moved + noise * rng.normal()
    return labels, contrasts


def test_a_shift_is_the_mean_difference_with_its_effect_size():
    labels, contrasts = labels_of(shift=0.5, noise=0.3)
    found = verdict("j", labels, contrasts, ("goal",))
    assert (found.verdict, found.sentence) == (BIASED, "j favours the longer utterance by 0.52 levels.")
    shift = found.findings[0]
    pairs = [(f"e{i}", t) for i in range(30) for t in range(4)]
    d = [labels[f"{e}~padded", "a", t, "goal", 0] - labels[e, "a", t, "goal", 0] for e, t in pairs]
    assert shift.mean == pytest.approx(np.mean(d))
    assert shift.effect == pytest.approx(np.mean(d) / np.std(d, ddof=1))
    assert shift.low < np.mean(d) < shift.high
    assert (shift.labels, shift.episodes, shift.p) == (120, 30, pytest.approx(1e-4))
    assert shift.adjusted == pytest.approx(2e-4)  # two tests


def test_movement_without_direction_is_unsteady_and_noise_is_neither():
    labels, contrasts = labels_of()
    for (episode, agent, t, d, n), value in list(labels.items()):
        if episode.endswith("~padded"):
            labels[episode, agent, t, d, n] = value + (1 if t % 2 else -1)
    assert verdict("j", labels, contrasts, ("goal",)).verdict == UNSTEADY
    assert verdict("j", *labels_of(noise=1.0), ("goal",)).verdict == UNBIASED
    assert verdict("j", *labels_of(), ("goal",)).verdict == UNBIASED


@pytest.mark.parametrize(("episodes", "word"), [(8, TOO_FEW), (9, BIASED)])
def test_so_few_episodes_that_nothing_could_be_found_acquit_nobody(episodes: int, word: str):
    """Two tests at 0.01: eight episodes give 2 × 2⁻⁷ at the smallest, nine give 2 × 2⁻⁸. The judge favours length."""
    labels, contrasts = labels_of(shift=3.0, episodes=episodes)
    found = verdict("j", labels, contrasts, ("goal",))
    assert found.verdict == word
    if word == TOO_FEW:
        assert found.sentence == (
            "None of 2 tests over 8 episodes can come below alpha 0.01, whatever the judge does: ask about 9 or more."
        )
        assert "raise --alpha" in verdict("j", labels, contrasts, ("goal",), alpha=1e-5).sentence


def audited(store: Store, version: Version, spec: str, dimensions: tuple[str, ...] = ("goal", "relationship")):
    made = planned(
        version, spec, episodes=100, seed=0, probes=None, schema=None, dimensions=dimensions,
        scale=None, packing="packed", evaluator=None, sampling=None,
    )  # fmt: skip
    with Ledger(store.root / ".ledger") as ledger:
        ask(made.questions(), ledger, AskOptions(), load())
        return read(made, ledger).verdict


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bias", "where"), [("order", "order"), ("name", "name"), ("length", "padded"), ("position", "moved")]
)
def test_a_planted_bias_of_half_a_level_is_found_in_a_hundred_episodes(store: Store, judge: str, bias: str, where: str):
    version = put(store, dialogues(100))
    found = audited(store, version, f"openai:{bias}@{judge}")
    tests = {(one.probe, one.test): one for one in found.findings}
    assert found.verdict == BIASED
    assert tests[where, "shift"].adjusted < 0.01
    assert tests[where, "shift"].low < 0.5 * 1.05
    assert 0.35 < tests[where, "shift"].mean < 0.6
    assert tests[where, "shift"].p <= 0.001
    others = [one for one in found.findings if one.test == "shift" and one.probe != where]
    assert not any(one.found(found.alpha) for one in others)
    print(bias, found.sentence, [(k, round(v.mean, 3), round(v.adjusted, 5)) for k, v in tests.items()])


@pytest.mark.slow
def test_an_unbiased_noisy_judge_raises_an_alarm_in_at_most_5_percent_of_200_simulations(store: Store, judge: str):
    version = put(store, dialogues(12, turns=4))
    found = [audited(store, version, f"openai:noisy-{i}@{judge}", dimensions=["goal"]) for i in range(200)]
    alarms = sum(one.verdict != UNBIASED for one in found)
    low = np.mean([[test.p < 0.05 for test in one.findings] for one in found])
    print(f"{alarms} alarms in 200 simulations; {low:.1%} of the single tests are below 0.05")
    assert alarms <= 10
    assert 0.02 < low < 0.07  # the tests keep their level and are not merely deaf


@pytest.mark.slow
def test_nothing_is_asked_beyond_what_is_allowed(store: Store):
    put(store, dialogues(4))
    one = Highest()
    with pytest.raises(UsageError, match="needs 48 calls, but --max-calls allows only 47") as wrong:
        audit(store, "lab/episodes", one, dimensions=["goal"], max_calls=47)
    assert "--episodes" in wrong.value.hint
    with pytest.raises(UsageError, match="no budget can be kept"):
        audit(store, "lab/episodes", one, dimensions=["goal"], budget=1.0)
    assert one.calls == 0
    assert audit(store, "lab/episodes", one, dimensions=["goal"], max_calls=48).asked == 48
    audit(store, "lab/episodes", one, dimensions=["goal"], max_calls=0)  # all of it is in the ledger


@pytest.mark.slow
def test_a_budget_is_a_hard_cap_for_all_runs_together(store: Store, tmp_path: Path):
    """What was answered under a cap that was too small is kept, and a larger one goes on from there."""
    put(store, dialogues(4))
    (tmp_path / "prices.yaml").write_text('{as_of: 2026-11-01, hosts: {"*": {"sim": [2.5, 1.25, 2.5, 10]}}}')
    with running_provider() as provider:
        spec = f"openai:sim@{provider.openai_url}"
        how = {"dimensions": ["goal"], "sampling": {"max_tokens": 300}, "prices": tmp_path / "prices.yaml"}
        with pytest.raises(BudgetSpent, match=r"Nothing more fits under the budget of 0\.1 USD"):
            audit(store, "lab/episodes", spec, **how, budget=0.1)
        part = provider.log()["answered"]
        assert 0 < part < 48
        done = audit(store, "lab/episodes", spec, **how, budget=5.0)
        assert (done.hits, provider.log()["answered"]) == (part, 48)
    assert done.bill.total is not None
    assert 0 < done.bill.total < 5.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"probes": ["colour"]}, "'colour' is not a probe"),
        ({"episodes": 1}, "An audit needs at least two episodes, but --episodes is 1"),
        ({"schema": "uniform"}, "asks no judge"),
        ({"dimensions": ["charm"]}, "'charm' is not"),
        ({"evaluator": "nobody"}, "scored by 'nobody'"),
        ({"scale": 4}, "no wording for a scale"),
        ({"dimensions": ["secret"]}, "No episode has a score on secret"),
        ({"out": "no name"}, "is not a possible name of a dataset"),
    ],
)
def test_bad_input_is_a_sentence_and_its_hint_before_anything_is_asked(store: Store, how: dict, sentence: str):
    put(store, dialogues(3))
    one = Highest()
    with pytest.raises(SotopiaDataError, match=sentence) as wrong:
        audit(store, "lab/episodes", one, **how)
    assert wrong.value.hint
    assert one.calls == 0
    assert store.names() == ["lab/episodes"]


def test_episodes_that_nobody_scored_cannot_be_asked_about(store: Store):
    alone = [replace(e, turns=tuple(t for t in e.turns if t.agent == "a")) for e in boats(3)]
    put(store, alone)
    with pytest.raises(InputError, match="has 0"):
        audit(store, "lab/episodes", Highest(), dimensions=["goal"])


@pytest.mark.slow
def test_the_command_estimates_and_audits(store: Store):
    put(store, boats(4))
    arguments = ["lab/episodes", "--judge", "lexical", "--dimensions", "GOAL", "--store", str(store.root), "--json"]
    dry = CliRunner().invoke(command, [*arguments, "--dry-run"], standalone_mode=False)
    assert json.loads(dry.stdout)["judges"][0]["asked"] == 48
    assert store.names() == ["lab/episodes"]
    done = CliRunner().invoke(command, arguments, standalone_mode=False)
    assert done.exit_code == 0, done.exception
    told = json.loads(done.stdout)
    assert told["asked"] == 48
    assert {one["probe"] for one in told["verdict"]["findings"]} == set(PROBES)
