"""Long attributions -> wide: one row an utterance, one column for each dimension and opinion, the rule applied.

Per chunk of whole episodes: every long row's utterance is found by comparing it with its neighbour (both files are in
key order; only where a label is missing are keys looked up), its number is put in its place in a dense array, G is
laid beside it, and the rule turns A and G into r. Memory depends on the chunk, not on the dataset.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.rewards.answers import Answers, changes
from sotopia_rl_data.rewards.long import Opinion
from sotopia_rl_data.rewards.rules import Floats, Ints, Rule, Turns
from sotopia_rl_data.rewards.streams import Codes, Episodes, codes, encode

CELLS = 1 << 19


@dataclass(frozen=True, slots=True)
class Plan:
    """What is widened: the recipe's choices, resolved against what the version holds.

    `opinions` are the (judge, sample) in order: none where the rule needs no judge, or no answer could be read. `only`
    maps a column of the attributions to the one value that counts, where the files hold others. `cells` is how many
    numbers (utterances, dimensions, opinions) are worked on at a time.
    """

    rule: Rule
    gamma: float
    dimensions: tuple[str, ...]
    opinions: tuple[Opinion, ...]
    evaluator: str
    schema: str | None
    only: Mapping[str, str]
    cells: int = CELLS

    @property
    def judged(self) -> bool:
        """Whether the rule reads attributions."""
        return self.rule.measure is not None

    @property
    def layers(self) -> int:
        """How many values of r an utterance and dimension can have: one an opinion, and one where there is none."""
        return max(1, len(self.opinions))

    @property
    def columns(self) -> list[str]:
        """What is read of the attributions: judge and sample only where there is more than one opinion."""
        told_apart = ["judge", "sample"] if len(self.opinions) > 1 else []
        return ["episode_id", "agent", "turn", "dimension", "raw", "scale_min", "scale_max", *told_apart, *self.only]

    @property
    def chunk_rows(self) -> int:
        """How many utterances are worked on at a time."""
        return max(1, self.cells // (len(self.dimensions) * self.layers))


def widen(plan: Plan, utterances: Episodes, attributions: Episodes, scores: Episodes) -> Iterator[Floats]:
    """r of every utterance, chunk after chunk: arrays (opinions, dimensions, utterances), NaN where there is none.

    `utterances` have episode_id, agent and turn; `attributions` the plan's columns; `scores` episode_id and scores.
    Raises StoreError where they are not in key order or not about the same episodes.
    """
    for rows in utterances.chunks(plan.chunk_rows):
        here = Utterances.of(rows)
        last = rows.column("episode_id")[-1].as_py()
        a, b = _judged(plan, here, attributions.until(last))
        g = _scores(plan, here, scores.until(last))
        for opinion in range(plan.layers):
            beside = b[opinion] if plan.rule.beside == "baseline" else g
            for d in range(len(plan.dimensions)):
                spread = beside[d][here.turns.group]
                a[opinion, d] = plan.rule.value(a[opinion, d], spread, here.turns, plan.gamma)
        a += 0.0  # -0.0 becomes 0.0
        yield a
    attributions.end()


@dataclass(frozen=True, slots=True)
class Utterances:
    """A chunk of utterances: their keys as codes, and who spoke how often."""

    episodes: pa.Array
    agents: pa.Array
    episode: Codes
    agent: Codes
    turn: Codes
    turns: Turns

    @classmethod
    def of(cls, rows: pa.Table) -> Utterances:
        """From the key columns. Raises StoreError where they are not in key order."""
        episode, episodes = encode(rows.column("episode_id"))
        agent, agents = encode(rows.column("agent"))
        turn = _turns(rows)
        heads = changes(episode, agent)
        turns = Turns.of(heads)
        here = cls(episodes, agents, episode, agent, turn, turns)
        owners = here.owner(episode[turns.starts], agent[turns.starts])
        if len(np.unique(owners)) < len(owners) or (np.diff(turn)[~heads[1:]] <= 0).any():
            raise StoreError(
                f"The utterances are not in key order near {episodes[int(episode[0])].as_py()!r}.",
                "make the version anew",
            )
        return here

    def owner(self, episode: Codes, agent: Codes) -> Ints:
        """One number for each (episode, agent); negative where either is unknown here."""
        number = episode.astype(np.int64) * len(self.agents) + agent
        return np.where((episode < 0) | (agent < 0), -1, number)


def _turns(rows: pa.Table) -> Codes:
    return np.asarray(rows.column("turn").to_numpy(), np.int32)


def _judged(plan: Plan, here: Utterances, rows: pa.Table) -> tuple[Floats, Floats]:
    """A, the judge's number on the scale [0, 1], in its place: (opinions, dimensions, utterances).

    And B, the same of the row with turn −1: (opinions, dimensions, agents in their episodes).
    """
    layers = plan.layers * len(plan.dimensions)
    a, b = np.full((layers, len(here.turn)), np.nan), np.full((layers, len(here.turns.starts)), np.nan)
    for column, only in plan.only.items() if rows.num_rows else ():
        rows = rows.filter(pc.equal(rows.column(column), only))
    if rows.num_rows:
        keys = codes(rows.column("episode_id"), here.episodes), codes(rows.column("agent"), here.agents), _turns(rows)
        answers = Answers.of(rows, keys, plan.dimensions, plan.opinions)
        episode, agent, turn = (key[answers.heads] for key in keys)
        answers.lay(a, _utterance(here, rows, answers, episode, agent, turn))
        if plan.rule.beside == "baseline":
            answers.lay(b, np.where(turn < 0, _group(here, here.owner(episode, agent)), -1))
    shape = plan.layers, len(plan.dimensions), -1
    return a.reshape(shape), b.reshape(shape)


def _utterance(here: Utterances, rows: pa.Table, answers: Answers, *asked: Codes) -> Ints:
    """Each answered utterance's position in this chunk; -1 for a baseline (turn below 0).

    Raises StoreError where a row is about something that is no utterance here: a label must not get lost.
    """
    if all(map(np.array_equal, (here.episode, here.agent, here.turn), asked)):  # every utterance has a label
        return np.arange(len(here.turn))
    found = _find(here, *asked)
    lost = np.flatnonzero((found < 0) & (asked[2] >= 0))
    if len(lost):
        row = int(answers.heads[lost[0]])
        named = ", ".join(f"{c} {rows.column(c)[row].as_py()!r}" for c in ("episode_id", "agent", "turn"))
        raise StoreError(
            f"The attributions hold {named}, which is no utterance of the episodes, or they are not in key order.",
            "label anew",
        )
    return found


def _group(here: Utterances, owner: Ints) -> Ints:
    """Which (episode, agent) of this chunk each owner is; -1 for none."""
    starts = here.turns.starts
    return _position(here.owner(here.episode[starts], here.agent[starts]), owner)


def _find(here: Utterances, episode: Codes, agent: Codes, turn: Codes) -> Ints:
    """The position of each key among the utterances; -1 where it is none."""
    width = int(max(here.turn.max(), turn.max())) + 1
    mine, owner = here.owner(here.episode, here.agent) * width + here.turn, here.owner(episode, agent)
    return _position(mine, np.where((owner < 0) | (turn < 0), -1, owner * width + turn))


def _position(known: Ints, wanted: Ints) -> Ints:
    """Where each of `wanted` stands in `known` (distinct, none negative); -1 where it does not."""
    order = np.argsort(known)
    at: Ints = order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)]
    return np.where(known[at] == wanted, at, -1)


def _scores(plan: Plan, here: Utterances, rows: pa.Table) -> Floats:
    """G by the plan's evaluator: (dimensions, agents in their episodes). A score named twice counts once."""
    groups = len(here.turns.starts)
    g = np.full((len(plan.dimensions), groups), np.nan)
    if rows.num_rows:
        listed = rows.column("scores").combine_chunks()
        items = pc.list_flatten(listed)
        episode = codes(rows.column("episode_id"), here.episodes)[np.asarray(pc.list_parent_indices(listed))]
        agent, dimension, evaluator = (
            pa.chunked_array([pc.struct_field(items, f)]) for f in ("agent", "dimension", "evaluator")
        )
        owner = here.owner(episode, codes(agent, here.agents))
        of = codes(dimension, pa.array(plan.dimensions))
        wanted = np.flatnonzero((owner >= 0) & (of >= 0) & (codes(evaluator, pa.array([plan.evaluator])) == 0))[::-1]
        group = _group(here, owner[wanted])
        score = np.asarray(pc.struct_field(items, "score").to_numpy(zero_copy_only=False))[wanted]
        g[of[wanted][group >= 0], group[group >= 0]] = score[group >= 0]
    return g


class Wide:
    """The r of one split on disk, chunk by chunk: an Arrow file whose batches are the flattened arrays."""

    _SCHEMA = pa.schema([("r", pa.float64())])

    def __init__(self, path: Path, plan: Plan) -> None:
        self._path, self._shape = path, (plan.layers, len(plan.dimensions), -1)
        self.rows = 0

    def write(self, chunks: Iterable[Floats]) -> None:
        """Keep the chunks, in order."""
        with pa.OSFile(str(self._path), "wb") as sink, pa.ipc.new_file(sink, self._SCHEMA) as writer:
            for r in chunks:
                writer.write_batch(pa.record_batch([pa.array(r.reshape(-1))], schema=self._SCHEMA))
                self.rows += r.shape[2]

    def read(self) -> Iterator[Floats]:
        """The chunks again."""
        with pa.OSFile(str(self._path), "rb") as source:
            file = pa.ipc.open_file(source)
            for i in range(file.num_record_batches):
                yield file.get_batch(i).column(0).to_numpy().reshape(self._shape)

    def remove(self) -> None:
        """Delete the file, if it is there."""
        self._path.unlink(missing_ok=True)
