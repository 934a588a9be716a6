"""`agreement --annotation` and `--outcome`: opinions beside what importers keep of turns, agents and dialogues."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from fixtures.opinions import label_row
from scipy import stats

from sotopia_rl_data.agreement import OVERALL, agreement
from sotopia_rl_data.cli.trust import agreement as command
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.schema import Agent, Episode, Score, Turn
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.tables import ATTRIBUTIONS, EPISODES_WITH_META, episode_table

TURNS, EPISODES = 6, 12


def kept(store: Store) -> tuple[Version, np.ndarray, np.ndarray, np.ndarray]:
    """A version whose turns have a noted `mood`, whose agents a `paid`, whose dialogues a `solved` and a score on
    `csat`; what ann said of each turn, the moods, and each agent's `paid`."""
    rng = np.random.default_rng(0)
    said = rng.integers(0, 4, (EPISODES, TURNS)).astype(float)
    mood = said + rng.normal(0, 1, said.shape).round(2)
    paid = np.stack([said[:, a::2].mean(axis=1) + rng.normal(0, 0.3, EPISODES).round(2) for a in range(2)], axis=1)
    episodes, rows = [], []
    for e in range(EPISODES):
        agents = tuple(
            Agent(name, name, meta=json.dumps({"paid": paid[e, a], "shoe": "red"})) for a, name in enumerate("ab")
        )
        turns = [Turn(t, "ab"[t % 2], "speak", "x", meta=json.dumps({"mood": str(mood[e, t])})) for t in range(TURNS)]
        scores = (Score("a", "csat", float(e % 5), "people", 0.0, 4.0),)
        meta = json.dumps({"solved": e % 2 == 0})
        episodes.append(Episode(f"e{e:02}", f"v{e}", agents, tuple(turns), scores, meta=meta))
        rows += [label_row(f"e{e:02}", "ab"[t % 2], t, "goal", "ann", said[e, t]) for t in range(TURNS)]
    with store.stage("lab/kept") as stage:
        stage.write("episodes", "train", episode_table(episodes, EPISODES_WITH_META))
        stage.write("attributions", "train", pa.Table.from_pylist(rows, schema=ATTRIBUTIONS))
        return stage.commit({"kind": "toy"}).version, said, mood, paid


def test_an_annotation_is_one_more_opinion_of_each_turn(tmp_path: Path):
    version, said, mood, _ = kept(Store(tmp_path))
    pair = agreement([version], annotation="mood", resamples=200).pair("ann", "annotation mood", OVERALL)
    assert pair is not None
    assert pair.units == EPISODES * TURNS
    assert pair.figures["pearson"].value == pytest.approx(stats.pearsonr(said.ravel(), mood.ravel()).statistic)
    assert pair.figures["kendall"].value == pytest.approx(stats.kendalltau(said.ravel(), mood.ravel()).statistic)
    assert pair.figures["pearson"].low is not None


def test_an_outcome_is_compared_with_the_mean_over_the_agents_turns(tmp_path: Path):
    version, said, _, paid = kept(Store(tmp_path))
    pair = agreement([version], outcome="paid", resamples=0).pair("ann", "outcome paid", OVERALL)
    assert pair is not None
    means = np.stack([said[:, a::2].mean(axis=1) for a in range(2)], axis=1)
    assert pair.units == EPISODES * 2
    assert pair.figures["pearson"].value == pytest.approx(stats.pearsonr(means.ravel(), paid.ravel()).statistic)


def test_outcomes_of_the_dialogue_and_scores_count_too(tmp_path: Path):
    version, said, _, _ = kept(Store(tmp_path))
    solved = agreement([version], outcome="solved", resamples=0).pair("ann", "outcome solved")
    csat = agreement([version], outcome="csat", resamples=0).pair("ann", "outcome csat")
    assert solved is not None
    assert csat is not None
    assert (solved.units, csat.units) == (EPISODES * 2, EPISODES)
    means, scores = said[:, 0::2].mean(axis=1), np.arange(EPISODES) % 5
    assert csat.figures["pearson"].value == pytest.approx(stats.pearsonr(means, scores).statistic)


def test_a_column_without_numbers_is_refused_and_those_with_numbers_are_named(tmp_path: Path):
    version = kept(Store(tmp_path))[0]
    for column in ("shoe", "nothing"):
        with pytest.raises(UsageError, match="has a number") as wrong:
            agreement([version], outcome=column)
        assert "paid" in wrong.value.hint
        assert "solved" in wrong.value.hint
        assert "shoe" not in wrong.value.hint
    with pytest.raises(UsageError) as wrong:
        agreement([version], annotation="paid")
    assert wrong.value.hint == "name one of: mood"


def test_the_command_takes_one_of_both(tmp_path: Path):
    kept(Store(tmp_path))
    store = ("--store", str(tmp_path))
    done = CliRunner().invoke(command, ["lab/kept", "--outcome", "paid", "--json", *store], standalone_mode=False)
    assert {one["name"] for one in json.loads(done.stdout)["opinions"]} == {"ann", "outcome paid"}
    both = ["lab/kept", "--outcome", "paid", "--annotation", "mood", *store]
    assert isinstance(CliRunner().invoke(command, both, standalone_mode=False).exception, UsageError)


def test_evaluators_of_different_dialogues_are_not_mixed_either(tmp_path: Path):
    version, *_ = kept(store := Store(tmp_path))
    (table,) = (pq.read_table(path) for path in version.files("episodes")["train"])
    rows = table.to_pylist()
    rows[0]["scores"][0]["evaluator"] = "a judge"
    with store.stage("lab/kept") as stage:
        stage.write("episodes", "train", pa.Table.from_pylist(rows, schema=EPISODES_WITH_META))
        stage.link(version, "attributions")
        mixed = stage.commit({"kind": "toy"}).version
    with pytest.raises(UsageError, match="Several evaluators gave scores on 'csat'"):
        agreement([mixed], outcome="csat")
    pair = agreement([mixed], outcome="csat by people", resamples=0).pair("ann", "outcome csat by people", OVERALL)
    assert pair is not None
    assert pair.units == EPISODES - 1
    with pytest.raises(UsageError) as wrong:
        agreement([mixed], outcome="nothing")
    assert "csat by people" in wrong.value.hint


def test_of_several_evaluators_one_is_named_and_an_endless_number_is_missing(tmp_path: Path):
    store, agents = Store(tmp_path), (Agent("a", "a", meta=json.dumps({"paid": 10**400})), Agent("b", "b"))
    episodes, rows = [], []
    for e in range(4):
        scores = (Score("a", "csat", float(e), "people", 0.0, 4.0), Score("a", "csat", 4.0 - e, "a judge", 0.0, 4.0))
        episodes.append(Episode(f"e{e}", f"v{e}", agents, (Turn(0, "a", "speak", "x"),), scores))
        rows.append(label_row(f"e{e}", "a", 0, "goal", "ann", float(min(e, 3))))
    with store.stage("lab/kept") as stage:
        stage.write("episodes", "train", episode_table(episodes, EPISODES_WITH_META))
        stage.write("attributions", "train", pa.Table.from_pylist(rows, schema=ATTRIBUTIONS))
        version = stage.commit({"kind": "toy"}).version
    with pytest.raises(UsageError, match="Several evaluators gave scores on 'csat'") as wrong:
        agreement([version], outcome="csat")
    assert wrong.value.hint == "name one: --outcome 'csat by a judge', or --outcome 'csat by people'"
    for name, correlation in (("csat by people", 1.0), ("csat by a judge", -1.0)):
        pair = agreement([version], outcome=name, resamples=0).pair("ann", f"outcome {name}", OVERALL)
        assert pair is not None
        assert pair.figures["kendall"].value == pytest.approx(correlation)
