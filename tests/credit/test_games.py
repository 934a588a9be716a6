"""`credit games`: an ordinary dataset of episodes, whose truth stands beside them and reaches no judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.credit.errands import Errands
from sotopia_rl_data.credit.game import AGENTS
from sotopia_rl_data.credit.haggling import Haggling
from sotopia_rl_data.credit.making import make_games, truth_rows
from sotopia_rl_data.credit.playing import played
from sotopia_rl_data.credit.saying import words_of
from sotopia_rl_data.credit.solved import solved
from sotopia_rl_data.errors import SotopiaDataError
from sotopia_rl_data.labelers.labelling import label
from sotopia_rl_data.labelers.plan import Elicitation, RewardSettings
from sotopia_rl_data.store import Store
from sotopia_rl_data.store.verify import verify

LEXICAL, GOAL_ONLY = Elicitation(judges=["lexical"]), RewardSettings(preset="goal-only")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_version(tmp_path: Path):
    first = make_games(Store(tmp_path / "a"), "lab/games", 12, seed=3)
    again = make_games(Store(tmp_path / "b"), "lab/games", 12, seed=3)
    assert first.version.digest == again.version.digest
    assert not make_games(Store(tmp_path / "a"), "lab/games", 12, seed=3).created
    assert make_games(Store(tmp_path / "a"), "lab/games", 12, seed=4).version.version == "v1.1.0"
    assert verify(first.version).problems == ()


def test_the_truth_has_a_row_for_each_utterance(tmp_path: Path):
    version = make_games(Store(tmp_path), "lab/games", 12).version
    episodes, truth = (
        [row for paths in version.files(config).values() for path in paths for row in pq.read_table(path).to_pylist()]
        for config in ("episodes", "truth")
    )
    turns = {(one["episode_id"], turn["agent"], turn["turn"]) for one in episodes for turn in one["turns"]}
    assert turns == {(row["episode_id"], row["agent"], row["turn"]) for row in truth}
    assert len(turns) == len(truth)
    assert all(score["evaluator"] == "game" for one in episodes for score in one["scores"])


def test_a_longer_run_begins_with_the_games_of_a_shorter_one():
    assert list(truth_rows(played(3, seed=0))) == list(truth_rows(played(3, seed=0)))
    assert played(3, seed=0).episode.turns != played(4, seed=0).episode.turns


def test_no_judge_is_asked_anything_that_depends_on_the_truth(tmp_path: Path):
    """The keys of the ledger, which are made of all that a judge is shown, are those of a dataset without a truth."""
    store = Store(tmp_path)
    games = make_games(store, "lab/games", 6).version
    with store.stage("lab/bare") as stage:
        stage.link(games, "episodes")
        bare = stage.commit({"kind": "episodes"}).version
    keys = []
    for version in (games, bare):
        labelled = label(store, version.ref, LEXICAL, GOAL_ONLY).committed.version
        assert "truth" not in labelled.manifest.configs
        files = [path for paths in labelled.files("attributions").values() for path in paths]
        keys.append(sorted(call for path in files for call in pq.read_table(path)["call_id"].to_pylist()))
    assert keys[0] == keys[1]


@pytest.mark.parametrize("game", [Haggling(), Errands()], ids=lambda game: game.kind)
def test_every_move_is_said_in_several_ways_and_everything_that_comes_of_it_is_answered(game: Haggling | Errands):
    words = words_of(game.kind)
    assert set(words["moves"]) == set(game.moves)
    for wordings in words["moves"].values():
        assert all(len(set(of_agent)) >= 3 for of_agent in wordings)
    heard = {
        came.heard
        for state in solved(game).states
        if not game.over(state)
        for agent in AGENTS
        for move in game.legal(state, agent)
        for came in game.outcomes(state, agent, move)
    }
    assert heard - {""} == set(words["heard"])


@pytest.mark.slow
def test_how_an_utterance_is_worded_tells_nothing_of_its_credit():
    rows = [row for number in range(150) for row in truth_rows(played(number, seed=2))]
    credit = np.array([row["advantage"] for row in rows])
    polite = np.array(["polite" in row["wording"] for row in rows])
    apart = credit[polite].mean() - credit[~polite].mean()
    assert abs(apart) < 4 * credit.std() * np.sqrt(1 / polite.sum() + 1 / (~polite).sum())


def test_what_is_wrong_with_a_call_is_a_sentence_and_leaves_nothing(tmp_path: Path):
    store = ("--store", str(tmp_path / "store"))
    for arguments in (["--make", "0"], ["--make", "2", "--seed", "-1"], ["--make", "2", "--out", "a b"]):
        done = CliRunner().invoke(cli, ["credit", "games", *arguments, *store], standalone_mode=False)
        assert done.exception is not None
        assert "Traceback" not in done.output
        assert not list((tmp_path / "store").glob("*/*/v*"))
    make_games(Store(tmp_path / "store"), "lab/games", 2)
    with pytest.raises(SotopiaDataError, match="other content"):
        make_games(Store(tmp_path / "store"), "lab/games", 3, version="v1.0.0")
