"""The rows of the sotopia library's own export (`episodes_to_jsonl`, `episodes_to_csv`), on disk or on the Hub.

    {"episode_id": …, "environment_id": …, "raw_messages": […], "raw_rewards": […], "scenario": …, "social_goals": …}

A row adds the scenario, codename, backgrounds and goals to the fields of a log. In a CSV, lists and objects are text.
"""

from __future__ import annotations

from typing import Any

from sotopia_rl_data.importers.formats.format import Format, one_by_one, with_refusals
from sotopia_rl_data.importers.library import LibraryEpisode, agent_ids
from sotopia_rl_data.importers.messages import read_messages
from sotopia_rl_data.importers.profiles import EnvironmentProfile
from sotopia_rl_data.importers.record import identifier, mapping, nested, text
from sotopia_rl_data.importers.scores import RefusedScore
from sotopia_rl_data.schema import Episode

NESTED = (
    "agent_ids",
    "experiment_model_name_pairs",
    "raw_messages",
    "raw_rewards",
    "rewards",
    "agents_background",
    "social_goals",
)
"""The columns that hold lists and objects."""


def read_export_row(value: Any) -> tuple[Episode, tuple[RefusedScore, ...]]:
    """The episode of an exported row. Raises InputError."""
    row = {**mapping(value, "the record")}
    row |= {column: nested(row.get(column), f"`{column}`") for column in NESTED}
    dialogue = read_messages(row["raw_messages"], agent_ids(row["agent_ids"], "agent_ids"))
    goals, backgrounds = (_by_name(row[c], c) for c in ("social_goals", "agents_background"))
    listed = tuple(goals.get(name, "") for name in dialogue.names)
    scene = EnvironmentProfile(text(row, "codename", ""), text(row, "scenario", ""), goals=listed)
    return LibraryEpisode(
        episode_id=identifier(row, "episode_id"),
        environment_id=identifier(row, "environment_id"),
        dialogue=dialogue,
        models=row["experiment_model_name_pairs"],
        rewards=row["raw_rewards"] if row["raw_rewards"] is not None else row["rewards"],
        environment=scene,
        source="sotopia-export",
        tag=text(row, "experiment_tag", ""),
        reasoning=text(row, "reasoning", ""),
        backgrounds=backgrounds,
    ).read()


def _by_name(value: Any, key: str) -> dict[str, str]:
    """{name: text} of a column; {} where it is absent. Raises InputError where it is not an object."""
    if value is None:
        return {}
    return {name: text for name, text in mapping(value, f"`{key}`").items() if isinstance(text, str)}


FORMAT = Format(
    "export",
    keys=(frozenset({"raw_messages"}),),
    reader=one_by_one(lambda record, _: with_refusals(*read_export_row(record.value), record)),
)
