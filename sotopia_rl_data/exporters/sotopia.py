"""An Episode as the sotopia library keeps it: EpisodeLog, the profiles that the log names by id, an export row.

Missing scores are written as the library writes an evaluator's failure, a bare 0.0 for the agent, which every reader
here takes for missing. What its shape has no room for (a failed generation's flag, a second evaluator, a relationship
that is none of its six) stays behind; `run.py` counts what does.
"""

from __future__ import annotations

from typing import Any

from sotopia_rl_data.exporters.messages import interactions, raw_messages
from sotopia_rl_data.importers.models import UNNAMED
from sotopia_rl_data.importers.profiles import RELATIONSHIPS
from sotopia_rl_data.importers.scores import OVERALL
from sotopia_rl_data.schema import Agent, Episode

Record = dict[str, Any]


def episode_log(episode: Episode, evaluator: str) -> Record:
    """An EpisodeLog record, with the scores that `evaluator` gave ("": none)."""
    log: Record = {
        "pk": episode.episode_id,
        "environment": episode.environment_id,
        "agents": [agent.agent for agent in episode.agents],
        "tag": episode.tag,
        "models": _models(episode, evaluator),
        "messages": raw_messages(episode),
        "reasoning": episode.reasoning,
        "rewards": [_reward(episode, agent.agent, evaluator) for agent in episode.agents],
        "rewards_prompt": "",
    }
    return log | {"agent_classes": []} if episode.dialect == "head" else log


def export_row(episode: Episode, log: Record) -> Record:
    """The row that `episodes_to_jsonl` would make of `log`."""
    return {
        "episode_id": log["pk"],
        "environment_id": log["environment"],
        "agent_ids": log["agents"],
        "experiment_tag": log["tag"],
        "experiment_model_name_pairs": log["models"],
        "raw_messages": log["messages"],
        "raw_rewards": log["rewards"],
        "raw_rewards_prompt": log["rewards_prompt"],
        "scenario": episode.scenario,
        "codename": episode.codename,
        "agents_background": {agent.name: _background(agent) for agent in episode.agents},
        "social_goals": {agent.name: agent.goal for agent in episode.agents},
        "social_interactions": interactions(episode),
        "reasoning": log["reasoning"],
        "rewards": log["rewards"],
    }


def environment_profile(episode: Episode) -> Record:
    """An EnvironmentProfile record; the relationship only where it is one of the library's six."""
    profile: Record = {
        "pk": episode.environment_id,
        "codename": episode.codename,
        "source": "",
        "scenario": episode.scenario,
        "agent_goals": [agent.goal for agent in episode.agents],
    }
    if episode.relationship in RELATIONSHIPS:
        profile["relationship"] = RELATIONSHIPS.index(episode.relationship)
    return profile


def agent_profile(agent: Agent) -> Record:
    """An AgentProfile record. An episode has a person's background as one text, which is its `public_info`."""
    first, _, last = agent.name.rpartition(" ")
    return {
        "pk": agent.agent,
        "first_name": first or last,
        "last_name": last if first else "",
        "public_info": agent.background,
        "secret": agent.secret,
    }


def _background(agent: Agent) -> str:
    if not agent.secret:
        return agent.background
    return f"{agent.background} {agent.name.split(' ')[0]}'s secrets: {agent.secret}".strip()


def _models(episode: Episode, evaluator: str) -> list[str]:
    """[evaluator, first agent's, second agent's …]"""
    known = len(episode.models) == len(episode.agents) + 1
    first = evaluator or (episode.models[0] if known else UNNAMED)
    return [first, *(episode.models[1:] if known else (agent.model or UNNAMED for agent in episode.agents))]


def _reward(episode: Episode, agent: str, evaluator: str) -> list[Any] | float:
    scores = {s.dimension: s.score for s in episode.scores if (s.agent, s.evaluator) == (agent, evaluator)}
    if not scores:
        return 0.0
    overall = sum(scores.values()) / len(scores)
    return [overall, scores | {OVERALL: overall}]
