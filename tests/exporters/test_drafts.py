"""The drafts of best-of-N are completions of one prompt: `trl-preference` takes the best and the worst of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from fixtures.playing import Longest, Sampler, act, brief, scenes

from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.exporters.training import export_training
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.query import sql
from sotopia_rl_data.rollouts.episode_run import Rules
from sotopia_rl_data.rollouts.rollout import plan_of, rollout
from sotopia_rl_data.store import Store, Version

DRAFTS = ("well", "very very well", "unreadable", "very well")


def answer(request: object) -> str:
    text = DRAFTS[request.sample // 3]  # type: ignore[attr-defined]
    return text if text == "unreadable" else f"I think. {act(argument=text)}"


@pytest.fixture
def best(tmp_path: Path) -> Version:
    """Two scenes of three turns; the first agent drafts four answers, of which one cannot be read."""
    store = Store(tmp_path / "store")
    plan = plan_of(scenes(2), Rules(turns=3, best_of=4, scorer=Longest()), a=Sampler("s", answer), b=brief())
    rollout(store, plan, "lab/best")
    return store.resolve("lab/best")


def pairs(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": act(argument=text)}]


def test_the_best_and_the_worst_draft_of_each_prompt_are_a_pair_as_they_were_drawn(best: Version, tmp_path: Path):
    report = export_training(best, "trl-preference", tmp_path / "out", ledger=tmp_path / "store" / ".ledger")
    drafted = sql(best, "SELECT prompt, completion FROM rewards WHERE turn IN (0, 2)").to_pylist()
    rows = pairs(tmp_path / "out")
    assert len(rows) == len(drafted) == 4
    assert sorted(map(str, (row["prompt"] for row in rows))) == sorted(str(row["prompt"]) for row in drafted)
    assert {str(row["completion"]) for row in drafted} == {str(said("very very well"))}
    for row in rows:
        assert (row["chosen"], row["rejected"]) == (said("very very well"), said("well"))
        assert row["margin"] == pytest.approx(len("very very ") / 100)
    # of 3 drafts at 4 turns one stands between; the partner's 2 utterances have no reward
    assert (sum(report.rows.values()), sum(report.left_out.values())) == (4, 4 + 2)
    assert report.left_out["no reward"] == 2


def test_the_condition_chooses_among_drafts_and_the_pairs_come_back_by_import(best: Version, tmp_path: Path):
    report = export_training(
        best,
        "trl-preference",
        tmp_path / "out",
        ledger=tmp_path / "store" / ".ledger",
        where="turn = 0 AND reward < 0.5",
    )
    (row, _) = pairs(tmp_path / "out")
    assert (row["chosen"], row["rejected"]) == (said("very well"), said("well"))
    assert report.left_out == {"the condition does not hold": 14 - 4}
    again = import_dataset(Store(tmp_path / "other"), [tmp_path / "out"], "lab/pairs")
    assert again.examples == 4


def test_without_the_ledger_a_sentence_says_what_to_name(best: Version, tmp_path: Path):
    (tmp_path / "store" / ".ledger").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError) as raised:
        export_training(best, "trl-preference", tmp_path / "out", ledger=tmp_path / "store" / ".ledger")
    assert raised.value.hint == "name the ledger of the store where its drafts were drawn, with --ledger"
    command = ["export", "lab/best", "--to", "trl-preference", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(
        cli, [*command, "--store", str(tmp_path / "store"), "--ledger", str(tmp_path / "elsewhere"), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert sum(json.loads(done.output)["rows"].values()) == 4
