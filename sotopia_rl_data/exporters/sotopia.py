"""An Episode as the sotopia library stores it: EpisodeLog, the profiles that the log names by id, an export row.

A log's messages are turns: k observations (Environment to each agent), then k actions (each agent to Environment). An
agent that did not act is logged as doing nothing. An episode's own observations are written as they are; for a plain
episode, which has none, `prompts/view.py` builds them from its fields and turns.

Missing scores are written as the library writes an evaluator's failure: a bare 0.0 for the agent, which all our readers
take for missing. What the log has no place for (the flag of a failed generation, a second evaluator, a relationship
that is not one of the library's six) is left out, and `exporting.py` counts it.
"""

from __future__ import annotations

import json
import re
from typing import Any

from sotopia_rl_data.importers.messages import ENVIRONMENT, LoggedAction, render_action
from sotopia_rl_data.importers.profiles import ELSEWHERE, RELATIONSHIPS, split_name, stated_fields
from sotopia_rl_data.importers.record import UNNAMED
from sotopia_rl_data.importers.scores import OVERALL
from sotopia_rl_data.prompts.view import recorded, seen
from sotopia_rl_data.schema import Agent, Episode, Turn

Record = dict[str, Any]
RawMessage = tuple[str, str, str]

_LISTS = {"moral_values", "schwartz_personal_values"}
_TEXTS = {
    "first_name", "last_name", "occupation", "gender", "gender_pronoun", "public_info", "big_five",
    "personality_and_values", "decision_making_style", "model_id", "mbti", "tag",
}  # fmt: skip
"""Fields of an AgentProfile, by what the library wants in them."""


def episode_log(episode: Episode, evaluator: str) -> Record:
    """An EpisodeLog record, with the scores of `evaluator` ("": none)."""
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
    if episode.dialect == "head":
        log["agent_classes"] = []
    return log


def export_row(episode: Episode, log: Record) -> Record:
    """The row that the library's `episodes_to_jsonl` would make of `log`."""
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
        "agents_background": {
            agent.name: background_and_secret(agent, agent.name.split(" ")[0]) for agent in episode.agents
        },
        "social_goals": {agent.name: agent.goal for agent in episode.agents},
        "social_interactions": _interactions(episode),
        "reasoning": log["reasoning"],
        "rewards": log["rewards"],
    }


def environment_profile(episode: Episode) -> Record:
    """An EnvironmentProfile record; with the relationship if it is one of the library's six."""
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


def agent_profile(agent: Agent, episode: Episode) -> Record:
    """An AgentProfile record, from which the library rebuilds the agent's background, if the library wrote it.

    Its fields are those that the agent's profile had, which `meta` keeps, or else those that the background states; its
    id, name and secret are the agent's own, whatever `meta` has under these keys. Any
    other background is the `public_info`. What the library would refuse (an age that is not a whole number) is left
    out.
    """
    meta = json.loads(agent.meta) if agent.meta else {}
    more = {key: one for key, one in meta.items() if key not in ELSEWHERE and _fits(key, one)}
    background, first = _told(agent, episode)
    return {
        "pk": agent.agent,
        "first_name": first,
        "last_name": agent.name[len(first) :].strip(),
        **stated_fields(background, agent.name),
        **more,
        "secret": agent.secret,
    }


def _fits(key: str, value: Any) -> bool:
    """Whether an AgentProfile may have this value; a field that it does not know may have any."""
    if key in _LISTS:
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    return isinstance(value, str) if key in _TEXTS else key != "age" or type(value) is int


def _told(agent: Agent, episode: Episode) -> tuple[str, str]:
    """The background with the space that followed it, and the first name, as the agent was told them."""
    opening = next((seen.text for seen in episode.observations if seen.agent == agent.agent), "")
    after = opening.partition(agent.background)[2] if agent.background else ""
    told = re.match(r"(\s*?) ?(\S.*?)'s secrets: ", after)
    if told and f"{agent.name} ".startswith(f"{told[2]} "):
        return agent.background + told[1], told[2]
    return agent.background, split_name(agent.name)[0]


def raw_messages(episode: Episode) -> list[list[RawMessage]]:
    """The turns, each a list of (sender, receiver, text). Agents have their names, in speaking order."""
    shown = [_shown(episode, agent.agent) for agent in episode.agents]
    acted = {(turn.turn, turn.agent): turn for turn in episode.turns}
    first = min((turn.turn for turn in episode.turns), default=0)
    last = max((turn.turn for turn in episode.turns), default=-1)
    end = max([last, *(turn for texts in shown for turn in texts)], default=-1)
    log = []
    for number in range(end + 1):
        messages = [
            (ENVIRONMENT, agent.name, texts[number])
            for agent, texts in zip(episode.agents, shown, strict=True)
            if number in texts
        ]
        if first <= number <= last or last < number < end:
            messages += [
                (agent.name, ENVIRONMENT, _action_text(acted.get((number, agent.agent)), episode))
                for agent in episode.agents
            ]
        log.append(messages)
    return log


def background_and_secret(agent: Agent, called: str) -> str:
    """The background followed by the secret, as the export has them; `called` is the name in front of the secret."""
    return f"{agent.background} {called}'s secrets: {agent.secret}".strip() if agent.secret else agent.background


def _shown(episode: Episode, agent: str) -> dict[int, str]:
    """What `agent` was shown before each turn."""
    logged = recorded(episode, agent)
    if logged and episode.dialect != "plain":
        return {one.turn: one.text for one in logged}
    lines: dict[int, list[str]] = {turn: [] for turn in range(max((t.turn for t in episode.turns), default=-1) + 2)}
    for line in seen(episode, agent):
        lines.setdefault(line.turn, []).append(line.text)
    return {turn: "\n".join(texts) for turn, texts in lines.items()}


def _action_text(turn: Turn | None, episode: Episode) -> str:
    """An action as the library renders it (with a space in front for `head`). None: the agent did not act."""
    action = LoggedAction("none")
    if turn is not None:
        names = {agent.agent: agent.name for agent in episode.agents}
        action = LoggedAction(turn.action_type, turn.text, tuple(names[recipient] for recipient in turn.to))
    return render_action(action, spaced=episode.dialect == "head")


def _interactions(episode: Episode) -> str:
    """The public actions, one in each paragraph: the export's `social_interactions`, for people to read."""
    names = {agent.agent: agent.name for agent in episode.agents}
    paragraphs = [
        f"{names[turn.agent]}{' ' if turn.action_type == 'speak' else ': '}{_action_text(turn, episode).strip()}"
        for turn in sorted(episode.turns, key=lambda turn: turn.turn)
        if turn.action_type != "none" and not turn.to
    ]
    return "\n\n".join(paragraphs)


def _models(episode: Episode, evaluator: str) -> list[str]:
    """[evaluator, first agent's model, second agent's model …]"""
    if len(episode.models) == len(episode.agents) + 1:
        return [evaluator or episode.models[0], *episode.models[1:]]
    return [evaluator or UNNAMED, *(agent.model or UNNAMED for agent in episode.agents)]


def _reward(episode: Episode, agent: str, evaluator: str) -> list[Any] | float:
    scores = {s.dimension: s.score for s in episode.scores if (s.agent, s.evaluator) == (agent, evaluator)}
    if not scores:
        return 0.0
    overall = sum(scores.values()) / len(scores)
    return [overall, scores | {OVERALL: overall}]
