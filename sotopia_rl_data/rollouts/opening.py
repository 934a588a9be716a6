"""What an agent is told before the first turn: the scenario, who is there, its own background, secret and goal, and as
much of the others as their relationship allows.

The marks around the fields are those of the library's logs, which the importers read by: `importers/opening.py`.
"""

from __future__ import annotations

import re

from sotopia_rl_data.importers.profiles import RELATIONSHIPS
from sotopia_rl_data.rollouts.dialects import Dialect
from sotopia_rl_data.rollouts.markup import shown
from sotopia_rl_data.rollouts.scene import Person, Scene

UNKNOWN = "Unknown"


def opening(scene: Scene, place: int, dialect: Dialect) -> str:
    """The first observation of the agent at `place` of the speaking order."""
    names = [person.name for person in scene.people]
    lines = ["Here is the context of this interaction:", f"Scenario: {shown(scene.environment.scenario, place)}"]
    lines.append(f"Participants: {_listed(names)}")
    backgrounds = [_background(scene, i, place, dialect) for i in range(len(names))]
    if any(backgrounds):
        told = "\n".join(f"{name}'s background: {one or UNKNOWN}" for name, one in zip(names, backgrounds, strict=True))
        lines.append(told.strip() if dialect.trims else told)
    goals = [UNKNOWN] * len(names)
    goals[place] = shown(f"<root>{scene.environment.goals[place]}</root>", place)
    lines += [f"{name}'s goal: {goal}" for name, goal in zip(names, goals, strict=True)]
    text = re.sub("\n +", "\n", "\n".join(lines)).strip()
    return f"\n{text}\nConversation Starts:\n"


def background(person: Person, place: int) -> str:
    """What `person`, at `place`, knows of itself but for the secret."""
    return _joined(shown(person.introduction, place), _personality(person, place))


def _background(scene: Scene, whose: int, place: int, dialect: Dialect) -> str:
    person = scene.people[whose]
    if whose == place:
        return _joined(background(person, place), _secret(person, place))
    if not dialect.shows_backgrounds:
        return UNKNOWN
    return _known(person, scene.environment.relationship, place)


def _known(person: Person, relationship: str, place: int) -> str:
    """What somebody else in this relationship knows of `person`."""
    closeness = RELATIONSHIPS.index(relationship)
    if closeness == 0:
        return ""
    if closeness == 1:
        return f"{person.name} "
    parts = [shown(person.introduction, place)]
    parts += [_personality(person, place)] if closeness > 2 else []
    return "".join(f"{part} " for part in parts if part)


def _personality(person: Person, place: int) -> str:
    told = person.personality
    return "" if told is None else f"Personality and values description: {shown(told, place)}"


def _secret(person: Person, place: int) -> str:
    if person.secret is None:
        return ""
    return f"{person.called or person.name.split(' ')[0]}'s secrets: {shown(person.secret, place)}"


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _listed(names: list[str]) -> str:
    """Names as a sentence lists them: "A and B", "A, B, and C"."""
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])}, and {names[-1]}"
