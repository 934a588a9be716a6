"""-1.0 in training rows is a reward like any other, until somebody says that it stands for none; either way it is
counted aloud."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.records import PLAIN, lines, table

from sotopia_rl_data import open_dataset
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.importers.importing import ImportReport, import_dataset
from sotopia_rl_data.importers.options import ImportOptions
from sotopia_rl_data.store import Store

ROWS = [
    {"input": f"Scenario: tree {i}.", "output": str(i), "value": v} for i, v in enumerate([0.5, -1.0, -2.0, None, -1])
]
KEPT = "2 of 5 rewards are exactly -1, and are kept as they are; where that stands for no label, "
KEPT += "import again with --sentinel -1"


def imported(tmp_path: Path, path: Path, **options: Any) -> tuple[ImportReport, list[float | None]]:
    store = Store(tmp_path / "store")
    report = import_dataset(store, [path], "o/n", options=ImportOptions(**options))
    query = "SELECT reward FROM rewards ORDER BY completion[1].content"
    return report, [row["reward"] for row in open_dataset(report.version.ref, store).sql(query).to_pylist()]


def test_minus_one_stays_a_reward_and_that_is_said(tmp_path):
    report, rewards = imported(tmp_path, lines(tmp_path / "rows.jsonl", *ROWS))
    assert rewards == [0.5, -1.0, -2.0, None, -1.0]
    assert report.warnings[0] == KEPT


@pytest.mark.parametrize(("sentinel", "left"), [(-1, [0.5, None, -2.0, None, None]), (-2, [0.5, -1, None, None, -1])])
def test_the_sentinel_is_what_the_user_names_and_how_many_it_was_is_said(tmp_path, sentinel, left):
    report, rewards = imported(tmp_path, lines(tmp_path / "rows.jsonl", *ROWS), sentinel=sentinel)
    assert rewards == left
    count = 2 if sentinel == -1 else 1
    assert report.warnings[0] == f"{count} of 5 rewards were {sentinel}, the sentinel: they are NULL"
    assert report.version.manifest.provenance["sentinel"] == sentinel


def test_a_sentinel_of_zero_is_one_too(tmp_path):
    report, rewards = imported(tmp_path, lines(tmp_path / "rows.jsonl", ROWS[0], ROWS[1] | {"value": 0}), sentinel=0.0)
    assert (rewards, report.version.manifest.provenance["sentinel"]) == ([0.5, None], 0.0)


def test_no_such_reward_and_nothing_is_said(tmp_path):
    report, _ = imported(tmp_path, lines(tmp_path / "rows.jsonl", *(row for row in ROWS if row["value"] != -1)))
    assert not any("sentinel" in warning for warning in report.warnings)


def test_rows_of_a_table_and_of_trl_have_it_too(tmp_path):
    _, rewards = imported(tmp_path, table(tmp_path / "rows.csv", *ROWS[:3]), sentinel=-1.0)
    assert rewards == [0.5, None, -2.0]
    trl = [{"prompt": row["input"], "completion": row["output"], "reward": row["value"]} for row in ROWS]
    _, rewards = imported(tmp_path, lines(tmp_path / "trl.jsonl", *trl), sentinel=-1.0)
    assert rewards == [0.5, None, -2.0, None, None]


def test_the_command_that_import_names_works_as_printed(tmp_path):
    path = lines(tmp_path / "rows.jsonl", *ROWS)
    command = ["import", str(path), "--name", "o/n", "--store", str(tmp_path / "store")]
    told = CliRunner().invoke(cli, command)
    assert (told.exit_code, KEPT in told.stderr) == (0, True)
    again = CliRunner().invoke(cli, [*command, *told.stderr.partition("again with ")[2].split()[:2], "--json"])
    assert json.loads(again.stdout)["warnings"][0] == "2 of 5 rewards were -1, the sentinel: they are NULL"


def test_episodes_have_no_sentinel(tmp_path):
    with pytest.raises(UsageError, match="--sentinel says which reward of training rows stands for none"):
        imported(tmp_path, lines(tmp_path / "plain.jsonl", PLAIN), sentinel=-1.0)
