"""Prompts and completions: what a policy saw before each of its utterances, and what it then did.

The layout `single` is one user message for each turn: the context, the history as the agent saw it, then the turn, the
action types and the action's JSON schema. The layout `chat` is a system message, then user and assistant messages in
turn: a user message has what the agent saw between two of its own actions, an assistant message is such an action. In
`chat` the messages at one turn are an exact prefix of those at the agent's next turn. In both layouts the work is
linear in the length of the output.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence

from sotopia_rl_data.errors import InputError, NotFound, UsageError
from sotopia_rl_data.prompts.template import Feature, Layout, Template, Variant, fill, own_file, own_template
from sotopia_rl_data.prompts.view import VIEW, Seen, display_names, nothing, recorded, seen
from sotopia_rl_data.schema import Episode, Message, Turn
from sotopia_rl_data.spans import FIELD_TAGS, visible

PromptedTurn = tuple[str, int, list[Message], list[Message]]
"""(agent, turn, prompt, completion) of one utterance."""


def render(
    episode: Episode, agent: str, turn: int, layout: Layout = "single", template: Template | None = None
) -> list[Message]:
    """The messages that the policy of `agent` saw before it acted at `turn` (>= 0; the turn after the last works too).

    Raises NotFound where the episode has no such agent, UsageError where template and layout do not fit, InputError
    where the template needs what the episode lacks.
    """
    chosen = template_for(layout, template)
    before = [t for t in _own(episode, agent) if t.turn < turn] if chosen.layout == "chat" else []
    *_, last = _prompts(episode, agent, [*before, Turn(turn, agent, "none")], chosen)
    return last


def completion(episode: Episode, turn: Turn) -> list[Message]:
    """One assistant message: the action as JSON, recipients' names in `to` where it has private actions."""
    return [_action(turn, display_names(episode), has_private(episode))]


def prompts_of(episode: Episode, layout: Layout = "single", template: Template | None = None) -> Iterator[PromptedTurn]:
    """(agent, turn, prompt, completion) for each utterance, by (agent, turn). Raises what `render` raises."""
    chosen = template_for(layout, template)
    names, private = display_names(episode), has_private(episode)
    for agent in sorted({t.agent for t in episode.turns}):
        own = _own(episode, agent)
        for turn, prompt in zip(own, _prompts(episode, agent, own, chosen), strict=True):
            yield agent, turn.turn, prompt, [_action(turn, names, private)]


def has_private(episode: Episode) -> bool:
    """True where actions may be private: in the `head` dialect, and in any episode that has a private action."""
    return episode.dialect == "head" or any(t.to for t in episode.turns)


def template_for(layout: Layout, template: Template | None) -> Template:
    """`template`, or the layout's own if it is None. Raises UsageError where `template` is of another layout."""
    own = own_template(layout)
    if template is None:
        return own
    if template.layout != layout:
        raise UsageError(
            f"Template {template.name!r} renders the layout {template.layout!r}, not {layout!r}.",
            f"use --layout {template.layout}",
        )
    return template


def layout_id(layout: Layout, template: Template | None = None) -> dict[str, str]:
    """What determines the prompts besides the episodes, for recipes and manifests: layout, template name and hash."""
    return {
        "layout": layout,
        "template": template_for(layout, template).name,
        "sha256": wording_sha256(layout, template),
    }


def wording_sha256(layout: Layout, template: Template | None = None) -> str:
    """Hex SHA-256 of the files whose wording these prompts contain."""
    chosen = template_for(layout, template)
    if chosen.observations == "recorded":
        return chosen.sha256
    return hashlib.sha256(f"{chosen.sha256} {hashlib.sha256(own_file(VIEW).encode()).hexdigest()}".encode()).hexdigest()


def features(episode: Episode, agent: str, turn: int, private: bool | None = None) -> dict[str, Feature]:
    """The features that a variant's `when` can test: dialect, private actions, the agent's model, the number of agents,
    the agent's position from 0, whether it is the first turn."""
    ids = [a.agent for a in episode.agents]
    return {
        "dialect": episode.dialect,
        "private": has_private(episode) if private is None else private,
        "model": episode.agent(agent).model or "",
        "agents": len(ids),
        "position": ids.index(agent),
        "first": turn == 0,
    }


def slot_values(
    episode: Episode, agent: str, turn: int, observations: str, template: Template, variant: Variant
) -> dict[str, str]:
    """The text of every slot, given the joined observations."""
    me = episode.agent(agent)
    as_logged = template.observations == "recorded"
    names = {a.agent: a.name for a in episode.agents} if as_logged else display_names(episode)
    values = {
        "agent": names[agent],
        "partner": ", ".join(name for one, name in names.items() if one != agent),
        "goal": visible(me.goal, episode, agent, tags=() if as_logged else FIELD_TAGS),
        "turn": str(turn),
        "turn_from_1": str(turn + 1),
        "actions": template.separator.join(variant.actions[0]),
        "enum": '", "'.join(variant.actions[0]),
    }
    values["schema"] = fill(variant.schema, values)
    for letters, slot in template.echoes.items():
        if letters in observations:
            observations = observations.replace(letters, values[slot])
    values["observations"] = observations
    return values


def _own(episode: Episode, agent: str) -> list[Turn]:
    return sorted((t for t in episode.turns if t.agent == agent), key=lambda t: t.turn)


def _prompts(episode: Episode, agent: str, turns: Sequence[Turn], template: Template) -> Iterator[list[Message]]:
    """The prompt at each of the turns, which are in ascending order."""
    ids = [one.agent for one in episode.agents]
    if agent not in ids:
        raise NotFound(f"Episode {episode.episode_id!r} has no agent {agent!r}.", f"name one of: {', '.join(ids)}")
    lines = _recorded(episode, agent, template) if template.observations == "recorded" else seen(episode, agent)
    layout = _chat if template.layout == "chat" else _single
    return layout(episode, agent, turns, template, lines)


def _recorded(episode: Episode, agent: str, template: Template) -> list[Seen]:
    logged = recorded(episode, agent)
    if not logged:
        raise InputError(
            f"Template {template.name!r} needs observations; episode {episode.episode_id!r} has none of {agent!r}.",
            "leave --template out, or import the episode from a log that has raw messages",
        )
    return [Seen(o.turn, o.text.strip() if template.strip else o.text) for o in logged]


def _single(
    episode: Episode, agent: str, turns: Sequence[Turn], template: Template, lines: Sequence[Seen]
) -> Iterator[list[Message]]:
    """At each turn all that was seen so far. The text grows with the turns and is not joined anew."""
    private = has_private(episode)
    so_far, shown = "", 0
    for turn in turns:
        until = _until(lines, shown, turn.turn)
        if until > shown:
            batch = template.joiner.join(line.text for line in lines[shown:until])
            so_far = batch if shown == 0 else so_far + template.joiner + batch
            shown = until
        variant = template.variant(features(episode, agent, turn.turn, private))
        values = slot_values(episode, agent, turn.turn, so_far, template, variant)
        yield [_message(message, values) for message in variant.messages]


def _chat(
    episode: Episode, agent: str, turns: Sequence[Turn], template: Template, lines: Sequence[Seen]
) -> Iterator[list[Message]]:
    """At each turn one more user message, with what was seen since the agent's last action, without that action.

    The variant is chosen once, so that the first messages stay the same.
    """
    names, private = display_names(episode), has_private(episode)
    variant = template.variant(features(episode, agent, 0, private))
    *opening, repeated = variant.messages
    messages = [_message(m, slot_values(episode, agent, 0, "", template, variant)) for m in opening]
    shown = 0
    for turn in turns:
        until = _until(lines, shown, turn.turn)
        batch = template.joiner.join(line.text for line in lines[shown:until] if not line.own) or nothing()
        shown = until
        messages.append(_message(repeated, slot_values(episode, agent, turn.turn, batch, template, variant)))
        yield list(messages)
        messages.append(_action(turn, names, private))


def _until(lines: Sequence[Seen], shown: int, turn: int) -> int:
    """How many of the lines are known at `turn`; the first `shown` of them are known already."""
    while shown < len(lines) and lines[shown].turn <= turn:
        shown += 1
    return shown


def _message(message: Message, values: Mapping[str, str]) -> Message:
    return {"role": message["role"], "content": fill(message["content"], values)}


def _action(turn: Turn, names: Mapping[str, str], private: bool) -> Message:
    action: dict[str, object] = {"action_type": turn.action_type, "argument": turn.text}
    if private:
        action["to"] = [names.get(one, one) for one in turn.to]
    return {"role": "assistant", "content": json.dumps(action, ensure_ascii=False)}
