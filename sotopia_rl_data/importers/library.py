"""What the sotopia library's two shapes of an episode have in common: stored EpisodeLogs, and the rows of its export.

Both have the raw messages, from which the utterances' identity is taken (`messages.py`). An EpisodeLog has neither
scenario nor goals. Fields that the record lacks are read from the profiles beside it or, without profiles, from each
agent's own opening observation: the scenario, and the agent's background, secret and goal. The agents' names are known
by then, so each field of an opening is found by the line that begins it, in the order in which the library writes
them; nothing is guessed from the shape of a name. `social_interactions` is never read: it is lossy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.dialogue import meta_text
from sotopia_rl_data.importers.messages import Dialogue
from sotopia_rl_data.importers.profiles import AgentProfile, EnvironmentProfile
from sotopia_rl_data.importers.record import UNNAMED, identifier, kind, model_names
from sotopia_rl_data.importers.scores import LoggedScores, RefusedScore
from sotopia_rl_data.schema import Agent, Episode

Dialect = Literal["legacy", "0.1.5", "head"]
_ENDED = "Environment comments: terminated:"
_HIDDEN = "Unknown"
_NAME = 32  # words: so much of a name is looked for where a secret may begin


@dataclass(frozen=True, slots=True)
class LibraryEpisode:
    """What both shapes say of an episode, before the opening observations of its dialogue are read.

    `models` and `rewards` are as logged. `environment` is what is known of the scenario; its `goals` are in speaking
    order. `backgrounds` are by name, `profiles` in speaking order (None: unknown). `agent_classes`: the record has a
    field of that name, which only newer versions of the library write.
    """

    episode_id: str
    environment_id: str
    dialogue: Dialogue
    models: Any
    rewards: Any
    environment: EnvironmentProfile
    source: str
    tag: str
    reasoning: str
    backgrounds: Mapping[str, str] = field(default_factory=dict)
    profiles: Sequence[AgentProfile | None] = ()
    agent_classes: bool = False

    def read(self) -> tuple[Episode, tuple[RefusedScore, ...]]:
        """The Episode, and its refused scores."""
        dialogue, names = self.dialogue, model_names(self.models)
        scores = LoggedScores()
        scores.add_rewards(self.rewards, dialogue.ids, dialogue.names, names[0] if names else UNNAMED)
        episode = Episode(
            episode_id=self.episode_id,
            environment_id=self.environment_id,
            agents=tuple(self._agents()),
            turns=dialogue.turns,
            scores=tuple(scores.scores),
            observations=dialogue.observations,
            source=self.source,
            dialect=self._dialect(),
            codename=self.environment.codename,
            scenario=self.environment.scenario or shared_scenario(dialogue),
            relationship=self.environment.relationship,
            models=names,
            tag=self.tag,
            reasoning=self.reasoning,
        )
        return episode, tuple(scores.refused)

    def _agents(self) -> Iterator[Agent]:
        """The agents. A field that the source lacks comes from the agent's own opening observation, or else from its
        profile."""
        dialogue, goals = self.dialogue, self.environment.goals
        models = model_names(self.models)
        profiles = self.profiles or [None] * len(dialogue.ids)
        openings = dialogue.openings()
        for place, (agent, name, profile) in enumerate(zip(dialogue.ids, dialogue.names, profiles, strict=True)):
            opening = read_opening(openings.get(agent, ""), dialogue.names)
            stated = self.backgrounds.get(name) or opening.backgrounds.get(name, "")
            background, secret = split_secret(stated or (profile.public if profile else ""), name)
            yield Agent(
                agent=agent,
                name=name,
                model=models[place + 1] if len(models) == len(dialogue.ids) + 1 else None,
                goal=(goals[place] if place < len(goals) else "") or opening.goals.get(name, ""),
                background=background,
                secret=profile.secret if profile else secret,
                meta=meta_text(profile.meta(name, background)) if profile else None,
            )

    def _dialect(self) -> Dialect:
        """Which version of the sotopia library wrote the log, by signs that only that version leaves, in this order:

        head    git after January 2026: an action begins with a space or with "[private to", or there is `agent_classes`
        0.1.5   the episode ended with "Too few active agents"; or has more than two agents; or has a bare score and
                comments on each agent (a bug of 0.1.5, which loses every score)
        legacy  0.1.4 and before, and every log without any of these signs

        Up to 0.1.5 the messages are written alike, so a log without a sign (two strangers, ended by the turn limit or
        by silence, the evaluator failed) may be of either version. It is called legacy: nothing that reads an episode
        treats the two differently.
        """
        if self.agent_classes or any(action.startswith((" ", "[private to ")) for action in self.dialogue.rendered):
            return "head"
        ended, _, comments = self.reasoning.partition("\n")
        if ended.startswith(_ENDED) and "Too few active agents;" in ended:
            return "0.1.5"
        rewards = self.rewards if isinstance(self.rewards, (list, tuple)) else ()
        lost = bool(rewards) and all(isinstance(reward, (int, float)) for reward in rewards)
        if len(self.dialogue.ids) > 2 or (lost and comments.startswith("Agent 1 comments:")):
            return "0.1.5"
        return "legacy"


def agent_ids(value: Any, key: str) -> list[str]:
    """The agents' ids; [] where the source has none. Raises InputError."""
    if value is None:
        return []
    if not isinstance(value, (list, tuple)) or not value:
        raise InputError(f"`{key}` is {kind(value) if value else 'empty'}, not a list of ids.")
    return [identifier({key: agent}, key) for agent in value]


@dataclass(frozen=True, slots=True)
class Opening:
    """The fields of one opening observation by agent name, as the observer reads them; "" if hidden or absent."""

    scenario: str = ""
    backgrounds: dict[str, str] = field(default_factory=dict)
    goals: dict[str, str] = field(default_factory=dict)


def read_opening(observed: str, names: Sequence[str]) -> Opening:
    """The fields of `observed`, the text that one agent was shown before turn 0."""
    _, begun, rest = observed.partition("Scenario: ")
    scenario, ended, _ = rest.partition("\nParticipants: ")
    opening = Opening(scenario.strip() if begun and ended else "")
    marks: list[
        tuple[dict[str, str], str, int, int]
    ] = []  # (fields to fill, the agent's name, where its mark starts, where its text starts)
    position = max(observed.find("\nParticipants: "), 0)
    lasts = [name.rpartition("\n")[2] for name in names]  # no name is searched for whose last line begins no line
    for fields, label in ((opening.backgrounds, "background"), (opening.goals, "goal")):
        lines = _lines(observed, f"'s {label}: ", {len(last) for last in lasts})
        for name, last in zip(names, lasts, strict=True) if lines else ():
            if lines.get(last, -1) < position:
                continue
            mark = f"\n{name}'s {label}: "
            start = observed.find(mark, position)
            if start >= 0:
                position = start + len(mark)
                marks.append((fields, name, start, position))
    end = observed.rfind("\nConversation Starts:")
    ends = [*(start for _, _, start, _ in marks[1:]), end if end >= position else len(observed)]
    for (fields, name, _, start), end in zip(marks, ends, strict=False):
        text = observed[start:end].strip()
        fields[name] = "" if text == _HIDDEN else text
    return opening


def _lines(observed: str, words: str, lengths: set[int]) -> dict[str, int]:
    """What stands between a line break and `words`, where it has one of these lengths, and the place of the last such
    break."""
    lines: dict[str, int] = {}
    line, after = -1, 0
    while (at := observed.find(words, after)) >= 0:
        line = max(line, observed.rfind("\n", after, at))
        after = at + 1
        if at - line - 1 in lengths:
            lines[observed[line + 1 : at]] = line
    return lines


def split_secret(background: str, name: str) -> tuple[str, str]:
    """(background, secret) of a background that ends in "<first name>'s secrets: …"."""
    words = name.split(" ", _NAME)[:_NAME]
    for n in range(len(words), 0, -1):
        before, mark, secret = f"{background} ".rpartition(f"{' '.join(words[:n])}'s secrets: ")  # none may follow
        if mark:
            return before.strip(), secret.strip()
    return background.strip(), ""


def shared_scenario(dialogue: Dialogue) -> str:
    """The scenario as every agent saw it, without the words that only some of them were shown."""
    openings = dialogue.openings()
    views = [read_opening(openings.get(agent, ""), ()).scenario for agent in dialogue.ids]
    if len(set(views)) == 1:
        return views[0]
    words = [view.split(" ") for view in views]
    start = _common_words(words)
    end = _common_words([view[start:][::-1] for view in words])
    return " ".join(words[0][:start] + words[0][len(words[0]) - end :])


def _common_words(lists: Sequence[Sequence[str]]) -> int:
    """How many words all lists have in common at their beginning."""
    for count, words in enumerate(zip(*lists, strict=False)):
        if len(set(words)) > 1:
            return count
    return min(map(len, lists))
