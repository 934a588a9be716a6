"""The raw messages of an episode, as the sotopia library logs them: what `importers/messages.py` reads, written.

A turn is k observations (Environment to each agent), then k actions (each agent to Environment); whoever did not act
is logged as doing nothing. Observations that the episode carries are written as they are; where it carries none (a
plain episode) they are what `prompts/view.py` builds from its fields and turns.
"""

from __future__ import annotations

from collections.abc import Sequence

from sotopia_rl_data.importers.actions import Action, render_action
from sotopia_rl_data.importers.messages import ENVIRONMENT
from sotopia_rl_data.prompts.view import recorded, seen
from sotopia_rl_data.schema import Episode, Turn

RawMessage = tuple[str, str, str]


def raw_messages(episode: Episode) -> list[list[RawMessage]]:
    """Turns of (sender, receiver, text). Agents are named as in `episode.agents`, in speaking order."""
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
        if first <= number <= last or (number > last and number < end):
            messages += [
                (agent.name, ENVIRONMENT, action_text(acted.get((number, agent.agent)), episode))
                for agent in episode.agents
            ]
        log.append(messages)
    return log


def action_text(turn: Turn | None, episode: Episode) -> str:
    """An action as the library renders it; None is somebody who did not act. `head` puts a space in front."""
    if turn is None:
        return render_action(Action("none"), spaced=episode.dialect == "head")
    names = {agent.agent: agent.name for agent in episode.agents}
    done = Action(turn.action_type, turn.text, tuple(names[one] for one in turn.to))
    return render_action(done, spaced=episode.dialect == "head")


def interactions(episode: Episode) -> str:
    """What everybody could notice, one action a paragraph: the export's `social_interactions`, for people to read."""
    names = {agent.agent: agent.name for agent in episode.agents}
    told: Sequence[str] = [
        f"{names[turn.agent]}{' ' if turn.action_type == 'speak' else ': '}{action_text(turn, episode).strip()}"
        for turn in sorted(episode.turns, key=lambda turn: turn.turn)
        if turn.action_type != "none" and not turn.to
    ]
    return "\n\n".join(told)


def _shown(episode: Episode, agent: str) -> dict[int, str]:
    """What `agent` was shown before each turn."""
    logged = recorded(episode, agent)
    if logged and episode.dialect != "plain":
        return {one.turn: one.text for one in logged}
    lines: dict[int, list[str]] = {turn: [] for turn in range(max((t.turn for t in episode.turns), default=-1) + 2)}
    for line in seen(episode, agent):
        lines.setdefault(line.turn, []).append(line.text)
    return {turn: "\n".join(texts) for turn, texts in lines.items()}
