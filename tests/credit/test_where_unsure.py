"""`label --where-unsure`: judges are asked about some rows with known chances, and reward models have the rest."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from fixtures.folds import folds, talks
from fixtures.labelling import put, rows
from fixtures.places import ROOT

from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import BudgetSpent, SotopiaDataError
from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.labelers import Elicitation, RewardSettings, label
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.schemas import answers
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.store import Store
from sotopia_rl_data.store.verify import verify

pytestmark = [pytest.mark.train, pytest.mark.slow]
pytest.importorskip("torch")

from sotopia_rl_data.credit.held_out import FoldModels, FoldRun  # noqa: E402
from sotopia_rl_data.credit.where_unsure import (  # noqa: E402
    UnsureReport,
    UnsureSettings,
    label_where_unsure,
)

WEIGHTS = RewardSettings(weights={"goal": 1.0})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with labelled dialogues and two runs on complementary environments; each test has its own copy."""
    folder = tmp_path_factory.mktemp("made")
    store = Store(folder / "store")
    put(store, talks(40), "lab/talks")
    label(store, "lab/talks", asked("utterance-quality"), WEIGHTS, out="lab/labelled")
    folds(store, "lab/labelled", folder)
    run(folder)  # so that the ledger has the models' scores
    shutil.rmtree(folder / "store" / "lab" / "talks-rewards")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def asked(schema: str, judge: Any = "lexical", **more: Any) -> Elicitation:
    return Elicitation(judges=[judge], schema=schema, dimensions=["goal"], **more)


def run(folder: Path, schema: str = "utterance-quality", **given: Any) -> UnsureReport:
    settings = {"reward_models": (str(folder / "rm0"), str(folder / "rm1")), "rows": 60.0} | given
    return label_where_unsure(Store(folder / "store"), "lab/talks", UnsureSettings(**settings), asked(schema), WEIGHTS)


def test_each_row_says_whose_it_is_and_with_what_chance_it_was_asked(folder: Path):
    report = run(folder)
    version = report.committed.version
    assert verify(version).problems == ()
    found = rows(version, "rewards")
    assert (report.unit, report.rows, len(found)) == ("utterance", 160, 160)
    judged = [row for row in found if row["labelled_by"] == "judge"]
    others = [row for row in found if row["labelled_by"] == "reward-model"]
    assert len(judged) == report.rows_asked == report.calls
    assert len(judged) + len(others) == 160
    assert sum(row["chance"] for row in found) == pytest.approx(60)
    assert all(0 < row["chance"] <= 1 and row["reward"] is not None for row in found)
    assert all(row["raw_goal"] is None for row in others)
    said = rows(version, "attributions")
    assert len([one for one in said if one["judge"] == "lexical"]) == len(judged)
    models = [one for one in said if one["schema"] == "reward-model"]
    assert {one["judge"].partition("@")[0] for one in models} == {"rm:rm0", "rm:rm1"}
    assert {(one["episode_id"], one["agent"], one["turn"]) for one in models} == {
        (row["episode_id"], row["agent"], row["turn"]) for row in found
    }


def test_the_card_says_whose_the_rewards_are(folder: Path):
    report = run(folder)
    card = CliRunner().invoke(cli, ["card", "lab/talks-rewards", "--store", str(folder / "store")]).stdout
    judged = sum(row["labelled_by"] == "judge" for row in rows(report.committed.version, "rewards"))
    assert f"{judged} of 160 rewards are theirs" in card
    done = CliRunner().invoke(cli, ["rewards", "lab/talks-rewards", "--store", str(folder / "store")])
    assert done.exit_code == 0, done.output  # the judge's alone, made anew
    card = CliRunner().invoke(cli, ["card", "lab/talks-rewards", "--store", str(folder / "store")]).stdout
    assert "rewards are theirs" not in card


def test_the_means_are_those_of_all_rows(folder: Path):
    whole = rows(Store(folder / "store").resolve("lab/labelled"), "rewards")
    report = run(folder, rows=100.0)
    means = {(one.by, one.group): one for one in report.means}
    for by, group, agent in (("all", "all", None), ("policy", "big", "ann"), ("policy", "small", "bob")):
        truth = np.mean([row["raw_goal"] for row in whole if agent in (None, row["agent"])])
        one = means[by, group]
        statistics = report.committed.version.manifest.provenance["rewards"]["statistics"]["goal"]
        scaled = (truth - statistics["low"]) / (statistics["high"] - statistics["low"])
        assert one.low < scaled < one.high
        assert one.n == (160 if agent is None else 80)
    environments = [one for one in report.means if one.by == "environment"]
    assert len(environments) == 20
    assert all(one.n == 8 for one in environments)


def test_asking_everything_gives_the_rewards_of_label(folder: Path):
    report = run(folder, rows=160.0)
    whole = rows(Store(folder / "store").resolve("lab/labelled"), "rewards")
    found = rows(report.committed.version, "rewards")
    assert [row["reward"] for row in found] == [row["reward"] for row in whole]
    assert {row["labelled_by"] for row in found} == {"judge"}
    assert next(one.mean for one in report.means) == pytest.approx(np.mean([row["reward"] for row in whole]))


def test_the_same_command_asks_nothing_and_makes_the_same_version(folder: Path):
    first, again = run(folder), run(folder)
    assert again.committed.version.digest == first.committed.version.digest
    assert (again.created, again.asked) == (False, 0)
    other = run(folder, seed=1)
    assert other.committed.version.digest != first.committed.version.digest


def test_more_rows_ask_whoever_fewer_asked_and_others(folder: Path):
    few, more = (
        {(row["episode_id"], row["turn"]) for row in rows(version, "rewards") if row["labelled_by"] == "judge"}
        for version in (run(folder, rows=number).committed.version for number in (30.0, 90.0))
    )
    assert few < more


@pytest.mark.parametrize(
    ("schema", "packing", "unit"),
    [
        ("utterance-quality", "per-dimension", "utterance"),
        ("utterance-quality", "packed", "utterance"),
        ("direct", "per-dimension", "agent"),
        ("goal-progress", "per-dimension", "agent"),
        ("leave-one-out", "per-dimension", "agent"),
        ("direct", "packed", "episode"),
    ],
)
def test_a_unit_is_what_a_reward_needs(folder: Path, schema: str, packing: Any, unit: str):
    settings = UnsureSettings(reward_models=(str(folder / "rm0"), str(folder / "rm1")), rows=60.0)
    elicitation = asked(schema, packing=packing)
    report = label_where_unsure(Store(folder / "store"), "lab/talks", settings, elicitation, WEIGHTS)
    assert report.unit == unit
    found = rows(report.committed.version, "rewards")
    units = {row["episode_id"] + (row["agent"] if unit == "agent" else "") for row in found}
    if unit != "utterance":
        assert report.units == len(units)
    # whoever was drawn was asked all that its reward needs
    assert all((row["raw_goal"] is not None) == (row["labelled_by"] == "judge") for row in found)
    assert len({(row["episode_id"], row["agent"], row["chance"]) for row in found}) == 80 or unit == "utterance"


def test_one_model_is_enough_for_environments_that_it_has_not_seen(folder: Path):
    store = Store(folder / "store")
    put(store, talks(20, name="new"), "lab/new")
    settings = UnsureSettings(reward_models=(str(folder / "rm0"),), rows=30.0)
    report = label_where_unsure(store, "lab/new", settings, asked("utterance-quality"), WEIGHTS)
    assert report.rows == 80


class Shy:
    """A judge that says nothing that can be read of the first turn."""

    id = "shy"

    async def answer(self, question: Question) -> str:
        if min(slot.turn for slot in question.slots.values()) == 0:
            return "I would rather not."
        return json.dumps(answers.compose(question.answer_schema, lambda schema, path: 2))


def test_a_row_without_a_readable_answer_is_the_models(folder: Path):
    settings = UnsureSettings(reward_models=(str(folder / "rm0"), str(folder / "rm1")), rows=60.0)
    report = label_where_unsure(
        Store(folder / "store"), "lab/talks", settings, asked("utterance-quality", Shy()), WEIGHTS
    )
    version = report.committed.version
    failed = {(row["episode_id"], row["turn"]) for row in rows(version, "failures")}
    assert failed
    assert {turn for _, turn in failed} == {0}
    found = {(row["episode_id"], row["turn"]): row for row in rows(version, "rewards")}
    assert {found[key]["labelled_by"] for key in failed} == {"reward-model"}
    assert any("have no answer" in warning for warning in report.warnings)


class Silent:
    """A judge that says nothing that can be read."""

    id = "silent"

    async def answer(self, question: Question) -> str:
        return "I would rather not."


def test_where_hardly_anybody_answers_the_failures_are_kept_and_nobody_has_the_models_word(folder: Path):
    settings = UnsureSettings(reward_models=(str(folder / "rm0"), str(folder / "rm1")), rows=60.0)
    report = label_where_unsure(
        Store(folder / "store"), "lab/talks", settings, asked("utterance-quality", Silent()), WEIGHTS
    )
    version = report.committed.version
    assert verify(version).problems == ()
    assert len(rows(version, "failures")) == report.rows_asked
    assert {(row["reward"], row["labelled_by"]) for row in rows(version, "rewards")} == {(None, None)}
    assert {one.mean for one in report.means} == {None}
    assert any("too few" in warning for warning in report.warnings)


def test_a_row_of_two_versions_that_runs_were_trained_on_is_measured_once(folder: Path):
    store = Store(folder / "store")
    label(store, "lab/talks", asked("utterance-quality"), WEIGHTS, out="lab/again")
    paths = (str(folder / "rm0"), folds(store, "lab/again", folder / "again")[1])
    with Ledger(folder / "store" / ".ledger") as ledger:
        models = FoldModels([FoldRun.read(path, store) for path in paths], ledger, store.display)
        measured = models.labelled_rows(store.root)
    assert {run.dataset for run in models.runs} == {"lab/labelled@v1.0.0", "lab/again@v1.0.0"}
    assert len({(row.episode_id, row.agent, row.turn) for row in measured}) == len(measured) == 160


# --- what is wrong is a sentence --------------------------------------------------------------------------------------


def command(folder: Path, judge: str, models: Sequence[str] = ("rm0", "rm1")) -> list[str]:
    named = [word for name in models for word in ("--reward-model", str(folder / name))]
    judged = ["--judge", judge, "--schema", "utterance-quality", "--dimensions", "goal", "--weights", "goal=1"]
    return ["label", "lab/talks", "--store", str(folder / "store"), "--where-unsure", *named, *judged]


def invoke(folder: Path, *words: str, models: Sequence[str] = ("rm0", "rm1")) -> Result:
    return CliRunner().invoke(cli, [*command(folder, "lexical", models), *words], standalone_mode=False)


def test_the_command_tells_means_and_what_may_follow(folder: Path):
    done = invoke(folder, "--rows", "60")
    assert done.exit_code == 0, done.exception
    assert "corrected by 1 / chance" in done.stdout
    assert "labelled_by" in done.stderr
    told = json.loads(invoke(folder, "--rows", "60", "--json").stdout)
    assert told["means"][0]["by"] == "all"
    assert told["unit"] == "utterance"


def test_a_dry_run_draws_and_keeps_nothing(folder: Path):
    shutil.rmtree(folder / "store" / ".ledger")

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.stat().st_size}

    before = files()
    told = json.loads(invoke(folder, "--rows", "60", "--dry-run", "--json").stdout)
    assert files() == before
    assert told["drawn"].endswith("of 160 utterances are drawn")
    assert told["judges"][0]["calls"] == run(folder).calls


@pytest.mark.parametrize(
    ("words", "models", "sentence"),
    [
        ([], ("rm0", "rm1"), "Neither a budget nor a number of rows"),
        (["--budget", "1"], ("rm0", "rm1"), "The judge costs nothing"),
        (["--rows", "60"], ("rm0",), "have been seen by every reward model"),
        (["--rows", "60"], (), "No reward model is named"),
        (["--rows", "0"], ("rm0", "rm1"), "cannot be asked about"),
        (["--rows", "nan"], ("rm0", "rm1"), "cannot be asked about"),
        (["--rows", "161"], ("rm0", "rm1"), "cannot be asked about"),
        (["--rows", "60"], ("rm0", "rm1", "rm0"), "are the same"),
        (["--rows", "60"], ("tiny",), "is not a run"),
        (["--rows", "60"], ("nowhere",), "There is no folder"),
        (["--rows", "60", "--only", "list.csv"], ("rm0", "rm1"), "--only does not apply"),
        (["--rows", "60", "--shard", "1/2"], ("rm0", "rm1"), "--shard does not apply"),
        (["--rows", "60", "--layout", "chat"], ("rm0", "rm1"), "prompts of the layout 'single'"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence_with_a_hint(
    folder: Path, words: list[str], models: tuple[str, ...], sentence: str
):
    before = Store(folder / "store").names()
    done = invoke(folder, *words, models=models)
    assert isinstance(done.exception, SotopiaDataError), done.exception
    assert sentence in done.exception.message
    assert done.exception.hint
    assert Store(folder / "store").names() == before


@pytest.mark.parametrize("record", ['{"kind": "rm"', "[]", '{"kind": "rm", "model": "m", "dataset": "lab/labelled"}'])
def test_a_damaged_record_of_a_run_is_a_sentence(folder: Path, record: str):
    (folder / "rm0" / "run.json").write_text(record)
    done = invoke(folder, "--rows", "60")
    assert isinstance(done.exception, SotopiaDataError), done.exception
    assert done.exception.hint


def test_a_run_whose_dataset_is_gone_is_a_sentence(folder: Path):
    shutil.rmtree(folder / "store" / "lab" / "labelled")
    done = invoke(folder, "--rows", "60")
    assert isinstance(done.exception, SotopiaDataError)
    assert "nobody can say what it has seen" in done.exception.message


# --- money ------------------------------------------------------------------------------------------------------------


def with_budget(folder: Path, provider: Running, usd: float, **given: Any) -> UnsureReport:
    prices = folder / "prices.yaml"
    prices.write_text('{as_of: 2026-11-01, hosts: {"*": {"judge": [10, 10, 10, 40]}}}')
    settings = UnsureSettings(reward_models=(str(folder / "rm0"), str(folder / "rm1")), **given)
    elicitation = asked("utterance-quality", f"openai:judge@{provider.openai_url}", sampling={"max_tokens": 20})
    options = AskOptions(budget=usd, prices=prices)
    return label_where_unsure(Store(folder / "store"), "lab/talks", settings, elicitation, WEIGHTS, options=options)


def test_as_many_are_asked_as_the_budget_allows_and_the_cap_holds(folder: Path):
    with running() as provider:
        report = with_budget(folder, provider, 0.5)
        assert 0.25 < report.bill.total <= 0.5
        more = with_budget(folder, provider, 1.0)
        assert more.rows_asked > report.rows_asked
        assert more.hits == report.rows_asked
        with pytest.raises(SotopiaDataError, match="too low for a draw"):
            with_budget(folder, provider, 0.01)


def test_where_the_cap_ends_the_asking_the_hint_goes_on_with_the_same_draw(folder: Path):
    with running() as provider:
        with pytest.raises(BudgetSpent) as spent:
            with_budget(folder, provider, 0.2, rows=60.0)
        answered = provider.log()["answered"]
        rows_ = float(str(spent.value.hint).split("--rows ")[1].split(",")[0])
        assert Store(folder / "store").names() == ["lab/labelled", "lab/talks"]
        report = with_budget(folder, provider, 1.0, rows=rows_)
        assert (report.hits, report.asked) == (answered, report.rows_asked - answered)


def test_killed_in_the_midst_it_goes_on_with_the_same_draw(folder: Path):
    with running(latency=0.2) as provider:
        judge = f"openai:judge@{provider.openai_url}"
        words = [*command(folder, judge), "--rows", "60", "--concurrency", "2", "--json"]
        called = [sys.executable, "-m", "sotopia_rl_data", *words]
        process = subprocess.Popen(called, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while provider.log()["requests"] < 8 and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        with Ledger(folder / "store" / ".ledger") as ledger:
            kept = {attempt.key for attempt in ledger.scan() if attempt.model == "judge"}
        done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert done.exit_code == 0, done.exception
    told = json.loads(done.stdout)
    assert told["calls"] == run(folder).calls  # the draw does not hang on the judge
    assert told["asked"] == told["calls"] - len(kept)
    assert not list((folder / "store").glob(".staging/*--*"))
