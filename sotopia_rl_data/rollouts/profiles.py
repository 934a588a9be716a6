"""The sotopia library's profile files: agents, environments, which agents are paired in them, who knows whom.

Both published shapes are read: JSON lines (`agent_profiles.jsonl`, `environment_profiles.jsonl`,
`env_agent_combo_storages.jsonl`, `relationship_profiles.jsonl`; any names will do) and the folders of the local
storage (`AgentProfile/<id>.json` …). A record's kind is told by its keys.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sotopia_rl_data.errors import InputError, NotFound
from sotopia_rl_data.importers.profiles import GENDERS, RELATIONSHIPS, is_environment, relationship_name
from sotopia_rl_data.importers.record import identifier, items, json_value, kind, mapping, text
from sotopia_rl_data.rollouts.scene import Environment, Person, Scene
from sotopia_rl_data.yaml_nodes import text_of

FOLDERS = ("AgentProfile", "EnvironmentProfile", "EnvAgentComboStorage", "RelationshipProfile")
_ENDS = (("agent1_id", "agent2_id"), ("agent_1_id", "agent_2_id"))  # fields that name the two agents of a relationship
_ANY_AGES = ((0, 999), (0, 999))
HARD = (
    "01H7VFHNV13MHN97GAH73E3KM8",
    "01H7VFHN5WVC5HKKVBHZBA553R",
    "01H7VFHN9W0WAFZCBT09PKJJNK",
    "01H7VFHPDZVVCDZR3AARA547CY",
    "01H7VFHPQQQY6H4DNC6NBQ8XTG",
    "01H7VFHN7WJK7VWVRZZTQ6DX9T",
    "01H7VFHPS5WJW2694R1MNC8JFY",
    "01H7VFHNN7XTR99319DS8KZCQM",
    "01H7VFHQ11NAMZS4A2RDGDB01V",
    "01H7VFHPSWGDGEYRP63H2DJKV0",
    "01H7VFHNF4G18PC9JHGRC8A1R6",
    "01H7VFHNNYH3W0VRWVY178K2TK",
    "01H7VFHP8AN5643B0NR0NP00VE",
    "01H7VFHN7A1ZX5KSMT2YN9RXC4",
)
"""The environments of the benchmark SOTOPIA-hard, by id."""


@dataclass(slots=True)
class Profiles:
    """The profiles of a folder, by id. `pairs` has the published pairs of agents by environment, `knows` the pairs of
    agents by relationship."""

    people: dict[str, Person] = field(default_factory=dict)
    environments: dict[str, Environment] = field(default_factory=dict)
    pairs: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    knows: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def scenes(self, environments: Iterable[str] | None = None, pairs: int | None = None) -> Iterator[Scene]:
        """A scene for each environment (the named ones in this order, or all) and each of its pairs of agents (all, or
        the first `pairs`).

        An environment without a published pair takes the agents that fit its relationship and ages. Raises NotFound.
        """
        for environment_id in self.environments if environments is None else environments:
            environment = self._environment(environment_id)
            casts = self.pairs.get(environment_id) or list(self._fitting(environment))
            if not casts:
                raise NotFound(
                    f"No two agents fit the environment {environment_id!r}.",
                    "add a record that names a pair of agents for it",
                )
            for agents in casts[:pairs]:
                yield Scene(environment, tuple(self._person(agent) for agent in agents))

    def _environment(self, environment_id: str) -> Environment:
        if environment_id not in self.environments:
            raise NotFound(
                f"There is no environment {environment_id!r} among the profiles.", "name an environment of the profiles"
            )
        return self.environments[environment_id]

    def _person(self, agent: str) -> Person:
        if agent not in self.people:
            raise NotFound(f"There is no agent {agent!r} among the profiles.", "add its AgentProfile record")
        return self.people[agent]

    def _fitting(self, environment: Environment) -> Iterator[tuple[str, str]]:
        """The pairs of agents that have the environment's relationship and are within its age limits."""
        for agents in self.knows.get(environment.relationship, ()):
            people = [self.people[agent] for agent in agents if agent in self.people]
            limits = environment.ages or _ANY_AGES
            pairs = zip(people, limits, strict=False)
            if len(people) == 2 and all(p.age is None or low <= p.age <= high for p, (low, high) in pairs):
                yield agents

    def add(self, record: Any, key: str) -> None:
        """Add one record; `key` is its id if the record names none. Raises InputError with what is wrong with it."""
        value = mapping(record, "the record")
        if "first_name" in value:
            person = _person(value, key)
            self.people[person.agent] = person
        elif is_environment(value):
            environment = _environment(value, key)
            self.environments[environment.environment_id] = environment
        elif "env_id" in value and "agent_ids" in value:
            agents = tuple(str(agent) for agent in items(value, "agent_ids"))
            self.pairs.setdefault(identifier(value, "env_id"), []).append(agents)
        else:
            ends = next((pair for pair in _ENDS if set(pair) <= set(value)), None)
            if ends is None:
                raise InputError(f"its keys ({', '.join(map(str, value)) or 'none'}) are not those of a profile.")
            first, second = (identifier(value, end) for end in ends)
            self.knows.setdefault(known_relationship(value.get("relationship", 0)), []).append((first, second))


def read_profiles(folder: str | Path) -> Profiles:
    """The profiles in a folder, of either shape. Raises InputError with the file and line of an unusable record."""
    root, profiles = Path(folder), Profiles()
    if not root.is_dir():
        raise InputError(f"{str(root)!r} is not a folder.", "name the folder that holds the profile files")
    for source, key, record in _records(root):
        try:
            profiles.add(json_value(record), key)
        except InputError as error:
            raise InputError(f"{source}: {error.message}", "repair the record, or take it out") from error
    if not profiles.environments or not profiles.people:
        raise InputError(
            f"{str(root)!r} holds {len(profiles.people)} agents and {len(profiles.environments)} environments.",
            f"put JSON lines there, or the folders {', '.join(FOLDERS)}",
        )
    return profiles


def _records(root: Path) -> Iterator[tuple[str, str, str]]:
    """(file and line, id by file name, text) of every record, in the order of file names."""
    for path in sorted(root.glob("*.jsonl")):
        for number, line in enumerate(_text(path).split("\n"), start=1):
            if line.strip():
                yield f"{path}:{number}", "", line
    for folder in FOLDERS:
        for path in sorted((root / folder).glob("*.json")):
            yield str(path), path.stem, _text(path)


def _text(path: Path) -> str:
    try:
        return text_of(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} cannot be read as UTF-8 text.", "check the file") from error


def _id(value: Mapping[str, Any], name: str, key: str) -> str:
    """The record's id, under `pk` or `name`, or else `key`, the file's name."""
    for field_name in ("pk", name):
        if value.get(field_name):
            return identifier(value, field_name)
    return identifier({name: key}, name)


def _person(value: Mapping[str, Any], key: str) -> Person:
    first, last = text(value, "first_name").strip(), text(value, "last_name", "").strip()
    age = value.get("age")
    if isinstance(age, bool) or not isinstance(age, (int, type(None))):
        raise InputError(f"`age` is {kind(age)}, not a whole number.")
    name = f"{first} {last}".strip()
    looks = f"{age or 0}-year-old {GENDERS.get(text(value, 'gender', ''), '')} {text(value, 'occupation', '').lower()}"
    pronoun, public = text(value, "gender_pronoun", ""), text(value, "public_info", "")
    return Person(
        agent=_id(value, "agent_id", key),
        name=name,
        called=first,
        introduction=f"{name} is a {looks}. {pronoun} pronouns. {public}",
        personality=text(value, "personality_and_values", ""),
        secret=text(value, "secret", ""),
        age=age,
    )


def _environment(value: Mapping[str, Any], key: str) -> Environment:
    goals = items(value, "agent_goals")
    if not all(isinstance(goal, str) for goal in goals):
        raise InputError("`agent_goals` is not a list of texts.")
    return Environment(
        environment_id=_id(value, "env_id", key),
        scenario=text(value, "scenario"),
        goals=tuple(goals),
        codename=text(value, "codename", ""),
        relationship=known_relationship(value.get("relationship", 0)),
        source=text(value, "source", ""),
        ages=_ages(value.get("age_constraint")),
    )


def known_relationship(value: Any) -> str:
    """The name of a relationship, from its number (0 to 5) or its name. Raises InputError."""
    name = relationship_name(value)
    if name not in RELATIONSHIPS:
        shown = repr(value) if isinstance(value, (str, int)) else kind(value)
        raise InputError(f"`relationship` is {shown}; there are {', '.join(RELATIONSHIPS)}.")
    return name


def _ages(limits: Any) -> tuple[tuple[int, int], ...]:
    """The age limits, which the files write as the text `[(18, 70), (18, 70)]`; () for anything else."""
    if not isinstance(limits, str) or not re.fullmatch(r"[\s\[\]()\d,]+", limits):
        return ()
    try:
        return tuple((int(low), int(high)) for low, high in ast.literal_eval(limits))
    except (ValueError, TypeError, SyntaxError):
        return ()
