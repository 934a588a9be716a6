"""What the opening observation tells an agent: the scenario, its own background and secret, its goal.

Only for what the source names nowhere else. The agents' names are known here, so that each field is found by the line
that begins it, in the order in which the library writes them; nothing is guessed from the shape of a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

_HIDDEN = "Unknown"


@dataclass(frozen=True, slots=True)
class Opening:
    """The fields of one opening observation, by name as the agent reads them; "" and {} where there are none."""

    scenario: str = ""
    backgrounds: dict[str, str] = field(default_factory=dict)
    goals: dict[str, str] = field(default_factory=dict)

    def background(self, name: str) -> str:
        """The background of `name`, "" where it is hidden."""
        found = self.backgrounds.get(name, "")
        return "" if found == _HIDDEN else found

    def goal(self, name: str) -> str:
        """The goal of `name`, "" where it is hidden."""
        found = self.goals.get(name, "")
        return "" if found == _HIDDEN else found


def read_opening(observed: str, names: Sequence[str]) -> Opening:
    """The fields of `observed`, what one agent was shown before turn 0."""
    marks = _marks(observed, names)
    ends = [start for _, _, start, _ in marks[1:]]
    opening = Opening(_scenario(observed))
    for (what, name, _, begin), end in zip(marks, ends, strict=False):
        getattr(opening, what)[name] = observed[begin:end].strip()
    return opening


def _scenario(observed: str) -> str:
    _, found, rest = observed.partition("Scenario: ")
    scenario, ended, _ = rest.partition("\nParticipants: ")
    return scenario.strip() if found and ended else ""


def _marks(observed: str, names: Sequence[str]) -> list[tuple[str, str, int, int]]:
    """(field, name, where its mark starts, where its text starts) in order, and a last one at the end of the fields."""
    marks, position = [], max(observed.find("\nParticipants: "), 0)
    for what, mark in (("backgrounds", "\n{}'s background: "), ("goals", "\n{}'s goal: ")):
        for name in names:
            literal = mark.format(name)
            start = observed.find(literal, position)
            if start >= 0:
                position = start + len(literal)
                marks.append((what, name, start, position))
    end = observed.rfind("\nConversation Starts:")
    return [*marks, ("end", "", end if end >= position else len(observed), 0)]


def split_secret(background: str, name: str) -> tuple[str, str]:
    """A background that ends in "<first name>'s secrets: …" as (background, secret)."""
    words = name.split(" ")
    for n in range(len(words), 0, -1):
        before, found, secret = background.rpartition(f"{' '.join(words[:n])}'s secrets: ")
        if found:
            return before.strip(), secret.strip()
    return background.strip(), ""
