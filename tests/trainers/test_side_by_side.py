"""Reward models side by side: the same rows, the same rewards, intervals over episodes, differences in pairs."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = [pytest.mark.train, pytest.mark.slow]

import numpy as np
from click.testing import CliRunner
from fixtures.screens import show, wider
from fixtures.training import learn, make_dataset, quarters, says_thanks, toy_model, train_rm
from transformers import logging

from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.trainers import RewardModel, api
from sotopia_rl_data.trainers.data import load_rows

torch.set_num_threads(1)
logging.disable_progress_bar()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model that has learned its rewards, and one that saw them shuffled."""
    root = tmp_path_factory.mktemp("side")
    planted: dict[str, Any] = {
        "episodes": 60,
        "environments": 40,
        "turns": 3,
        "splits": quarters,
        "reward": says_thanks,
    }
    learn(root, 8, **planted)
    make_dataset(root, "toys/shuffled", shuffled=True, **planted)
    settings = ["disable_tqdm=true", "max_steps=2", "resamples=0"]
    train_rm(
        "toys/shuffled", toy_model(root / "other"), root / "none", preset="tiny", store=str(root), settings=settings
    )
    return root


def test_the_better_model_is_better_beyond_doubt_on_the_same_rows(root: Path):
    found = api.compare([root / "rm", root / "none"], store=root)
    assert (found["dataset"], found["split"]) == ("toys/rewards@v1.0.0", "test")
    known = list(load_rows("toys/rewards", store=root).of("test"))
    assert (found["rows"], found["episodes"]) == (len(known), len({row.episode_id for row in known}))
    assert found["warnings"] == []
    good, bad = (of["metrics"] for of in found["runs"])
    scores = RewardModel.load(root / "rm").score_batch([(row.prompt, row.completion) for row in known])
    error = float(np.mean((scores - [row.reward for row in known]) ** 2))
    assert good["mse"]["value"] == pytest.approx(error, rel=1e-4)
    assert good["mse"]["low"] <= error <= good["mse"]["high"]
    assert (
        good["spearman"]["difference"] == good["spearman"]["difference_low"] == good["spearman"]["difference_high"] == 0
    )
    assert bad["spearman"]["difference_high"] < 0 < bad["mse"]["difference_low"]
    assert bad["spearman"]["difference"] == pytest.approx(bad["spearman"]["value"] - good["spearman"]["value"])
    assert [of["trained_on"] for of in found["runs"]] == ["toys/rewards@v1.0.0", "toys/shuffled@v1.0.0"]


def test_rows_are_held_out_as_the_runs_held_them_out(root: Path, tmp_path: Path):
    def altered(run: str, **config: Any) -> Path:
        copy = shutil.copytree(root / run, tmp_path / f"{run}-{len(config)}")
        record = json.loads((copy / "run.json").read_text())
        record["config"] |= config
        (copy / "run.json").write_text(json.dumps(record))
        return copy

    choice: dict[str, Any] = {"split_by": "grouped", "sentinels": [0.0]}
    found = api.compare([altered("rm", **choice), altered("none", **choice)], store=root)
    rows = load_rows("toys/rewards", store=root, **choice).of("test")
    assert found["rows"] == len(rows) != api.compare([root / "rm", root / "none"], store=root)["rows"]
    apart = [altered("rm", split_by="grouped"), root / "none"]
    with pytest.raises(UsageError, match=r"split_by=grouped .* split_by=dataset") as told:
        api.compare(apart, store=root)
    assert "--dataset toys/rewards@v1.0.0" in told.value.hint
    named = api.compare(apart, store=root, dataset="toys/rewards@v1.0.0")
    assert named["dataset"] == "toys/rewards@v1.0.0"
    assert [("may have been trained on" in text) for text in named["warnings"]] == [True]


def test_the_command_shows_one_table_and_gives_json(root: Path):
    runs = [str(root / "rm"), str(root / "none")]
    shown = CliRunner().invoke(cli, ["inspect", *runs, "--store", str(root)], env={"COLUMNS": "300"})
    assert shown.exit_code == 0, shown.output
    assert re.search("run +trained on +mean squared error .* R² .* pair accuracy", shown.output)  # as on the card
    (line,) = [line for line in shown.output.splitlines() if str(root / "none") in line and "toys/shuffled" in line]
    assert line.count("[") >= 4
    assert "] +" in line  # its error is above the first run's
    assert "] -" in line  # and its rank correlation below
    for columns in (40, 80, 120):
        assert wider(show("inspect", *runs, "--store", str(root), columns=columns), columns) == []
    given = CliRunner().invoke(cli, ["inspect", *runs, "--split", "validation", "--store", str(root), "--json"])
    assert json.loads(given.stdout)["split"] == "validation"


def test_what_cannot_be_compared_is_a_sentence(root: Path):
    with pytest.raises(InputError, match="The nosuch split"):
        api.compare([root / "rm", root / "none"], store=root, split="nosuch")
    policy = root / "policy"
    policy.mkdir()
    record = json.loads((root / "rm" / "run.json").read_text()) | {"kind": "sft"}
    (policy / "run.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="is not a reward model's run"):
        api.compare([root / "rm", policy], store=root)
