"""Toys of the importers' tests: small logs in the sotopia library's shape, and the same episode in every wrapping."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sotopia_rl_data.importers import read
from sotopia_rl_data.schema import Attribution, Episode, Failure

NOTHING = "did nothing"
ANN, SAM = "Ann Lee", "Sam Poe"
DATA = Path(__file__).parents[1].parent / "shared" / "data"


def opening(names: Sequence[str], me: str, scenario: str = "Two neighbours and one tree.") -> str:
    """What `me` is shown before turn 0, in the shape that the library gives it."""
    backgrounds = [f"{n}'s background: {n} is a baker. {n.split()[0]}'s secrets: {n} sleepwalks" for n in names]
    shown = [b if n == me else f"{n}'s background: Unknown" for n, b in zip(names, backgrounds, strict=True)]
    goals = [f"{n}'s goal: {f'Win over everyone but {n}' if n == me else 'Unknown'}" for n in names]
    who = " and ".join(names)
    return "\n".join(
        ["\nHere it is:", f"Scenario: {scenario}", f"Participants: {who}", *shown, *goals, "Conversation Starts:\n"]
    )


def messages(turns: Sequence[dict[str, str]], names: Sequence[str] = (ANN, SAM)) -> list[list[list[str]]]:
    """Raw messages: each turn as {name: action}, all others did nothing; then a last turn of observations alone."""
    log = []
    for t, acts in enumerate([*turns, None]):
        shown = [["Environment", n, opening(names, n) if t == 0 else f"Turn #{t - 1}: …\n"] for n in names]
        said = [[n, "Environment", acts.get(n, NOTHING)] for n in names] if acts is not None else []
        log.append(shown + said)
    return log


def log(turns: Sequence[dict[str, str]], names: Sequence[str] = (ANN, SAM), **changes: Any) -> dict[str, Any]:
    """An EpisodeLog record."""
    record = {
        "pk": "E1",
        "environment": "ENV1",
        "agents": [f"id-{i}" for i in range(len(names))],
        "tag": "toy",
        "models": ["gpt-4", *["custom/mine@http://me:secret@10.0.0.1:8000/v1"] * len(names)],
        "messages": messages(turns, names),
        "reasoning": "Environment comments: terminated: Agent 1 is leaving; \n",
        "rewards": [[5.0, {"goal": 8.0, "relationship": -2.0, "overall_score": 5.0}] for _ in names],
        "rewards_prompt": "",
    }
    return record | changes


def export(turns: Sequence[dict[str, str]], names: Sequence[str] = (ANN, SAM), **changes: Any) -> dict[str, Any]:
    """A row of the library's export, of the same episode."""
    one = log(turns, names)
    record = {
        "episode_id": one["pk"],
        "environment_id": one["environment"],
        "agent_ids": one["agents"],
        "experiment_tag": one["tag"],
        "experiment_model_name_pairs": one["models"],
        "raw_messages": one["messages"],
        "raw_rewards_prompt": "",
        "raw_rewards": one["rewards"],
        "scenario": "Two neighbours and one tree.",
        "codename": "tree",
        "agents_background": {n: f"{n} is a baker. {n.split()[0]}'s secrets: {n} sleepwalks" for n in names},
        "social_goals": {n: f"Win over everyone but {n}" for n in names},
        "social_interactions": "not to be read",
        "reasoning": one["reasoning"],
        "rewards": one["rewards"],
    }
    return record | changes


PLAIN: dict[str, Any] = {
    "episode_id": "P1",
    "environment_id": "ENV1",
    "agents": [{"agent": "a", "name": ANN}, {"agent": "b", "name": SAM}],
    "turns": [{"agent": "a", "text": "Hello."}, {"agent": "b", "action_type": "leave"}],
    "scores": [{"agent": "a", "dimension": "goal", "score": 7}],
}

TALK = [
    {ANN: 'said: "Is it yours?"'},
    {SAM: "[action] nods"},
    {ANN: 'said: "Then cut it."'},
    {SAM: "left the conversation"},
]


def row(agent: str, labels: dict[str, Any], first: bool, **changes: Any) -> dict[str, Any]:
    """A row of sotopia-rl's annotated JSONL; `labels` are its `attributed_utterances`."""
    record = {
        "episode_id": "E1",
        "scenario": "Two neighbours and one tree.",
        "agent": agent,
        "goal": f"Win over everyone but {agent}",
        "attributed_utterances": labels,
        "is_first_speaker": first,
        "goal_score": 6,
    }
    return record | changes


def lines(path: Path, *records: Any) -> Path:
    """`records` as JSON Lines; text is written as it is."""
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


def document(path: Path, value: Any) -> Path:
    """`value` as one JSON document."""
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
    return path


def table(path: Path, *rows: dict[str, Any]) -> Path:
    """`rows` as the library writes CSV: nested values by `str`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        writer.writerows([[_cell(v) for v in r.values()] for r in rows])
    return path


def _cell(value: Any) -> str:
    if isinstance(value, list):  # the library keeps messages and rewards as tuples
        return str([tuple(v) if isinstance(v, list) else v for v in value])
    return str(value)


def only(path: Path) -> Episode:
    """The one episode of a file that holds nothing else."""
    (episode,) = read([path])
    assert isinstance(episode, Episode), episode
    return episode


def acted(episode: Episode) -> list[tuple[int, str, str, str]]:
    """(turn, name, action type, text) of every utterance."""
    names = {a.agent: a.name for a in episode.agents}
    return [(t.turn, names[t.agent], t.action_type, t.text) for t in episode.turns]


def failures(path: Path) -> list[Failure]:
    """The failures among the items of a file."""
    return [item for item in read([path]) if isinstance(item, Failure)]


def attributions(path: Path) -> list[Attribution]:
    """The attributions among the items of a file."""
    return [item for item in read([path]) if isinstance(item, Attribution)]
