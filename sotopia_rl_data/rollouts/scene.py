"""What an episode starts from: the people, their environment and goals, and what each is told before the first turn.

`profiles.py` and `scenarios.py` read scenes from files, `world.py` plays them. The fields of an opening are marked as
in the library's logs, so that `importers/library.py` can read them.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.importers.profiles import RELATIONSHIPS
from sotopia_rl_data.rollouts.actions import Dialect
from sotopia_rl_data.rollouts.markup import shown

UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Person:
    """A person who can take part. The background has parts, which others see by how close they are to the person.

    `introduction`, one sentence or more that begins with the name, is for acquaintances; `personality` is for friends
    and closer relationships; nobody else sees `secret`. A part that is None is left out; of an empty one the label is
    shown alone, as the library does. `called` is the name before the secret ("Hendrick's secrets: …").
    """

    agent: str
    name: str
    called: str = ""
    introduction: str = ""
    personality: str | None = None
    secret: str | None = None
    age: int | None = None

    def background(self, viewer: int) -> str:
        """Introduction and personality, as the agent at place `viewer` in the speaking order sees them."""
        return " ".join(self._parts(viewer))

    def own_background(self, place: int) -> str:
        """The background that the person, at `place` in the speaking order, sees: with the secret."""
        if self.secret is None:
            return self.background(place)
        secret = f"{self.called or self.name.split(' ')[0]}'s secrets: {shown(self.secret, place)}"
        return " ".join([*self._parts(place), secret])

    def known_background(self, relationship: str, viewer: int) -> str:
        """The background that the agent at place `viewer`, who has this relationship to the person, sees."""
        closeness = RELATIONSHIPS.index(relationship)
        if closeness == 0:
            return ""
        if closeness == 1:
            return f"{self.name} "
        return "".join(f"{part} " for part in self._parts(viewer, is_friend=closeness > 2))

    def _parts(self, viewer: int, is_friend: bool = True) -> list[str]:
        introduction = shown(self.introduction, viewer)
        parts = [introduction] if introduction else []
        if is_friend and self.personality is not None:
            parts.append(f"Personality and values description: {shown(self.personality, viewer)}")
        return parts


@dataclass(frozen=True, slots=True)
class Environment:
    """A scenario and what each participant wants. Texts may hold the library's XML.

    `relationship` is one of `importers.profiles.RELATIONSHIPS`. `goals` are in speaking order. `ages` are the lowest
    and highest age of each participant, in years; () for no limits.
    """

    environment_id: str
    scenario: str
    goals: tuple[str, ...]
    codename: str = ""
    relationship: str = "stranger"
    source: str = ""
    ages: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """An environment and the people who meet in it, in speaking order.

    Raises UsageError where there are fewer than two people, where two have the same id or the same name (observations
    tell people apart by name), or where there is not one goal for each.
    """

    environment: Environment
    people: tuple[Person, ...]

    def __post_init__(self) -> None:
        ids, scenario = self.agents, f"Scenario {self.environment.environment_id!r}"
        if len(ids) < 2 or len(set(ids)) < len(ids):
            raise UsageError(
                f"{scenario} is played by {', '.join(ids) or 'nobody'}.", "name two agents or more, each once"
            )
        names = [person.name for person in self.people]
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise UsageError(f"{scenario} has two people called {repeated[0]}.", "give each another name")
        if len(self.environment.goals) != len(ids):
            raise UsageError(
                f"{scenario} has {len(self.environment.goals)} goals for {len(ids)} agents.",
                "give one goal for each agent, in speaking order",
            )

    @property
    def agents(self) -> tuple[str, ...]:
        """The ids of the people, in speaking order."""
        return tuple(person.agent for person in self.people)

    def person(self, agent: str) -> Person:
        """The person with this id. Raises KeyError."""
        return {person.agent: person for person in self.people}[agent]

    def opening(self, place: int, dialect: Dialect) -> str:
        """The first observation of the agent at `place` in the speaking order: the scenario, the participants, its own
        background, secret and goal, and as much about the others as the relationship and the dialect allow."""
        names = [person.name for person in self.people]
        listed = " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])}, and {names[-1]}"
        lines = [
            "Here is the context of this interaction:",
            f"Scenario: {shown(self.environment.scenario, place)}",
            f"Participants: {listed}",
        ]
        backgrounds = [self._background(i, place, dialect) for i in range(len(names))]
        if any(backgrounds):
            pairs = zip(names, backgrounds, strict=True)
            block = "\n".join(f"{name}'s background: {background or UNKNOWN}" for name, background in pairs)
            lines.append(block.strip() if dialect.trims else block)
        goals = [UNKNOWN] * len(names)
        goals[place] = shown(f"<root>{self.environment.goals[place]}</root>", place)
        lines += [f"{name}'s goal: {goal}" for name, goal in zip(names, goals, strict=True)]
        text = re.sub("\n +", "\n", "\n".join(lines)).strip()
        return f"\n{text}\nConversation Starts:\n"

    def _background(self, place: int, viewer: int, dialect: Dialect) -> str:
        """The background of the person at `place`, as the agent at place `viewer` sees it."""
        person = self.people[place]
        if place == viewer:
            return person.own_background(place)
        if not dialect.shows_backgrounds:
            return UNKNOWN
        return person.known_background(self.environment.relationship, viewer)
