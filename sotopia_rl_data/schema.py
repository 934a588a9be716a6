"""The nouns. Frozen, typed, free of heavy imports; how they lie in Parquet is in `tables.py`.

Identity of an utterance is `(episode_id, agent, turn)`: two ids and an integer, taken from the raw messages and
never re-parsed from a sentence. An utterance is an action by the agent whose turn it was: forced no-ops are not one,
chosen no-ops are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

ActionType = Literal["none", "speak", "non-verbal communication", "action", "leave"]
ACTION_TYPES: tuple[ActionType, ...] = ("none", "speak", "non-verbal communication", "action", "leave")

CONFIGS = ("rewards", "episodes", "attributions", "failures")
SPLITS = ("train", "validation", "test")

Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    """One chat message, in the shape that TRL and every provider read."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Agent:
    """A participant. `agent` is its id, unique within the episode; the list's order is the speaking order."""

    agent: str
    name: str
    model: str | None = None
    goal: str = ""
    background: str = ""
    secret: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance: what `agent` did when it was its turn.

    `turn` counts the environment's turns from 0. `text` is the action's argument ("" for none and leave). `to` holds
    the ids of the only agents that may see it (empty: public). `failed` is True for a no-op that stands for a failed
    generation, False where the log says it was not, None where the log does not tell.
    """

    turn: int
    agent: str
    action_type: ActionType
    text: str = ""
    to: tuple[str, ...] = ()
    failed: bool | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """The text that `agent` was shown before it acted at `turn`, byte for byte as logged."""

    turn: int
    agent: str
    text: str


@dataclass(frozen=True, slots=True)
class Score:
    """One episode-level SOTOPIA-EVAL score. Missing scores have no row: 0.0 is always a real zero."""

    agent: str
    dimension: str
    score: float
    evaluator: str


@dataclass(frozen=True, slots=True)
class Episode:
    """One dialogue. `source` names the format it came in, `dialect` how its messages were written."""

    episode_id: str
    environment_id: str
    agents: tuple[Agent, ...]
    turns: tuple[Turn, ...]
    scores: tuple[Score, ...] = ()
    observations: tuple[Observation, ...] = ()
    source: str = "plain"
    dialect: str = "plain"
    codename: str = ""
    scenario: str = ""
    relationship: str = ""
    models: tuple[str, ...] = ()
    tag: str = ""
    reasoning: str = ""

    def agent(self, agent: str) -> Agent:
        """The participant with this id. Raises KeyError."""
        for one in self.agents:
            if one.agent == agent:
                return one
        raise KeyError(agent)

    def score(self, agent: str, dimension: str, evaluator: str) -> float | None:
        """G: the episode's score of `agent` on `dimension` by `evaluator`, or None where it is missing."""
        for one in self.scores:
            if (one.agent, one.dimension, one.evaluator) == (agent, dimension, evaluator):
                return one.score
        return None


Measure = Literal["importance", "key", "progress", "quality", "episode_score", "evaluation"]


@dataclass(frozen=True, slots=True)
class Attribution:
    """One judged number, as the judge said it: the `attributions` config has one row for each.

    `turn` is the turn that is judged (the last one shown, or the one left out; -1 is a baseline). `raw` lies in
    [scale_min, scale_max]. `call_id` is the ledger key of the answer that it was read from. `reasoning` is why, in the
    judge's words, where it was asked for them.
    """

    episode_id: str
    agent: str
    turn: int
    dimension: str
    schema: str
    measure: Measure
    judge: str
    sample: int
    raw: float
    scale_min: float
    scale_max: float
    call_id: str
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """What has no label, and why: one row of the `failures` config.

    A failed question names the utterance; a rejected record names `source` ("file.jsonl:17") and keeps `record`.
    """

    reason: str
    episode_id: str | None = None
    agent: str | None = None
    turn: int | None = None
    dimension: str | None = None
    judge: str | None = None
    call_id: str | None = None
    source: str | None = None
    record: str | None = None


@dataclass(frozen=True, slots=True)
class DataFile:
    """One Parquet file of a version; `path` is relative to the version's directory."""

    path: str
    rows: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Split:
    """One split of one config: its rows, their canonical digest (see `store/digest.py`), its files."""

    rows: int
    digest: str
    files: tuple[DataFile, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a version is and where it came from: `manifest.json`.

    `digest` covers the columns and rows of every config and split and `recipe`, and nothing else: not the files'
    bytes, the card, times, cost, commit or attempts. `recipe` is what determines the rows (schema, scale, judges,
    rule, normaliser, weights, layout …); `provenance` is everything worth knowing besides (parents, prompt hashes,
    fitted statistics, failures by reason, bill, code).
    """

    name: str
    version: str
    digest: str
    configs: Mapping[str, Mapping[str, Split]]
    columns: Mapping[str, Mapping[str, str]]
    recipe: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    manifest_version: int = 1
