"""What a writing command says that it wrote is what lies in the store, also where a dataset has only one split."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.records import PLAIN, lines

from sotopia_rl_data import open_dataset
from sotopia_rl_data.cli.program import cli

GOALS = [{"agent": agent, "dimension": "goal", "score": score} for agent, score in (("a", 7), ("b", 3))]


@pytest.mark.slow
@pytest.mark.parametrize("environments", [1, 30])
def test_each_writing_command_counts_what_it_wrote(environments, tmp_path):
    def run(*arguments: str) -> dict[str, Any]:
        done = CliRunner().invoke(cli, [*arguments, "--store", str(tmp_path / "store"), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def rows(ref: str, config: str, counted: str = "count(*)") -> int:
        return open_dataset(ref, tmp_path / "store").sql(f"SELECT {counted} FROM {config}").column(0)[0].as_py()

    records = [
        PLAIN | {"episode_id": f"P{i}", "environment_id": f"shop {i % environments}", "scores": GOALS}
        for i in range(30)
    ]
    made = run("import", str(lines(tmp_path / "a.jsonl", *records)), "--name", "lab/e")
    assert (made["episodes"], made["utterances"]) == (
        rows("lab/e", "episodes"),
        rows("lab/e", "episodes", "sum(len(turns))"),
    )
    assert sum(made["splits"].values()) == 30
    assert (len(made["splits"]) == 1) == (environments == 1)
    made = run("label", "lab/e", "--judge", "lexical", "--preset", "goal-only")
    assert made["labels"] == rows("lab/e-rewards", "attributions") == 60
    assert (made["utterances"], made["rewarded"]) == (60, rows("lab/e-rewards", "rewards", "count(reward)"))
    made = run("rewards", "lab/e-rewards", "--rule", "uniform", "--weights", "goal=1", "--out", "lab/u")
    assert sum(made["rows"].values()) == rows("lab/u", "rewards") == 60
    assert sum(made["unrewarded"].values()) == 60 - rows("lab/u", "rewards", "count(reward)")
    made = run("evaluate", "lab/e", "--judge", "lexical", "--dimensions", "goal")
    scored = rows(
        "lab/e", "(SELECT unnest(scores) AS s FROM episodes)", "count(*) FILTER (WHERE s.evaluator = 'lexical')"
    )
    assert made["scores"] == scored == 60


@pytest.mark.slow
def test_each_command_that_writes_files_counts_what_is_in_them(tmp_path):
    def run(*arguments: str) -> dict[str, Any]:
        done = CliRunner().invoke(cli, [*arguments, "--store", str(tmp_path / "store"), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def lines_of(folder: str, *names: str) -> int:
        return sum(len((tmp_path / folder / name).read_text().splitlines()) for name in names)

    run("rollout", "--pairs", "1", "--out", "lab/play")
    played = open_dataset("lab/play", tmp_path / "store")
    turns = sum(len(episode.turns) for episode in played.episodes())
    made = run("export", "lab/play", "--to", "convokit", "-o", str(tmp_path / "corpus"))
    assert made["utterances"] == lines_of("corpus", "utterances.jsonl") == turns
    conversations, speakers = (
        json.loads((tmp_path / "corpus" / f"{name}.json").read_text()) for name in ("conversations", "speakers")
    )
    assert (made["conversations"], made["speakers"]) == (len(conversations), len(speakers))
    made = run("export", "lab/play", "--to", "sotopia", "-o", str(tmp_path / "logs"))
    folders = {"episodes": "EpisodeLog", "agents": "AgentProfile", "environments": "EnvironmentProfile"}
    assert {name: made[name] for name in folders} == {
        name: len(list((tmp_path / "logs" / folder).iterdir())) for name, folder in folders.items()
    }
    assert made["episodes"] == lines_of("logs", "episodes.jsonl") == len(conversations)
    run("label", "lab/play", "--judge", "lexical", "--schema", "utterance-quality")
    made = run("export", "lab/play-rewards", "--to", "trl-sft", "-o", str(tmp_path / "sft"))
    assert {split: lines_of("sft", f"{split}.jsonl") for split in made["rows"]} == made["rows"]
    sheet = tmp_path / "sheet.csv"
    made = run(
        "annotate", "template", "lab/play", "-o", str(sheet), "--schema", "utterance-quality", "--questions", "3"
    )
    with sheet.open(newline="") as file:
        assert made["rows"] == len(list(csv.DictReader(file)))
