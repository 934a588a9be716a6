"""`available`: what is built in, and what an installed package brings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.places import ROOT

from sotopia_rl_data.labelers import judges, schemas
from sotopia_rl_data.rewards.recipe import presets


@pytest.fixture
def run(tmp_path: Path):
    """Runs `available` where the package `toy` is installed, with a judge, a schema, a policy and a reward."""
    metadata = tmp_path / "site" / "toy-1.2.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.2\n")
    kinds = ("judges", "schemas", "policies", "rewards")
    (metadata / "entry_points.txt").write_text("".join(f"[sotopia_rl_data.{k}]\nours = toy:{k}\n" for k in kinds))

    def call(*arguments: str) -> str:
        path = os.pathsep.join([str(ROOT), str(tmp_path / "site")])
        command = [sys.executable, "-m", "sotopia_rl_data", "available", *arguments]
        environment = os.environ | {"PYTHONPATH": path}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout

    return call


def test_everything_built_in_and_installed_is_listed(run):
    rows = json.loads(run("--json"))
    names = {kind: [row["name"] for row in rows if row["kind"] == kind] for kind in {row["kind"] for row in rows}}
    assert names["judges"] == [*judges.MEANINGS, "ours"]
    assert {*schemas.BUILTINS, "counterfactual", "shapley"} < set(names["schemas"])
    assert [name for name in names["presets"] if not name.startswith("./")] == list(presets())
    assert names["rewards"][0] == "format"
    files = [path.name.split(".")[:2] for path in (ROOT / "trainers" / "presets").glob("*.yaml")]
    assert sorted(names["train-presets"]) == sorted(" ".join(of) for of in files)
    assert {row["kind"] for row in rows if row["name"] == "ours"} == {"judges", "schemas", "policies", "rewards"}
    assert {row["from"] for row in rows if row["name"] == "ours"} == {"toy 1.2"}
    assert all(row["about"] for row in rows if row["from"] == "built in")


def test_one_kind_is_listed_alone(run):
    assert [line.split() for line in run("rewards").splitlines() if line.startswith("ours")] == [["ours", "toy", "1.2"]]
    assert "schemas" not in run("rewards")
