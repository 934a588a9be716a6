"""What opinions disagree about most, as a list that goes back into labelling."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fixtures.opinions import judged, label_row, labelled

from sotopia_rl_data.cli.trust import curate as command
from sotopia_rl_data.curate import COLUMNS, curate
from sotopia_rl_data.errors import SotopiaDataError, UsageError
from sotopia_rl_data.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def two(store: Store):
    """Two judges on two episodes of two turns: they agree, differ by 3, by 1, by 2."""
    values = {"ann": np.array([1.0, 0, 1, 3]), "bob": np.array([1.0, 3, 2, 1])}
    return judged(store, values, episodes=2)


def test_the_widest_disagreement_comes_first_and_agreement_never(store: Store):
    rows = curate([two(store)])
    assert [(row.episode_id, row.agent, row.turn, row.dimension) for row in rows] == [
        ("e0000", "b", 1, "goal"),
        ("e0001", "b", 1, "goal"),
        ("e0001", "a", 0, "goal"),
    ]
    assert rows[0].why == "ann 0, bob 3"
    every = np.array([1, 0, 1, 3, 1, 3, 2, 1.0]).std(ddof=1)
    assert [row.spread for row in rows] == pytest.approx([w / np.sqrt(2) / every for w in (3, 2, 1)], abs=1e-6)


def test_spread_is_in_units_of_its_dimension(store: Store):
    # On `goal` everything differs, so a step of 1 is little; on `secret` everything is 0, so it is much.
    rows = [
        label_row("e", "a", t, "goal", j, raw)
        for t in range(4)
        for j, raw in (("ann", 3 * (t % 2)), ("bob", 3 * (t // 2)))
    ]
    rows += [label_row("e", "a", t, "secret", j, t == 0 and j == "bob") for t in range(4) for j in ("ann", "bob")]
    first = curate([labelled(store, rows)], top=1)[0]
    assert first.dimension == "secret"


def test_episodes_are_ranked_by_the_mean_of_their_labels(store: Store):
    values = {"ann": np.array([1.0, 0, 1, 3]), "bob": np.array([1.0, 3, 2, 3])}
    rows = curate([judged(store, values, episodes=2)], by="episode")
    assert [(row.episode_id, row.agent, row.turn, row.dimension) for row in rows] == [
        ("e0000", None, None, None),
        ("e0001", None, None, None),
    ]
    assert rows[0].why == "1 of 2 labels disputed"


def test_the_command_writes_the_list_that_labelling_takes(store: Store, tmp_path: Path):
    two(store)
    path = tmp_path / "list.csv"
    done = CliRunner().invoke(
        command,
        ["lab/labels", "-o", str(path), "--top", "2", "--json", "--store", str(store.root)],
        standalone_mode=False,
    )
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["rows"] == 2
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert tuple(found[0]) == COLUMNS == ("episode_id", "agent", "turn", "dimension", "why", "spread")
    assert (found[0]["episode_id"], found[0]["agent"], found[0]["turn"]) == ("e0000", "b", "1")


def test_a_list_of_nothing_is_told_and_leads_nowhere(store: Store, tmp_path: Path):
    judged(store, {"ann": np.array([1.0, 0, 1, 3]), "bob": np.array([1.0, 0, 1, 3])}, episodes=2)
    path = tmp_path / "none.csv"
    done = CliRunner().invoke(command, ["lab/labels", "-o", str(path), "--store", str(store.root)])
    assert done.exit_code == 0, done.exception
    assert "All opinions agree on everything" in " ".join(done.stderr.split())
    assert "next:" not in done.stderr
    assert path.read_text().splitlines() == ["episode_id,agent,turn,dimension,why,spread"]


def test_bad_input_is_a_sentence_and_its_hint(store: Store, tmp_path: Path):
    with pytest.raises(UsageError, match="No utterance has two opinions") as wrong:
        curate([labelled(store, [label_row("e", "a", 0, "goal", "ann", 1)], "lab/one")])
    assert "--judge" in wrong.value.hint
    version = two(store)
    with pytest.raises(UsageError, match="about the dimension 'secret'"):
        curate([version], dimensions=["secret"])
    done = CliRunner().invoke(
        command,
        ["lab/labels", "-o", str(tmp_path / "no" / "list.csv"), "--store", str(store.root)],
        standalone_mode=False,
    )
    assert isinstance(done.exception, SotopiaDataError)
    assert "cannot be written" in done.exception.message
