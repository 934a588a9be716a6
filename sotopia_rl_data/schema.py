"""The nouns of the data, as frozen dataclasses without heavy imports (`tables.py` has their form in Parquet); and which
split an environment belongs to: a hash decides, so an append moves nothing, and nothing is in two splits.

The identity of an utterance is `(episode_id, agent, turn)`: two ids and an integer, taken from the raw messages and
never parsed from a sentence. An utterance is an action of the agent whose turn it was: a chosen no-op is an utterance,
a forced no-op is not.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal, TypedDict

ActionType = Literal["none", "speak", "non-verbal communication", "action", "leave"]
ACTION_TYPES: tuple[ActionType, ...] = ("none", "speak", "non-verbal communication", "action", "leave")

CONFIGS = ("rewards", "episodes", "attributions", "failures", "trajectories", "truth")
DERIVED = ("trajectories",)  # made of the other configs; a version's digest does not cover them
FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}
SPLITS = tuple(FRACTIONS)

Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    """One chat message, in the shape that TRL and all providers read."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Agent:
    """A participant. `agent` is its id, unique within the episode. An episode lists its agents in speaking order.

    `meta` is whatever else its source says of it, as the text of a JSON object (None: nothing)."""

    agent: str
    name: str
    model: str | None = None
    goal: str = ""
    background: str = ""
    secret: str = ""
    meta: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance: what `agent` did when it was its turn.

    `turn` counts the environment's turns from 0. `text` is the action's argument ("" for none and leave). `to` has the
    ids of the only agents that may see the action (empty: it is public). `failed` is True for a no-op in place of a
    failed generation, False where the generation did not fail, and None where the log does not say. `meta` is as an
    agent's.
    """

    turn: int
    agent: str
    action_type: ActionType
    text: str = ""
    to: tuple[str, ...] = ()
    failed: bool | None = None
    meta: str | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """The text that `agent` was shown before it acted at `turn`, byte for byte as logged."""

    turn: int
    agent: str
    text: str


@dataclass(frozen=True, slots=True)
class Score:
    """One episode-level score, of SOTOPIA-EVAL, or on a dimension of the source's own in the range [low, high]. A
    missing score has no row, so 0.0 is always a real zero."""

    agent: str
    dimension: str
    score: float
    evaluator: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Episode:
    """One dialogue. `source` names the format from which it was read, `dialect` the form of its messages. `meta` is
    whatever else the source says of it, as the text of a JSON object (None: nothing)."""

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
    meta: str | None = None

    @property
    def too_long(self) -> str:
        """Why nobody could make the prompts of this episode; "" for all others."""
        if len(self.agents) > MOST_AGENTS:
            return f"it has {len(self.agents):,} agents, more than {MOST_AGENTS:,}."
        around = len(self.scenario) + len(self.relationship) + sum(map(_described, self.agents))
        told = sum(accumulate(len(turn.text) + _BESIDE_A_TURN for turn in self.turns))
        acts = Counter(turn.agent for turn in self.turns)
        seen = sum(acts[one.agent] * len(one.text) for one in self.observations) // 2  # half of them, on average
        prompts = len(self.turns) * around + max(told, seen)
        if prompts <= MOST_PROMPTS:
            return ""
        return (
            f"its {len(self.turns):,} prompts, each with all that came before, would have {prompts / 1e9:,.0f} GB, "
            f"more than {MOST_PROMPTS / 1e9:,.0f}: divide it into shorter episodes."
        )

    def agent(self, agent: str) -> Agent:
        """The participant with this id. Raises KeyError."""
        for participant in self.agents:
            if participant.agent == agent:
                return participant
        raise KeyError(agent)

    def score(self, agent: str, dimension: str, evaluator: str) -> float | None:
        """G: the episode's score of `agent` on `dimension` by `evaluator`, or None where it is missing."""
        for score in self.scores:
            if (score.agent, score.dimension, score.evaluator) == (agent, dimension, evaluator):
                return score.score
        return None


# Every prompt and every question tells of all agents: an episode of a thousand is work for a quarter of a minute, and
# one of twenty thousand for hours.
MOST_AGENTS = 1_000
# Each prompt has all that came before, so that prompts grow with the square of the turns: 1.3 GB for 4,000 turns of
# twenty words, which is work for half a minute, and 33 GB for 20,000.
MOST_PROMPTS = 4_000_000_000  # characters
_BESIDE_A_TURN = 32  # characters: who, when and how


def _described(agent: Agent) -> int:
    """Characters of what prompts tell of an agent."""
    return sum(map(len, (agent.name, agent.background, agent.goal, agent.secret)))


Measure = Literal["importance", "key", "progress", "quality", "episode_score", "step", "evaluation"]


@dataclass(frozen=True, slots=True)
class Attribution:
    """One number as the judge gave it: a row of the `attributions` config.

    `turn` is the judged turn (the last turn shown, or the turn left out; -1 for a baseline). `raw` is within
    [scale_min, scale_max]. `call_id` is the ledger key of the answer from which the number was read. `reasoning` is the
    judge's explanation, if it was asked for one.
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
    """Something that has no label, and the reason: a row of the `failures` config.

    A failed question names the utterance. A rejected record has its `source` ("file.jsonl:17") and the `record` itself.
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

    `digest` covers the columns and rows of every config and split, and `recipe`; not the files' bytes, the card, times,
    cost, commit or attempts. `recipe` is what determines the rows (schema, scale, judges, rule, normaliser, weights,
    layout …). `provenance` is what else is worth knowing (parents, prompt hashes, fitted statistics, failures by
    reason, bill, code).
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


def split_of(environment_id: str, seed: int = 0) -> str:
    """`train`, `validation` or `test` (80/10/10), by a hash of the seed and the environment's id."""
    digest = hashlib.sha256(f"{seed}\0{environment_id}".encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    if point < 0.8:
        return "train"
    return "validation" if point < 0.9 else "test"


def environment_of(scenario: str) -> str:
    """The environment id of a record that names none: "scenario-" and a hash of the scenario, whatever its spacing."""
    return "scenario-" + hashlib.sha256(" ".join(scenario.split()).encode("utf-8", "replace")).hexdigest()[:16]


def named_with_drafts(policy: str, drafts: int) -> str:
    """What a policy is called in episodes where the best of so many drafts counts."""
    return policy if drafts == 1 else f"{policy} best-of-{drafts}"
