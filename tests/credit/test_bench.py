"""`credit bench`: planted judges rank as they must, the columns name their faults, tau is that of scipy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from scipy.stats import kendalltau

from sotopia_rl_data.asking.pacing import Pacing
from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.credit.bench import Bench, bench, default_schemas
from sotopia_rl_data.credit.labelling import label_games
from sotopia_rl_data.credit.making import make_games
from sotopia_rl_data.credit.measuring import nearness, tau_b
from sotopia_rl_data.credit.planted import PLANTED
from sotopia_rl_data.credit.truth import Truth, truth_of
from sotopia_rl_data.errors import BudgetSpent, SotopiaDataError
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.labelers import Elicitation, RewardSettings, label
from sotopia_rl_data.store import Store
from sotopia_rl_data.tables import ATTRIBUTIONS

FAULTS = {"length": "length", "last": "position", "politeness": "politeness"}


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["credit", *arguments], standalone_mode=False)


def named(schemas: Sequence[str]) -> list[str]:
    return [word for schema in schemas for word in ("--schema", schema)]


def truth_by_hand(credit: list[float]) -> Truth:
    """One agent in each of the episodes, with two turns a group."""
    n = len(credit)
    sizes = np.abs(credit).reshape(-1, 2)
    pivotal = (np.arange(2) == sizes.argmax(axis=1)[:, None]).ravel()
    return Truth(
        keys=[(f"e{i // 2}", "a", i % 2) for i in range(n)],
        episode=np.arange(n) // 2,
        group=np.arange(n) // 2,
        credit=np.array(credit),
        credit_true=np.array(credit),
        pivotal=pivotal,
        words=np.ones(n),
        wording=["plain"] * n,
        move=["wait"] * n,
        starts=np.zeros(n // 2),
        scores=np.zeros(n // 2),
        shapley=np.zeros(n),
    )


def planted(store: Path, games: int, seed: int, schemas: list[str]) -> Bench:
    version = make_games(Store(store), "lab/games", games, seed).version
    return bench(version, (), PLANTED, schemas, resamples=200, seed=seed)


RANKED_BY_TAU = {
    "utterance-quality": "quality",
    "only-response": "quality",
    "leave-one-out": "counterfactual",
    "goal-progress": "progress",
}
"""Schemas whose answers go up and down, and the rule of each: turns can be put in order."""
RANKED_BY_HIT = {"direct": "direct", "direct-online": "direct", "singular": "singular"}
"""Schemas whose answers say how much and not for better or worse: the pivotal turn can be found, and no order."""
TOO_COARSE = {"goal-progress": ("length", "politeness", "last"), "singular": ("noisy-0.6",)}
"""Judges whose fault is not named for certain under a schema: most of their steps are smaller than a level of
`goal-progress`, and `singular` names one turn of a dialogue."""


def check_planted(result: Bench, schema: str) -> None:
    """The planted judges rank as they must, and the columns name the faults."""
    by_tau = schema in RANKED_BY_TAU
    rule = RANKED_BY_TAU[schema] if by_tau else RANKED_BY_HIT[schema]
    of_rule = [line for line in result.lines if (line.method.schema, line.method.rule) == (schema, rule)]
    near = {line.method.judge: line.nearness for line in of_rule}
    figures = {judge: (one.tau if by_tau else one.hit).value or 0.0 for judge, one in near.items()}
    others = [figures[judge] for judge in ("length", "last", "politeness", "random")]
    assert figures["oracle"] > figures["noisy-0.3"] > figures["noisy-0.6"] > max(others), schema
    for judge, one in near.items():
        if judge not in TOO_COARSE.get(schema, ()):
            assert one.leans_on == FAULTS.get(judge, ""), (schema, judge)
    assert {line.ceiling_tau for line in of_rule} == {near["oracle"].tau.value}


@pytest.mark.slow
def test_planted_judges_rank_as_they_must_and_their_columns_name_the_reason(tmp_path: Path):
    schemas = ["utterance-quality", "direct"]
    result = planted(tmp_path, 100, 1, schemas)
    for schema in schemas:
        check_planted(result, schema)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 120))
def test_they_do_so_in_20_of_20_seeds_under_every_schema(tmp_path: Path, seed: int):
    schemas = [*RANKED_BY_TAU, *RANKED_BY_HIT]
    assert sorted(schemas) == sorted(default_schemas())
    result = planted(tmp_path, 100, seed, schemas)
    for schema in schemas:
        check_planted(result, schema)


def test_tau_is_that_of_scipy_group_by_group():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(40), rng.integers(2, 9, 40))
    x, y = rng.integers(0, 4, len(group)).astype(float), rng.normal(size=len(group)).round(1)
    for number, tau in enumerate(tau_b(x, y, group)):
        expected = kendalltau(x[group == number], y[group == number]).statistic
        assert tau == pytest.approx(expected, nan_ok=True)


def test_figures_by_hand():
    truth = truth_by_hand([1.0, -2.0, 0.5, 0.1, 3.0, 3.0])
    found = nearness(truth, np.array([1.0, -4.0, 1.0, 1.0, 7.0, 8.0]), resamples=0)
    assert (found.groups, found.constant, found.silent) == (2, 1, 1)  # both turns of e2 are worth the same
    assert found.tau.value == 1.0  # e0; in e1 both turns get the same credit, so there is no order
    assert found.hit.value == pytest.approx((1 + 0.5) / 2)
    assert found.sign.value == 1.0
    assert nearness(truth, -truth.credit, resamples=0).tau.value == -1.0
    assert nearness(truth, -truth.credit, resamples=0).hit.value == 1.0
    assert nearness(truth, 5 * truth.credit, resamples=0).calibration == pytest.approx(0)


def test_an_utterance_without_credit_is_left_out():
    truth = truth_by_hand([1.0, -2.0, 0.5, 0.1])
    found = nearness(truth, np.array([np.nan, 1.0, 2.0, 1.0]), resamples=0)
    assert (found.answered, found.groups, found.tau.value) == (3, 1, 1.0)


def test_nothing_answered_has_no_figure():
    truth = truth_by_hand([1.0, -2.0])
    found = nearness(truth, np.array([np.nan, np.nan]))
    assert (found.tau.value, found.hit.value, found.sign.value, found.calibration, found.groups) == (None,) * 4 + (0,)


@pytest.mark.slow
def test_one_command_measures_the_offline_judge_and_a_loopback_model(tmp_path: Path):
    store = ("--store", str(tmp_path / "store"))
    schemas = ("direct", "singular", "goal-progress")
    done = invoke("bench", "--make", "6", "--judge", "lexical", "--loopback", "--json", *store, *named(schemas))
    assert done.exit_code == 0, done.exception
    result = json.loads(done.stdout)
    methods = {(line["schema"], line["judge"].partition("@")[0]) for line in result["lines"]}
    assert set(schemas) <= set(default_schemas())
    for schema in schemas:
        assert (schema, "lexical") in methods
        assert any(judge.endswith("loopback") for name, judge in methods if name == schema), methods
    assert {line["rule"] for line in result["lines"]} >= {"direct", "scaled", "singular", "progress", "uniform"}
    direct = next(line for line in result["lines"] if (line["schema"], line["judge"]) == ("direct", "lexical"))
    assert direct["calls"] == 6  # packed: one for each episode
    assert direct["ceiling_hit"] > direct["hit"]["value"]
    assert Store(tmp_path / "store").latest("credit/games-direct") is not None
    again = invoke("bench", "credit/games", "--labels", "credit/games-direct", "--schema", "direct", *store)
    assert again.exit_code == 0, again.exception
    assert "lexical" in again.stdout


def test_scores_of_a_reward_model_count_as_they_are_and_samples_are_averaged(tmp_path: Path):
    store = Store(tmp_path)
    games = make_games(store, "lab/games", 8).version
    truth = truth_of(games)
    place = {"dimension": "goal", "call_id": "c", "reasoning": None}
    rows = []
    for (episode, agent, turn), credit in zip(truth.keys, truth.credit, strict=True):
        key = {"episode_id": episode, "agent": agent, "turn": turn, **place}
        scored = {"schema": "reward-model", "measure": "quality", "judge": "rm:x", "sample": 0, "raw": float(credit)}
        rows.append(key | scored | {"scale_min": float(truth.credit.min()), "scale_max": float(truth.credit.max())})
        for sample, level in enumerate((10.0 if credit > 0 else 0.0, 5.0)):
            judged = {
                "schema": "utterance-quality",
                "measure": "quality",
                "judge": "two",
                "sample": sample,
                "raw": level,
            }
            rows.append(key | judged | {"scale_min": 0.0, "scale_max": 10.0})
    with store.stage("lab/labels") as stage:
        stage.link(games, "episodes")
        for split in games.manifest.configs["episodes"]:
            known = {truth.keys[row][0] for row in range(*truth.splits[split].indices(len(truth)))}
            of_split = [row for row in rows if row["episode_id"] in known]
            stage.write("attributions", split, pa.Table.from_pylist(of_split, schema=ATTRIBUTIONS))
        labels = stage.commit({"kind": "toy"}).version
    lines = {(line.method.judge, line.method.rule): line.nearness for line in bench(games, [labels], resamples=0).lines}
    model = lines["rm:x", "as scored"]
    assert (model.tau.value, model.hit.value, model.sign.value) == (1.0, 1.0, 1.0)
    assert model.calibration == pytest.approx(0, abs=1e-12)
    assert lines["two", "quality"].answered == len(truth)
    assert lines["two", "quality"].tau.value == pytest.approx(lines["two", "quality-score"].tau.value)


def test_what_is_wrong_is_a_sentence(tmp_path: Path):
    store = ("--store", str(tmp_path / "store"))
    make_games(Store(tmp_path / "store"), "lab/games", 2)
    make_games(Store(tmp_path / "store"), "lab/others", 2, seed=9)
    assert invoke("bench", "lab/others", "--judge", "lexical", "--schema", "direct", *store).exit_code == 0
    wrong = {
        "not a planted judge": ["lab/games", "--planted", "sage"],
        "not about the episodes": ["lab/games", "--labels", "lab/others-direct"],
        "no attributions": ["lab/games", "--labels", "lab/games"],
        "has no truth": ["lab/others-direct"],
        "no schema": ["lab/games", "--judge", "lexical", "--schema", "guess"],
    }
    for sentence, arguments in wrong.items():
        done = invoke("bench", *arguments, *store)
        assert isinstance(done.exception, SotopiaDataError), arguments
        assert sentence in done.exception.message
        assert done.exception.hint


@pytest.mark.parametrize(
    ("sentence", "arguments"),
    [
        ("not a planted judge", ["--planted", "sage"]),
        ("not about the episodes", ["--labels", "lab/others"]),
        ("no schema", ["--schema", "guess"]),
        ("asks no judge", ["--schema", "uniform"]),
    ],
)
def test_nobody_is_asked_where_an_argument_is_wrong(sentence: str, arguments: list[str], tmp_path: Path):
    store = Store(tmp_path)
    games, others = (make_games(store, f"lab/{name}", 2, seed=seed).version for seed, name in enumerate("ab"))
    with store.stage("lab/others") as stage:
        stage.link(others, "episodes")
        stage.write("attributions", "train", ATTRIBUTIONS.empty_table())
        stage.commit({})
    asked = ["--judge", "lexical", "--schema", "direct", "--store", str(tmp_path)]
    done = invoke("bench", games.ref, *asked, *arguments)
    assert isinstance(done.exception, SotopiaDataError)
    assert sentence in done.exception.message
    assert store.names() == ["lab/a", "lab/b", "lab/others"]
    assert not (tmp_path / ".ledger").exists()


def test_schemas_are_asked_once_and_a_file_of_ones_own_names_no_folder(tmp_path: Path):
    own = tmp_path / "mine.py"
    own.write_text("from sotopia_rl_data.labelers.schemas.offline import DIRECT as Mine\n")
    store, schemas = tmp_path / "store", named(["direct", "direct", f"{own}:Mine"])
    asked = ["--make", "2", "--judge", "lexical", "--planted", "last", "--resamples", "0", "--store", str(store)]
    done = invoke("bench", *asked, *schemas)
    assert done.exit_code == 0, done.exception
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"mine.py", "store"}
    assert "credit/games-direct" in Store(store).names()


@pytest.mark.slow
def test_one_cap_counts_what_may_have_been_billed_and_its_error_names_the_whole(tmp_path: Path):
    store, prices = Store(tmp_path / "store"), tmp_path / "prices.yaml"
    prices.write_text("as_of: 2026-11-01\nhosts: {'*': {sim: [1, 1, 1, 10, 100]}}\n")
    games = make_games(store, "lab/games", 8).version
    with running(broken=0.4) as provider:
        judges, options = (
            [f"openai:sim@{provider.openai_url}"],
            AskOptions(prices=prices, pacing=Pacing(backoff_s=0.01)),
        )
        asked = Elicitation(judges=judges, dimensions=["goal"], packing="packed")
        bill = label(store, "lab/games", asked, RewardSettings(weights={"goal": 1}), options=options).bill
        requests, budget = provider.log()["requests"], bill.known + bill.maybe
        with pytest.raises(BudgetSpent, match=f"the budget of {budget:g} USD"):
            label_games(store, games, judges, ["direct", "goal-progress"], replace(options, budget=budget))
        assert provider.log()["requests"] == requests
    assert bill.maybe > 0


def test_games_that_are_named_are_not_made(tmp_path: Path):
    make_games(Store(tmp_path), "lab/games", 2)
    done = invoke("bench", "lab/games", "--make", "3", "--planted", "last", "--store", str(tmp_path))
    assert isinstance(done.exception, SotopiaDataError)
    assert done.exception.message == "--make makes games, and lab/games is named."
    assert done.exception.hint == "leave --make out"


def test_a_dry_run_makes_no_games(tmp_path: Path):
    asked = ["--judge", "lexical", "--schema", "direct", "--dry-run", "--json", "--store", str(tmp_path / "store")]
    done = invoke("bench", "--make", "3", *asked)
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["direct"]["judges"][0]["asked"] == 3
    assert Store(tmp_path / "store").names() == []


def test_a_dry_run_sends_nothing(tmp_path: Path):
    store = ("--store", str(tmp_path / "store"))
    make_games(Store(tmp_path / "store"), "lab/games", 2)
    done = invoke("bench", "lab/games", "--judge", "lexical", "--schema", "direct", "--dry-run", "--json", *store)
    assert json.loads(done.stdout)["direct"]["judges"][0]["asked"] == 2
    assert Store(tmp_path / "store").latest("lab/games-direct") is None


def test_wording_is_compared_by_kind():
    truth = replace(truth_by_hand([1.0, 0.0, 1.0, 0.0]), wording=["polite", "plain"] * 2)
    found = nearness(truth, np.array([1.0, 0.0, 0.0, 1.0]), resamples=0)
    assert found.errors["wording"] == {"plain": pytest.approx(1.0), "polite": pytest.approx(1.0)}


@pytest.mark.parametrize(
    "words",
    [
        ("--planted", "nobody"),
        ("--planted", "noisy-2"),
        ("--planted", "oracle", "--schema", "nope"),
        ("--planted", "oracle", "--schema", "conversation-behaviour"),
        ("--judge", "nope"),
        ("--judge", "lexical", "--judge", "lexical"),
        ("--judge", "lexical", "--schema", "uniform"),
        ("--labels", "nowhere"),
        ("--judge", "lexical", "--html", "nowhere/bench.html"),
        ("--planted", "last", "--budget", "2"),
        ("--loopback", "--concurrency", "2"),
        ("--dry-run",),
    ],
)
def test_what_cannot_be_measured_is_said_before_games_are_made(tmp_path: Path, words: tuple[str, ...]):
    done = invoke("bench", *words, "--make", "2", "--store", str(tmp_path))
    assert isinstance(done.exception, SotopiaDataError), done.exception
    assert done.exception.hint
    assert Store(tmp_path).names() == []


def test_labels_on_other_dimensions_are_not_measured(tmp_path: Path):
    store = Store(tmp_path)
    make_games(store, "credit/games", 2)
    label(store, "credit/games", Elicitation(judges=["lexical"], schema="conversation-behaviour"), out="credit/other")
    done = invoke("bench", "credit/games", "--labels", "credit/other", "--store", str(tmp_path))
    assert isinstance(done.exception, SotopiaDataError), done.exception
    assert "no labels on goal" in done.exception.message
