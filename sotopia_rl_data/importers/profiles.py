"""The profiles that an episode log only names by id: its environment and its agents.

They are beside the logs of the local backend (EnvironmentProfile/<id>.json, AgentProfile/<id>.json), or among the logs
in an export from Redis. Without a profile, or with an unreadable one, only the fields that it alone holds are empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.record import json_value

RELATIONSHIPS = ("stranger", "know_by_name", "acquaintance", "friend", "romantic_relationship", "family_member")
_CACHE = 4096


@dataclass(frozen=True, slots=True)
class EnvironmentProfile:
    """What an EnvironmentProfile adds to an episode. `goals` are in speaking order, with their XML."""

    codename: str = ""
    scenario: str = ""
    relationship: str = ""
    goals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentProfile:
    """What an AgentProfile adds to an episode: the agent's secret and its public background."""

    secret: str
    public: str = ""


class ProfileLookup(Protocol):
    """Looks profiles up by id. `environment` and `agent` return None for an unknown id."""

    def environment(self, key: str) -> EnvironmentProfile | None: ...

    def agent(self, key: str) -> AgentProfile | None: ...


class GatheredProfiles:
    """Profiles gathered from the records of an export from Redis."""

    def __init__(self) -> None:
        self._environments: dict[str, EnvironmentProfile] = {}
        self._agents: dict[str, AgentProfile] = {}

    def environment(self, key: str) -> EnvironmentProfile | None:
        return self._environments.get(key)

    def agent(self, key: str) -> AgentProfile | None:
        return self._agents.get(key)

    def add(self, key: str, value: Any) -> None:
        """Keep `value` if it is a profile; `key` is its id if the record names none."""
        if not isinstance(value, Mapping):
            return
        pk = next((value[k] for k in ("pk", "env_id", "agent_id") if isinstance(value.get(k), str)), "") or key
        if is_environment(value):
            self._environments[pk] = _read_environment(value)
        elif isinstance(value.get("secret"), str):
            self._agents[pk] = _read_agent(value)


class StoredProfiles:
    """Profiles in folders beside the logs, one file each. A few thousand are kept in memory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._load = lru_cache(_CACHE)(_load)

    def environment(self, key: str) -> EnvironmentProfile | None:
        value = self._load(self._root / "EnvironmentProfile", key)
        return _read_environment(value) if value is not None else None

    def agent(self, key: str) -> AgentProfile | None:
        value = self._load(self._root / "AgentProfile", key)
        return _read_agent(value) if value is not None and isinstance(value.get("secret"), str) else None


def _load(folder: Path, key: str) -> Mapping[str, Any] | None:
    if not key or set(key) & set("/\\\0") or key.startswith("."):  # an id must not lead out of `folder`
        return None
    try:
        value = json_value((folder / f"{key}.json").read_bytes())
    except (OSError, InputError):
        return None
    return value if isinstance(value, Mapping) else None


def is_environment(value: Mapping[str, Any]) -> bool:
    """True for an EnvironmentProfile record."""
    return "agent_goals" in value and "scenario" in value


def _read_environment(value: Mapping[str, Any]) -> EnvironmentProfile:
    """The fields of an EnvironmentProfile record; a field that is absent or of another type stays empty."""

    def text(key: str) -> str:
        return value[key] if isinstance(value.get(key), str) else ""

    goals = value.get("agent_goals")
    listed = tuple(g if isinstance(g, str) else "" for g in goals) if isinstance(goals, (list, tuple)) else ()
    return EnvironmentProfile(text("codename"), text("scenario"), relationship_name(value.get("relationship")), listed)


def _read_agent(value: Mapping[str, Any]) -> AgentProfile:
    """The fields of an AgentProfile record that has a secret."""
    public = value.get("public_info")
    return AgentProfile(value["secret"], public if isinstance(public, str) else "")


def relationship_name(value: Any) -> str:
    """The name of a relationship, from its number (3, "3") or its name; "" for anything else."""
    if isinstance(value, str) and not value.isdecimal():
        return value
    if isinstance(value, bool) or not isinstance(value, (int, str)) or len(str(value)) > 2:
        return ""
    number = int(value)
    return RELATIONSHIPS[number] if 0 <= number < len(RELATIONSHIPS) else ""
