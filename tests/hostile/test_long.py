"""Long things: an utterance of megabytes, thousands of agents and turns. What is shown is the beginning, at once."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from fixtures.hub_client import HubClient
from fixtures.labelling import BOAT, put, scores
from fixtures.places import ROOT

from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.schema import Agent, Episode, Observation, Turn
from sotopia_rl_data.store import Store, readme
from sotopia_rl_data.store.values import check_values
from sotopia_rl_data.tables import episode_table

CROWD = [f"s{i}" for i in range(1_000)]
CASES = {
    "an utterance of 30 MB": replace(BOAT, turns=(Turn(0, "a", "speak", "word and more " * 2_200_000),)),
    "a scenario of empty lines": replace(BOAT, scenario="A quay." + "\n" * 5_000_000 + "End."),
    "1,000 agents and 5,000 turns": Episode(
        "boat",
        "harbour",
        tuple(Agent(name, f"Agent {name}", goal="Stay.") for name in CROWD),
        tuple(Turn(i, name, "speak", "Hello.") for i, name in enumerate(CROWD * 5)),
        scores(*((name, "goal", 3) for name in CROWD)),
    ),
}
MORE = {
    "an utterance of 30 MB": "and 30,790,000 more characters",
    "a scenario of empty lines": "and 4,990,011 more characters",
    "1,000 agents and 5,000 turns": "and 900 more agents",
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_beginning_of_a_long_episode_is_shown_in_seconds_of_work(case: str, tmp_path: Path):
    """Seconds of the processor, so that a busy machine fails nothing: laying all of it out took minutes."""
    put(Store(tmp_path), [CASES[case]])
    command = [sys.executable, str(ROOT / "cli.py"), "show", "lab/episodes", "boat"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*command, "--store", str(tmp_path)], capture_output=True, text=True, timeout=300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert MORE[case] in " ".join(done.stdout.split())
    assert len(done.stdout) < 2_000_000
    assert after.ru_utime - before.ru_utime < 20


@pytest.mark.slow
def test_an_episode_of_more_agents_than_prompts_can_tell_of_is_not_imported(tmp_path: Path):
    """Each of its utterances would get a prompt that tells of all agents."""
    kept = []
    for count in (1_000, 1_001):
        who = [f"s{i}" for i in range(count)]
        turns = [{"turn": i, "agent": name, "action_type": "speak", "text": "Hello."} for i, name in enumerate(who)]
        agents = [{"agent": name, "name": f"Agent {name}"} for name in who]
        path = tmp_path / f"{count}.jsonl"
        path.write_text(
            json.dumps({"episode_id": f"e{count}", "scenario": "A quay.", "agents": agents, "turns": turns})
        )
        done = CliRunner().invoke(
            cli, ["import", str(path), "--name", f"lab/e{count}", "--store", str(tmp_path / "store")]
        )
        kept.append(done.exit_code)
        said = f"{done.output} {done.exception}"
    assert kept[0] == 0, said
    assert kept[1] == 1
    assert "1,001 agents, more than 1,000" in " ".join(said.split())


@pytest.mark.slow
def test_a_dialogue_whose_prompts_grow_beyond_a_disk_is_not_imported_and_says_how_large_they_would_be(tmp_path: Path):
    """A prompt has all that came before: twice the turns are four times the prompts."""
    agents = [{"agent": name, "name": name} for name in ("ann", "bob")]
    said = {}
    for count, text in ((6_000, "word " * 20), (12_000, "word " * 20), (600, "word " * 5_000)):
        turns = [
            {"turn": i, "agent": ("ann", "bob")[i % 2], "action_type": "speak", "text": text} for i in range(count)
        ]
        path = tmp_path / f"{count}.jsonl"
        path.write_text(json.dumps({"episode_id": "e", "scenario": "A quay.", "agents": agents, "turns": turns}))
        command = ["import", str(path), "--name", f"lab/e{count}", "--store", str(tmp_path / "store")]
        done = CliRunner().invoke(cli, command)
        said[count] = (done.exit_code, " ".join(f"{done.output} {done.exception}".split()))
    assert said[6_000][0] == 0, said[6_000][1]
    assert said[12_000][0] == said[600][0] == 1
    assert "12,000 prompts, each with all that came before, would have 10 GB, more than 4" in said[12_000][1]
    assert "600 prompts, each with all that came before, would have 5 GB" in said[600][1]


@pytest.mark.slow
def test_a_dialogue_that_is_too_long_for_prompts_is_refused_wherever_it_comes_from(tmp_path: Path):
    """One bound: the importer's holds of rows that are pulled or verified, and of those that somebody copied there."""
    turns = tuple(Turn(i, "ab"[i % 2], "speak", "word " * 20) for i in range(12_000))
    long = replace(BOAT, turns=turns)
    seen = replace(BOAT, turns=turns[:4_000], observations=(Observation(0, "a", "word " * 1_000_000),))
    for episode, gigabytes in ((long, 10), (seen, 5)):
        said = f"its {len(episode.turns):,} prompts, each with all that came before, would have {gigabytes} GB"
        with pytest.raises(InputError, match=said):
            check_values("episodes", episode_table([BOAT, episode]))
    check_values("episodes", episode_table([BOAT, replace(BOAT, turns=turns[:6_000])]))
    put(Store(tmp_path), [BOAT])
    ((file,),) = Store(tmp_path).resolve("lab/episodes").files("episodes").values()
    file.unlink()
    pq.write_table(episode_table([long]), file)
    done = CliRunner().invoke(cli, ["label", "lab/episodes", "--judge", "lexical", "--store", str(tmp_path)])
    assert isinstance(done.exception, InputError)
    assert "No prompts can be made of the episode 'boat': its 12,000 prompts" in done.exception.message


@pytest.mark.slow
def test_what_2_000_turns_would_cost_is_counted_in_seconds_of_work_and_little_memory(tmp_path: Path):
    """Each of the 6,006 calls shows all that was said until its turn, 200 MB of it in all: it took 740 MB."""
    turns = tuple(Turn(i, "ab"[i % 2], "speak", f"{i} " + "word " * 20) for i in range(2_000))
    put(Store(tmp_path / "store"), [replace(BOAT, turns=turns)])
    client = HubClient("http://127.0.0.1:1", tmp_path / "hf", xet=False)
    judge = ("--judge", "openai:m@http://127.0.0.1:1/v1", "--schema", "goal-progress", "--dry-run", "--json")
    (line,) = client("label", "lab/episodes", *judge, "--store", tmp_path / "store").json["judges"]
    took, held = client.seconds(), client.most_memory()
    client.stop()
    assert line["asked"] == 6_006
    assert line["usage"]["input"] > 150_000_000
    assert took < 30
    assert held < 400 << 20, f"{held:,} bytes"


def test_a_card_and_a_manifest_of_a_terabyte_are_not_read(tmp_path: Path):
    store = Store(tmp_path)
    put(store, [BOAT])
    folder = store.resolve("lab/episodes").dir
    for path in (folder / "README.md", folder / "manifest.json"):
        path.chmod(0o600)
        with path.open("r+b") as file:
            file.truncate(1 << 40)
    with pytest.raises(InputError, match="more than 16,777,216 bytes"):
        readme.read(folder)
    readable, damaged = store.history("lab/episodes")
    assert (len(readable), len(damaged)) == (0, 1)
    assert "more than 16,777,216 bytes" in str(damaged)
