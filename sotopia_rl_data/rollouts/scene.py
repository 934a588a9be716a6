"""The nouns of a rollout: who meets whom, where, what each of them wants, and what each is told before the first turn.

Frozen; read from files by `profiles.py` and `scenarios.py`, played by `world.py`. The marks around the fields of an
opening are those of the library's logs, which the importers read by: `importers/library.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.importers.profiles import RELATIONSHIPS
from sotopia_rl_data.rollouts.actions import Dialect
from sotopia_rl_data.rollouts.markup import shown

UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who can take part. What is told of a person comes in parts, by who may know it.

    `introduction` is a sentence or more that begins with the name, for acquaintances; `personality` is for friends and
    closer; `secret` is for nobody else; None is not told, an empty one is as the library tells it: its label alone.
    `called` is how others call the person ("Hendrick's secrets: …").
    """

    agent: str
    name: str
    called: str = ""
    introduction: str = ""
    personality: str | None = None
    secret: str | None = None
    age: int | None = None

    def background(self, viewer: int) -> str:
        """Introduction and personality, as whoever is at place `viewer` of the speaking order is shown them."""
        return " ".join(self._parts(viewer))

    def own_background(self, place: int) -> str:
        """What the person, at `place` of the speaking order, is told of itself: the secret too."""
        if self.secret is None:
            return self.background(place)
        secret = f"{self.called or self.name.split(' ')[0]}'s secrets: {shown(self.secret, place)}"
        return " ".join([*self._parts(place), secret])

    def known_background(self, relationship: str, viewer: int) -> str:
        """What another is told of the person, who is at place `viewer` and stands in this relationship."""
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
    and highest age of each, in years; () where anybody will do.
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
    """An environment and the people who meet in it, in speaking order: what one episode is played from.

    Raises UsageError where there are fewer than two, two with one id or one name (what is seen tells people apart by
    name), or not one goal for each.
    """

    environment: Environment
    people: tuple[Person, ...]

    def __post_init__(self) -> None:
        ids, where = self.agents, f"Scenario {self.environment.environment_id!r}"
        if len(ids) < 2 or len(set(ids)) < len(ids):
            raise UsageError(
                f"{where} is played by {', '.join(ids) or 'nobody'}.", "name two agents or more, each once"
            )
        names = [person.name for person in self.people]
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            raise UsageError(f"{where} has two people called {twice}.", "give each another name")
        if len(self.environment.goals) != len(ids):
            raise UsageError(
                f"{where} has {len(self.environment.goals)} goals for {len(ids)} agents.",
                "give one goal for each agent, in speaking order",
            )

    @property
    def agents(self) -> tuple[str, ...]:
        """The ids of those who take part, in speaking order."""
        return tuple(person.agent for person in self.people)

    def person(self, agent: str) -> Person:
        """The person with this id. Raises KeyError."""
        return {person.agent: person for person in self.people}[agent]

    def opening(self, place: int, dialect: Dialect) -> str:
        """The first observation of the agent at `place` of the speaking order: the scenario, who is there, its own
        background, secret and goal, and as much of the others as the relationship and the dialect allow."""
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
            told = "\n".join(f"{name}'s background: {background or UNKNOWN}" for name, background in pairs)
            lines.append(told.strip() if dialect.trims else told)
        goals = [UNKNOWN] * len(names)
        goals[place] = shown(f"<root>{self.environment.goals[place]}</root>", place)
        lines += [f"{name}'s goal: {goal}" for name, goal in zip(names, goals, strict=True)]
        text = re.sub("\n +", "\n", "\n".join(lines)).strip()
        return f"\n{text}\nConversation Starts:\n"

    def _background(self, place: int, viewer: int, dialect: Dialect) -> str:
        """The background of the person at `place`, as the agent at place `viewer` is told it."""
        person = self.people[place]
        if place == viewer:
            return person.own_background(place)
        if not dialect.shows_backgrounds:
            return UNKNOWN
        return person.known_background(self.environment.relationship, viewer)
