"""The sotopia library's two shapes of an episode: EpisodeLog (as stored) and the export rows made from it.

Both carry the raw messages, from which identity is taken. The export adds the scenario, codename, backgrounds and
goals; for an EpisodeLog these come from the profiles beside it where there are any, and from each agent's own opening
observation where there are none. `social_interactions` is never read: it is lossy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.dialects import dialect_of
from sotopia_rl_data.importers.literals import nested
from sotopia_rl_data.importers.messages import Dialogue, read_messages
from sotopia_rl_data.importers.models import UNNAMED, model_names
from sotopia_rl_data.importers.opening import read_opening, split_secret
from sotopia_rl_data.importers.profiles import Environment, Person, Profiles
from sotopia_rl_data.importers.record import identifier, kind, mapping, text
from sotopia_rl_data.importers.scores import Refused, read_scores
from sotopia_rl_data.schema import Agent, Episode

EXPORT_NESTED = (
    "agent_ids",
    "experiment_model_name_pairs",
    "raw_messages",
    "raw_rewards",
    "rewards",
    "agents_background",
    "social_goals",
)


def read_episode_log(value: Any, key: str, profiles: Profiles | None) -> tuple[Episode, tuple[Refused, ...]]:
    """The episode of an EpisodeLog record; `key` is its id where it names none. Raises InputError."""
    log = mapping(value, "the record")
    episode_id = identifier(log if log.get("pk") else {"pk": key}, "pk")
    environment_id = identifier(log, "environment")
    ids = _ids(log.get("agents"), "agents")
    dialogue = read_messages(log.get("messages"), ids)
    found = profiles.environment(environment_id) if profiles else None
    people = [profiles.person(one) if profiles else None for one in ids or dialogue.names]
    agents = _agents(dialogue, log.get("models"), found.goals if found else (), {}, people)
    return _episode(
        dialogue,
        agents,
        found or Environment(),
        log.get("rewards"),
        episode_id=episode_id,
        environment_id=environment_id,
        source="episode-log",
        models=log.get("models"),
        tag=text(log, "tag", ""),
        reasoning=text(log, "reasoning", ""),
        agent_classes="agent_classes" in log,
    )


def read_export_row(value: Any) -> tuple[Episode, tuple[Refused, ...]]:
    """The episode of a row of `episodes_to_jsonl` or `episodes_to_csv`, on disk or on the Hub. Raises InputError."""
    row = {**mapping(value, "the record")}
    row |= {column: nested(row.get(column), f"`{column}`") for column in EXPORT_NESTED}
    dialogue = read_messages(row["raw_messages"], _ids(row["agent_ids"], "agent_ids"))
    goals, backgrounds = (_by_name(row[c], c) for c in ("social_goals", "agents_background"))
    listed = tuple(goals.get(name, "") for name in dialogue.names)
    models = row["experiment_model_name_pairs"]
    rewards = row["raw_rewards"] if row["raw_rewards"] is not None else row["rewards"]
    return _episode(
        dialogue,
        _agents(dialogue, models, listed, backgrounds, [None] * len(dialogue.ids)),
        Environment(text(row, "codename", ""), text(row, "scenario", "")),
        rewards,
        episode_id=identifier(row, "episode_id"),
        environment_id=identifier(row, "environment_id"),
        source="sotopia-export",
        models=models,
        tag=text(row, "experiment_tag", ""),
        reasoning=text(row, "reasoning", ""),
    )


def _episode(
    dialogue: Dialogue,
    agents: tuple[Agent, ...],
    environment: Environment,
    rewards: Any,
    *,
    episode_id: str,
    environment_id: str,
    source: str,
    models: Any,
    tag: str,
    reasoning: str,
    agent_classes: bool = False,
) -> tuple[Episode, tuple[Refused, ...]]:
    names = model_names(models)
    scores, refused = read_scores(rewards, dialogue.ids, dialogue.names, names[0] if names else UNNAMED)
    episode = Episode(
        episode_id=episode_id,
        environment_id=environment_id,
        agents=agents,
        turns=dialogue.turns,
        scores=scores,
        observations=dialogue.observations,
        source=source,
        dialect=dialect_of(dialogue.rendered, len(agents), reasoning, rewards, agent_classes),
        codename=environment.codename,
        scenario=environment.scenario or _shared_scenario(dialogue),
        relationship=environment.relationship,
        models=names,
        tag=tag,
        reasoning=reasoning,
    )
    return episode, refused


def _agents(
    dialogue: Dialogue,
    models: Any,
    goals: Sequence[str],
    backgrounds: Mapping[str, str],
    people: Sequence[Person | None],
) -> tuple[Agent, ...]:
    """The participants; what the source does not name is read from each one's own opening observation, and what that
    does not say either from the profile."""
    listed = model_names(models)
    agents = []
    for place, (agent, name, known) in enumerate(zip(dialogue.ids, dialogue.names, people, strict=True)):
        opening = read_opening(dialogue.opening(agent), dialogue.names)
        told = backgrounds.get(name) or opening.background(name) or (known.public if known else "")
        background, secret = split_secret(told, name)
        agents.append(
            Agent(
                agent=agent,
                name=name,
                model=listed[place + 1] if len(listed) == len(dialogue.ids) + 1 else None,
                goal=(goals[place] if place < len(goals) else "") or opening.goal(name),
                background=background,
                secret=known.secret if known else secret,
            )
        )
    return tuple(agents)


def _shared_scenario(dialogue: Dialogue) -> str:
    """The scenario as every agent saw it: what only one of them may see never becomes everybody's."""
    views = [read_opening(dialogue.opening(agent), dialogue.names).scenario for agent in dialogue.ids]
    if len(set(views)) == 1:
        return views[0]
    words = [view.split(" ") for view in views]
    start = _alike(words)
    end = _alike([one[start:][::-1] for one in words])
    return " ".join(words[0][:start] + words[0][len(words[0]) - end :])


def _alike(lists: Sequence[Sequence[str]]) -> int:
    """How many words the lists have in common at their beginning."""
    return next((i for i, same in enumerate(zip(*lists, strict=False)) if len(set(same)) > 1), min(map(len, lists)))


def _ids(value: Any, key: str) -> list[str]:
    """The agents' ids; [] where the source has none. Raises InputError."""
    if value is None:
        return []
    if not isinstance(value, (list, tuple)) or not value:
        raise InputError(f"`{key}` is {kind(value) if value else 'empty'}, not a list of ids.")
    return [identifier({key: one}, key) for one in value]


def _by_name(value: Any, key: str) -> dict[str, str]:
    """{name: text}; {} where the column is absent. Raises InputError where it is something else."""
    if value is None:
        return {}
    return {name: one for name, one in mapping(value, f"`{key}`").items() if isinstance(one, str)}
