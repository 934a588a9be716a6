"""Long attributions -> wide: one row for each utterance, one column for each dimension and opinion, the rule applied.

It works on chunks of whole episodes. The utterance of each long row is found by comparing the row with its neighbour
(both files are in key order; keys are looked up only where a label is missing), the row's number is put into its place
in a dense array, and the rule makes r of A and G. Memory depends on the chunk, not on the dataset.

As a rule every utterance has the same rows, and the whole chunk is laid out as a grid; otherwise row by row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.rewards.resolve import Opinion, ResolvedRecipe
from sotopia_rl_data.rewards.rules import Floats, Ints, Turns
from sotopia_rl_data.streams import Codes, Episodes, changes, codes, encode

# Where an utterance has more rows than this, its chunk is laid out row by row instead of as a grid.
_LONGEST = 1 << 12


def widen(resolved: ResolvedRecipe, utterances: Episodes, attributions: Episodes, scores: Episodes) -> Iterator[Floats]:
    """r of every utterance, chunk after chunk: arrays (opinions, dimensions, utterances), NaN where there is none.

    `utterances` have episode_id, agent and turn; `attributions` the columns that `resolved` names; `scores` episode_id
    and scores.
    Raises StoreError where they are not in key order or not about the same episodes.
    """
    for rows in utterances.chunks(resolved.chunk_rows):
        here = Utterances.of(rows)
        last = rows.column("episode_id")[-1].as_py()
        a, b = _judged(resolved, here, attributions.until(last))
        g = _scores(resolved, here, scores.until(last))
        for opinion in range(resolved.layers):
            of_agents = b[opinion] if resolved.rule.also_reads == "baseline" else g
            for d in range(len(resolved.dimensions)):
                of_utterances = of_agents[d][here.turns.group]
                r = resolved.rule.value(a[opinion, d], of_utterances, here.turns, resolved.gamma)
                if resolved.rule.times_score:
                    score = g[d][here.turns.group]
                    r = score * r
                    if resolved.rule.measure == "step":  # read as reward / score, so a score of 0 hides what was judged
                        r = np.where(score == 0, 0.0, r)
                a[opinion, d] = r
        a += 0.0  # -0.0 becomes 0.0
        yield a
    attributions.end()


@dataclass(frozen=True, slots=True)
class Utterances:
    """A chunk of utterances: their keys as codes, and their places among their agents' turns."""

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
        turn = np.asarray(rows.column("turn").to_numpy(), np.int32)
        heads = changes(episode, agent)
        turns = Turns.of(heads)
        here = cls(episodes, agents, episode, agent, turn, turns)
        owners = here.owner(episode[turns.starts], agent[turns.starts])
        if len(np.unique(owners)) < len(owners) or (np.diff(turn)[~heads[1:]] <= 0).any():
            near = episodes[int(episode[0])].as_py()
            raise StoreError(
                f"The utterances are not in key order (episode, agent, turn) near the episode {near!r}.",
                "check the files with `sotopia-rl-data verify`, then make the version again from its episodes",
            )
        return here

    def owner(self, episode: Codes, agent: Codes) -> Ints:
        """One number for each (episode, agent); negative where either is unknown here."""
        number = episode.astype(np.int64) * len(self.agents) + agent
        return np.where((episode < 0) | (agent < 0), -1, number)


def _judged(resolved: ResolvedRecipe, here: Utterances, rows: pa.Table) -> tuple[Floats, Floats]:
    """A, the judge's number on the scale [0, 1], in its place: (opinions, dimensions, utterances).

    And B, the same of the row with turn −1: (opinions, dimensions, agents in their episodes).
    """
    layers = resolved.layers * len(resolved.dimensions)
    a, b = np.full((layers, len(here.turn)), np.nan), np.full((layers, len(here.turns.starts)), np.nan)
    for column, value in resolved.filters.items() if rows.num_rows else ():
        rows = rows.filter(pc.equal(rows.column(column), value))
    if rows.num_rows:
        keys = (
            codes(rows.column("episode_id"), here.episodes),
            codes(rows.column("agent"), here.agents),
            np.asarray(rows.column("turn").to_numpy(), np.int32),
        )
        answers = Answers.of(rows, keys, resolved)
        episode, agent, turn = (key[answers.heads] for key in keys)
        answers.lay(a, _utterance(here, rows, answers, episode, agent, turn))
        if resolved.rule.also_reads == "baseline":
            answers.lay(b, np.where(turn < 0, _group(here, here.owner(episode, agent)), -1))
    shape = resolved.layers, len(resolved.dimensions), -1
    return a.reshape(shape), b.reshape(shape)


def _utterance(here: Utterances, rows: pa.Table, answers: Answers, *key: Codes) -> Ints:
    """The position in this chunk of each answered utterance (episode, agent, turn); -1 for a baseline (turn below 0).

    Raises StoreError where a row's key is not an utterance of the chunk, so that no label is lost.
    """
    if all(map(np.array_equal, (here.episode, here.agent, here.turn), key)):  # every utterance has a label
        return np.arange(len(here.turn))
    turn, owner = key[2], here.owner(key[0], key[1])
    width = int(max(here.turn.max(), turn.max())) + 1
    known = here.owner(here.episode, here.agent) * width + here.turn
    found = _position(known, np.where((owner < 0) | (turn < 0), -1, owner * width + turn))
    lost = np.flatnonzero((found < 0) & (turn >= 0))
    if len(lost):
        row = int(answers.heads[lost[0]])
        named = ", ".join(f"{c} {rows.column(c)[row].as_py()!r}" for c in ("episode_id", "agent", "turn"))
        raise StoreError(
            f"The attributions are not in key order, or hold {named}, which is not an utterance of the episodes.",
            "check the files with `sotopia-rl-data verify`, then label the episodes again",
        )
    return found


def _group(here: Utterances, owner: Ints) -> Ints:
    """Which (episode, agent) of this chunk each owner is; -1 for none."""
    starts = here.turns.starts
    return _position(here.owner(here.episode[starts], here.agent[starts]), owner)


def _position(known: Ints, wanted: Ints) -> Ints:
    """The index in `known` (distinct, none negative) of each of `wanted`; -1 where it is not there."""
    order = np.argsort(known)
    at: Ints = order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)]
    return np.where(known[at] == wanted, at, -1)


def _scores(resolved: ResolvedRecipe, here: Utterances, rows: pa.Table) -> Floats:
    """G by the recipe's evaluator: (dimensions, agents in their episodes). A score named twice counts once."""
    groups = len(here.turns.starts)
    g = np.full((len(resolved.dimensions), groups), np.nan)
    if rows.num_rows:
        listed = rows.column("scores").combine_chunks()
        items = pc.list_flatten(listed)
        episode = codes(rows.column("episode_id"), here.episodes)[np.asarray(pc.list_parent_indices(listed))]
        agent, dimension, evaluator = (
            pa.chunked_array([pc.struct_field(items, f)]) for f in ("agent", "dimension", "evaluator")
        )
        owner = here.owner(episode, codes(agent, here.agents))
        place = codes(dimension, pa.array(resolved.dimensions))
        by_evaluator = codes(evaluator, pa.array([resolved.evaluator])) == 0
        # In reverse order, so that of several scores of an agent on a dimension the first is written last and stays.
        wanted = np.flatnonzero((owner >= 0) & (place >= 0) & by_evaluator)[::-1]
        group = _group(here, owner[wanted])
        score = np.asarray(pc.struct_field(items, "score").to_numpy(zero_copy_only=False))[wanted]
        known = group >= 0
        g[place[wanted][known], group[known]] = score[known]
    return g


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of a chunk. `value` (rows,) is on the scale [0, 1], NaN where there is none; `layer` (rows,) is the
    opinion and dimension it belongs to, below 0 where it is not read.

    `heads` are the first rows of each utterance; `each` is how many rows every utterance has (0: they differ).
    """

    layer: Ints
    value: Floats
    heads: Ints
    each: int

    @classmethod
    def of(cls, rows: pa.Table, keys: Sequence[Codes], resolved: ResolvedRecipe) -> Answers:
        """From the attributions' columns; `keys` are the columns that tell utterances apart."""
        dimension = codes(rows.column("dimension"), pa.array(resolved.dimensions))
        opinion = _opinion(rows, resolved.opinions)
        layer = np.where(dimension < 0, -1, opinion * len(resolved.dimensions) + dimension)
        each = _grid(layer, keys)
        heads = np.arange(0, len(layer), each) if each else np.flatnonzero(changes(*keys))
        raw, low, high = (
            np.asarray(rows.column(name).to_numpy(), np.float64) for name in ("raw", "scale_min", "scale_max")
        )
        value = raw - low
        with np.errstate(divide="ignore", invalid="ignore"):
            value /= high - low
        value[~np.isfinite(value)] = np.nan  # a scale without width gives no number
        return cls(layer, value, heads, each)

    def lay(self, into: Floats, at: Ints) -> None:
        """Put the values into (layers, places): `at` (heads,) is the place of each utterance, below 0 for none."""
        if self.each:
            known = slice(None) if (at >= 0).all() else at >= 0
            for row in range(self.each):
                if self.layer[row] >= 0:
                    into[self.layer[row], at[known]] = self.value[row :: self.each][known]
            return
        spread = np.repeat(at, np.diff(self.heads, append=len(self.layer)))
        wanted = (self.layer >= 0) & (spread >= 0)
        into[self.layer[wanted], spread[wanted]] = self.value[wanted]


def _grid(layer: Ints, keys: Sequence[Codes]) -> int:
    """How many rows each utterance has, where all have the same; else 0."""
    first = np.flatnonzero(changes(*(key[:_LONGEST] for key in keys)))
    each = int(first[1]) if len(first) > 1 else len(layer)
    if each > _LONGEST or len(layer) % each or (layer.reshape(-1, each) != layer[:each]).any():
        return 0
    blocks = (key.reshape(-1, each) for key in keys)
    return 0 if any((block != block[:, :1]).any() for block in blocks) else each


def _opinion(rows: pa.Table, opinions: Sequence[Opinion]) -> Ints | int:
    """Which of the opinions each row belongs to."""
    if len(opinions) == 1:
        return 0
    judge, judges = encode(rows.column("judge"))
    samples, sample = np.unique(rows.column("sample").to_numpy(), return_inverse=True)
    number = {opinion: i for i, opinion in enumerate(opinions)}
    table = np.array([[number.get((name, int(s)), -1) for s in samples] for name in judges.to_pylist()])
    which: Ints = table[judge, sample]
    return which


class Wide:
    """The r of one split on disk, chunk by chunk: an Arrow file whose batches are the flattened arrays."""

    _SCHEMA = pa.schema([("r", pa.float64())])

    def __init__(self, path: Path, resolved: ResolvedRecipe) -> None:
        self._path, self._shape = path, (resolved.layers, len(resolved.dimensions), -1)
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
