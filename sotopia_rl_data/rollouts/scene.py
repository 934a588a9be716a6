"""The nouns of a rollout: who meets whom, where, and what each of them wants. Frozen; read by `profiles.py`,
`scenarios.py`, played by `world.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sotopia_rl_data.errors import UsageError


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who can take part, told in parts by who may know them.

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


@dataclass(frozen=True, slots=True)
class Environment:
    """A scenario and what each who takes part in it wants. Texts may hold the library's XML.

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
        """Who has this id. Raises KeyError."""
        for one in self.people:
            if one.agent == agent:
                return one
        raise KeyError(agent)
