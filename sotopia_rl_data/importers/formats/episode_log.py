"""EpisodeLog: an episode as the sotopia library stores it, in a file of its own, in a dump, or in an export from Redis.

    {"pk": …, "environment": ID, "agents": [ID, …], "models": […], "messages": […], "rewards": […], "reasoning": …}

It names its environment and agents only by id; the profiles add the rest where there are any.
"""

from __future__ import annotations

from typing import Any

from sotopia_rl_data.importers.formats.format import Format, one_by_one, with_refusals
from sotopia_rl_data.importers.library import LibraryEpisode, agent_ids
from sotopia_rl_data.importers.messages import read_messages
from sotopia_rl_data.importers.profiles import EnvironmentProfile, ProfileLookup
from sotopia_rl_data.importers.record import identifier, mapping, text
from sotopia_rl_data.importers.scores import RefusedScore
from sotopia_rl_data.schema import Episode

LOGS = "EpisodeLog"
"""The collection of the logs, as it names their folder and stands in the keys of a dump."""


def read_episode_log(value: Any, key: str, profiles: ProfileLookup | None) -> tuple[Episode, tuple[RefusedScore, ...]]:
    """The episode of an EpisodeLog record; `key` is its id if the record names none. Raises InputError."""
    log = mapping(value, "the record")
    episode_id = identifier(log if log.get("pk") else {"pk": key}, "pk")
    environment_id = identifier(log, "environment")
    ids = agent_ids(log.get("agents"), "agents")
    dialogue = read_messages(log.get("messages"), ids)
    environment = profiles.environment(environment_id) if profiles else None
    return LibraryEpisode(
        episode_id=episode_id,
        environment_id=environment_id,
        dialogue=dialogue,
        models=log.get("models"),
        rewards=log.get("rewards"),
        environment=environment or EnvironmentProfile(),
        source="episode-log",
        tag=text(log, "tag", ""),
        reasoning=text(log, "reasoning", ""),
        profiles=[profiles.agent(agent) for agent in ids or dialogue.names] if profiles else (),
        agent_classes="agent_classes" in log,
    ).read()


FORMAT = Format(
    "episode-log",
    keys=(frozenset({"messages"}), frozenset({"environment", "agents", "rewards"})),
    reader=one_by_one(
        lambda record, profiles: with_refusals(*read_episode_log(record.value, record.identity, profiles), record)
    ),
    without_objects=("messages",),
)
