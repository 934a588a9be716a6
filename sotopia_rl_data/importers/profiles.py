"""The profiles that an episode log only names by id: its environment and its agents.

They lie beside the logs of the local backend (EnvironmentProfile/<id>.json, AgentProfile/<id>.json), or between them in
an export from Redis. A profile that is absent or unreadable costs nothing but the fields that only it holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.literals import json_value

RELATIONSHIPS = ("stranger", "know_by_name", "acquaintance", "friend", "romantic_relationship", "family_member")
_CACHE = 4096


@dataclass(frozen=True, slots=True)
class Environment:
    """What an EnvironmentProfile adds to an episode; `goals` in speaking order, XML and all."""

    codename: str = ""
    scenario: str = ""
    relationship: str = ""
    goals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Person:
    """What an AgentProfile adds to an episode: the secret, and what is said of the agent in public."""

    secret: str
    public: str = ""


class Profiles(Protocol):
    """Where profiles are looked up. `environment` and `person` return None for an id that is not there."""

    def environment(self, key: str) -> Environment | None: ...

    def person(self, key: str) -> Person | None: ...


class Found:
    """Profiles gathered from records, as they lie in an export from Redis."""

    def __init__(self) -> None:
        self._environments: dict[str, Environment] = {}
        self._people: dict[str, Person] = {}

    def environment(self, key: str) -> Environment | None:
        return self._environments.get(key)

    def person(self, key: str) -> Person | None:
        return self._people.get(key)

    def add(self, key: str, value: Any) -> None:
        """Keep `value` where it is a profile; `key` is its id where it names none."""
        if not isinstance(value, Mapping):
            return
        pk = next((value[k] for k in ("pk", "env_id", "agent_id") if isinstance(value.get(k), str)), "") or key
        if is_environment(value):
            self._environments[pk] = read_environment(value)
        elif isinstance(value.get("secret"), str):
            self._people[pk] = read_person(value)


class Beside:
    """Profiles that lie in folders beside the logs, each a file. The last few thousand are kept."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._cache: OrderedDict[tuple[str, str], Mapping[str, Any] | None] = OrderedDict()

    def environment(self, key: str) -> Environment | None:
        value = self._read("EnvironmentProfile", key)
        return read_environment(value) if value is not None else None

    def person(self, key: str) -> Person | None:
        value = self._read("AgentProfile", key)
        return read_person(value) if value is not None and isinstance(value.get("secret"), str) else None

    def _read(self, folder: str, key: str) -> Mapping[str, Any] | None:
        if (folder, key) in self._cache:
            return self._cache[folder, key]
        value = self._cache[folder, key] = _load(self._root / folder, key)
        if len(self._cache) > _CACHE:
            self._cache.popitem(last=False)
        return value


def _load(folder: Path, key: str) -> Mapping[str, Any] | None:
    if not key or set(key) & set("/\\\0") or key.startswith("."):  # an id from a file is no way out of the folder
        return None
    try:
        value = json_value((folder / f"{key}.json").read_bytes())
    except (OSError, InputError):
        return None
    return value if isinstance(value, Mapping) else None


def is_environment(value: Mapping[str, Any]) -> bool:
    """True for an EnvironmentProfile record."""
    return "agent_goals" in value and "scenario" in value


def read_environment(value: Mapping[str, Any]) -> Environment:
    """The fields of an EnvironmentProfile record; what is absent or of another type is left empty."""

    def text(key: str) -> str:
        return value[key] if isinstance(value.get(key), str) else ""

    goals = value.get("agent_goals")
    listed = tuple(g if isinstance(g, str) else "" for g in goals) if isinstance(goals, (list, tuple)) else ()
    return Environment(text("codename"), text("scenario"), relationship_name(value.get("relationship")), listed)


def read_person(value: Mapping[str, Any]) -> Person:
    """The fields of an AgentProfile record that has a secret."""
    public = value.get("public_info")
    return Person(value["secret"], public if isinstance(public, str) else "")


def relationship_name(value: Any) -> str:
    """The name of a relationship that is given by number (3, "3") or by name; "" for what is neither."""
    if isinstance(value, str) and not value.isdecimal():
        return value
    number = int(value) if isinstance(value, (int, str)) and not isinstance(value, bool) and len(str(value)) < 3 else -1
    return RELATIONSHIPS[number] if 0 <= number < len(RELATIONSHIPS) else ""
