"""The profiles that an episode log only names by id: its environment and its agents.

They are beside the logs of the local backend (EnvironmentProfile/<id>.json, AgentProfile/<id>.json), or among the logs
in an export from Redis. Without a profile, or with an unreadable one, only the fields that it alone holds are empty.

Of an agent the library makes one text, the background: "Ann Lee is a 34-year-old female baker. She/her pronouns. …".
The fields that it was made of are read from the profile, and where there is none, from that text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.opened import read_beside
from sotopia_rl_data.importers.record import MAX_RECORD, json_value, model_name

RELATIONSHIPS = ("stranger", "know_by_name", "acquaintance", "friend", "romantic_relationship", "family_member")
GENDERS = {"Man": "male", "Woman": "female", "Nonbinary": "nonbinary"}
"""What a profile calls a gender, and the word that the library writes for it in a background."""

_CACHE = 4096
_LOOKS = re.compile(r" is a (-?\d{1,9})-year-old (male|female|nonbinary|) ")
_PERSONALITY = " Personality and values description:"
ELSEWHERE = frozenset({"pk", "agent_id", "first_name", "last_name", "secret"})
"""The fields of an AgentProfile for which an agent has a place of its own, besides `meta`."""


@dataclass(frozen=True, slots=True)
class EnvironmentProfile:
    """What an EnvironmentProfile adds to an episode. `goals` are in speaking order, with their XML."""

    codename: str = ""
    scenario: str = ""
    relationship: str = ""
    goals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentProfile:
    """What an AgentProfile adds to an episode: the agent's secret, its public background, and whatever else it says of
    the agent, without what is empty."""

    secret: str
    public: str = ""
    more: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def meta(self, name: str, background: str) -> dict[str, Any]:
        """The `meta` of the agent who has this name and background: nothing where these say it all."""
        said = stated_fields(background, name)
        if all(_trimmed(said.get(key)) == _trimmed(value) for key, value in self.more.items()):
            return {}
        return {key: one for key, one in self.more.items() if (key, one) != ("public_info", background)}


def _trimmed(value: Any) -> Any:
    """`value`, text without the space around it, which a background may lose."""
    return value.strip() if isinstance(value, str) else value


def stated_fields(background: str, name: str) -> dict[str, Any]:
    """The fields of an AgentProfile that the library would write as this background, without those that are empty; any
    other background is the `public_info`."""
    looks = _LOOKS.match(background, len(name)) if background.startswith(name) else None
    if looks is not None:
        occupation, _, rest = background[looks.end() :].partition(". ")
        pronoun, _, rest = rest.partition(" pronouns. ")
        public, ended, personality = rest.partition(_PERSONALITY)
        if ended:
            genders = {word: gender for gender, word in GENDERS.items()}
            stated = {
                "age": int(looks[1]),
                "gender": genders.get(looks[2], ""),
                "occupation": occupation,
                "gender_pronoun": pronoun,
                "public_info": public,
                "personality_and_values": personality.removeprefix(" "),
            }
            return {key: one for key, one in stated.items() if one}
    return {"public_info": background} if background else {}


def split_name(name: str) -> tuple[str, str]:
    """(first name, last name) of a name: the last word is the last name, unless it is the only one."""
    first, _, last = name.rpartition(" ")
    return (first, last) if first else (last, "")


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
        value = json_value(read_beside(folder.parent, folder / f"{key}.json", MAX_RECORD))
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
    more = {str(key): one for key, one in value.items() if key not in ELSEWHERE and one not in (None, "", [], {}, 0)}
    names = tuple(value[key] if isinstance(value.get(key), str) else "" for key in ("first_name", "last_name"))
    if names != split_name(" ".join(names).strip()):
        more |= dict(zip(("first_name", "last_name"), names, strict=True))
    if "model_id" in more:
        more["model_id"] = model_name(more["model_id"])
    return AgentProfile(value["secret"], public if isinstance(public, str) else "", more)


def relationship_name(value: Any) -> str:
    """The name of a relationship, from its number (3, "3") or its name; "" for anything else."""
    if isinstance(value, str) and not value.isdecimal():
        return value
    if isinstance(value, bool) or not isinstance(value, (int, str)) or len(str(value)) > 2:
        return ""
    number = int(value)
    return RELATIONSHIPS[number] if 0 <= number < len(RELATIONSHIPS) else ""
