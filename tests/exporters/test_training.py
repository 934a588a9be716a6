"""A version's rewards as files that other trainers read: what is in them is what the version holds, NULL stays NULL."""

from __future__ import annotations

import json
from operator import itemgetter
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from fixtures.records import PLAIN, lines

from sotopia_rl_data import open_dataset
from sotopia_rl_data.cli import transfer
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import InputError, NotFound, QueryError, UsageError
from sotopia_rl_data.exporters.training import FORMATS, export_training
from sotopia_rl_data.importers import read
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.query import Dataset
from sotopia_rl_data.schema import Episode
from sotopia_rl_data.store import Store, Version

SCENARIO = "A boat is for sale."
JSONL = [name for name, form in FORMATS.items() if form.schema is None]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Twelve episodes over six environments: b has no reward, and a says something else in every other episode."""
    folder = tmp_path_factory.mktemp("training")
    store = Store(folder / "store")
    records = []
    for i in range(12):
        said = [
            ("a", "Hello." if i % 2 else "Would you take four hundred for the boat, friend?"),
            ("b", "Good day."),
            ("a", "The boat is sold."),
            ("b", "A pity."),
        ]
        turns = [{"agent": agent, "text": text} for agent, text in said]
        own = {"episode_id": f"P{i:02}", "environment_id": f"shop {i // 2}", "scenario": SCENARIO, "turns": turns}
        records.append(PLAIN | own)
    import_dataset(store, [lines(folder / "a.jsonl", *records)], "o/n")
    label = ["label", "o/n", "--judge", "lexical", "--weights", "goal=1", "--store", str(store.root)]
    assert CliRunner().invoke(cli, label).exit_code == 3
    return store.resolve("o/n-rewards")


def written(folder: Path) -> list[dict[str, object]]:
    """The rows of all splits, in their order."""
    files = [folder / f"{split}.jsonl" for split in ("test", "train", "validation")]
    return [json.loads(line) for path in files if path.exists() for line in path.read_text().splitlines()]


def test_the_command_offers_every_format():
    assert set(transfer._EXPORTS) == {*transfer._EPISODES, *FORMATS}


@pytest.mark.slow
@pytest.mark.parametrize("fmt", FORMATS)
def test_what_is_counted_is_what_is_written(fmt, labelled, tmp_path):
    report = export_training(labelled, fmt, tmp_path / "out")
    found = {
        path.stem: len(path.read_text().splitlines()) if path.suffix == ".jsonl" else pq.read_table(path).num_rows
        for path in (tmp_path / "out").iterdir()
    }
    assert found == report.rows


def test_sft_has_the_prompts_and_completions_of_all_utterances(labelled, tmp_path):
    export_training(labelled, "trl-sft", tmp_path / "out")
    select = "SELECT prompt, completion FROM rewards ORDER BY split, episode_id, agent, turn"
    assert written(tmp_path / "out") == Dataset(labelled).sql(select).to_pylist()


def test_openrlhf_leaves_a_missing_reward_out(labelled, tmp_path):
    export_training(labelled, "openrlhf", tmp_path / "out")
    select = "SELECT prompt, completion AS response, reward FROM rewards ORDER BY split, episode_id, agent, turn"
    rows = Dataset(labelled).sql(select).to_pylist()
    assert {row["reward"] is None for row in rows} == {True, False}
    assert written(tmp_path / "out") == [
        {name: value for name, value in row.items() if value is not None} for row in rows
    ]


def test_kto_labels_by_the_median_or_by_the_threshold_and_leaves_out_what_has_no_reward(labelled, tmp_path):
    select = "SELECT prompt, completion, reward FROM rewards WHERE reward IS NOT NULL ORDER BY split, episode_id, turn"
    rewarded = Dataset(labelled).sql(select).to_pylist()
    for folder, threshold in (("median", None), ("own", 0.9)):
        report = export_training(labelled, "trl-kto", tmp_path / folder, threshold=threshold)
        assert report.threshold == (threshold or median(row["reward"] for row in rewarded))
        assert report.left_out == {"no reward": Dataset(labelled).sql("FROM rewards").num_rows - len(rewarded)}
        assert [row["label"] for row in written(tmp_path / folder)] == [
            row["reward"] > report.threshold for row in rewarded
        ]


def test_a_preference_is_the_best_and_the_worst_completion_of_a_prompt(labelled, tmp_path):
    said: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for row in Dataset(labelled).sql("FROM rewards WHERE reward IS NOT NULL").to_pylist():
        said.setdefault((row["split"], json.dumps(row["prompt"])), []).append((row["reward"], row["completion"]))
    wanted = []
    for (_, prompt), of in sorted(said.items()):
        (low, worst), (high, best) = min(of, key=itemgetter(0)), max(of, key=itemgetter(0))
        if high > low:
            wanted.append({"prompt": json.loads(prompt), "chosen": best, "rejected": worst, "margin": high - low})
    assert wanted
    report = export_training(labelled, "trl-preference", tmp_path / "out")
    rows = written(tmp_path / "out")
    assert rows == wanted
    assert list(report.rows) == [split for split in ("train", "validation", "test") if split in report.rows]
    assert len(report.rows) > 1
    assert sum(report.left_out.values()) + 2 * len(rows) == Dataset(labelled).sql("FROM rewards").num_rows


@pytest.mark.parametrize(
    ("fmt", "list_name", "text"), [("openai", "messages", "content"), ("sharegpt", "conversations", "value")]
)
def test_a_chat_comes_back_through_the_importers_with_every_word(fmt, list_name, text, labelled, tmp_path):
    export_training(labelled, fmt, tmp_path / "out")
    wanted = [
        [message["content"] for message in row["messages"] if message["role"] != "system"]
        for row in Dataset(labelled).sql("FROM trajectories ORDER BY split, episode_id, agent").to_pylist()
    ]
    told = [[message[text] for message in row[list_name]] for row in written(tmp_path / "out")]
    assert [chat[1:] for chat in told] == wanted  # the first is the system message
    again = list(read([tmp_path / "out"]))
    assert all(isinstance(one, Episode) for one in again)
    assert sorted([turn.text for turn in one.turns] for one in again) == sorted(wanted)


def test_verl_has_the_scene_and_the_reward_or_null(labelled, tmp_path):
    export_training(labelled, "verl", tmp_path / "out")
    rows = [
        row
        for s in ("test", "train", "validation")
        if (tmp_path / "out" / f"{s}.parquet").exists()
        for row in pq.read_table(tmp_path / "out" / f"{s}.parquet").to_pylist()
    ]
    key = ("split", "episode_id", "agent", "turn", "reward")
    rewards = Dataset(labelled).sql("FROM rewards ORDER BY split, episode_id, agent, turn").to_pylist()
    assert [[row["extra_info"][name] for name in key] for row in rows] == [
        [row[name] for name in key] for row in rewards
    ]
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in rewards]
    assert {row["extra_info"]["scenario"] for row in rows} == {SCENARIO}
    assert [agent["agent"] for agent in rows[0]["extra_info"]["agents"]] == ["a", "b"]
    assert (rows[0]["data_source"], rows[0]["reward_model"]["style"]) == ("o/n-rewards", "model")


def test_a_condition_chooses_and_what_it_leaves_out_is_counted(labelled, tmp_path):
    report = export_training(labelled, "openrlhf", tmp_path / "out", where="agent = 'a' -- only she")
    assert {"reward" in row for row in written(tmp_path / "out")} == {True}
    all_rows = Dataset(labelled).sql("FROM rewards").num_rows
    assert report.left_out == {"the condition does not hold": all_rows - sum(report.rows.values())}


@pytest.mark.parametrize(
    ("fmt", "where", "error", "says"),
    [
        ("trl-sft", "colour = 1", QueryError, 'Referenced column "colour" not found'),
        ("trl-sft", "true); DROP TABLE rewards; --", QueryError, "syntax error at or near"),
        ("trl-kto", "reward IS NULL", InputError, "No row of o/n-rewards@v1.0.0 can be exported to trl-kto"),
        ("trl-preference", "episode_id = 'P00'", InputError, "can be exported to trl-preference"),
    ],
)
def test_a_wrong_condition_is_a_sentence_and_leaves_no_folder(fmt, where, error, says, labelled, tmp_path):
    with pytest.raises(error) as raised:
        export_training(labelled, fmt, tmp_path / "out", where=where)
    assert says in raised.value.message
    assert raised.value.hint
    assert list(tmp_path.iterdir()) == []


def test_episodes_without_labels_say_what_makes_rewards(labelled, tmp_path):
    episodes = open_dataset("o/n", labelled.dir.parents[2]).version
    with pytest.raises(NotFound) as raised:
        export_training(episodes, "openai", tmp_path / "out")
    assert "o/n" in raised.value.message
    assert raised.value.hint == "label it first: sotopia-rl-data label o/n --judge gpt-4o"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="needs a new folder"):
        export_training(labelled, "openai", tmp_path / "full")


def test_an_option_of_another_format_is_refused(labelled, tmp_path):
    store = ["--store", str(labelled.dir.parents[2])]
    for options, says in (
        (["--to", "trl-sft", "--threshold", "1"], "--threshold has no meaning for --to trl-sft"),
        (["--to", "convokit", "--where", "true"], "--where has no meaning for --to convokit"),
        (["--to", "openai", "--evaluator", "x"], "--evaluator has no meaning for --to openai"),
    ):
        done = CliRunner().invoke(cli, ["export", "o/n-rewards", *options, "-o", str(tmp_path / "out"), *store])
        assert isinstance(done.exception, UsageError)
        assert says in done.exception.message


@pytest.mark.train
@pytest.mark.parametrize("fmt", JSONL)
def test_datasets_loads_what_is_written(fmt, labelled, tmp_path):
    import datasets

    report = export_training(labelled, fmt, tmp_path / "out")
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: split.num_rows for name, split in loaded.items()} == report.rows


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    from fixtures.training import toy_model

    return toy_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.mark.train
@pytest.mark.slow
@pytest.mark.parametrize(
    ("fmt", "trainer"),
    [
        ("trl-sft", "SFT"),
        ("openai", "SFT"),
        ("trl-preference", "DPO"),
        ("trl-preference", "Reward"),
        ("trl-kto", "KTO"),
    ],
)
def test_trl_takes_a_step_on_what_is_written(fmt, trainer, labelled, tiny, tmp_path):
    import datasets
    import trl

    export_training(labelled, fmt, tmp_path / "out")
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    config = getattr(trl, f"{trainer}Config")(
        output_dir=str(tmp_path / "run"),
        max_steps=1,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    run = getattr(trl, f"{trainer}Trainer")(model=tiny, args=config, train_dataset=rows)
    assert run.train().global_step == 1


def test_a_threshold_that_is_not_finite_is_refused(labelled, tmp_path):
    for threshold in (float("inf"), float("nan")):
        with pytest.raises(UsageError, match="not a finite number"):
            export_training(labelled, "trl-kto", tmp_path / "out", threshold=threshold)
