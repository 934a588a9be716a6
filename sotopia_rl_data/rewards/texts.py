"""The prompts and completions of the rewards: passed through unchanged, or rendered from the episodes.

They are read twice: first only the keys of the utterances, then whole rows in the same order, so that numbers and text
are put together without a join.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.schema import Episode, Message
from sotopia_rl_data.streams import read
from sotopia_rl_data.tables import EPISODES, episode_to_ask_about, rewards_schema

COLUMNS = ("episode_id", "environment_id", "agent", "turn", "prompt", "completion")
KEYS = ("episode_id", "agent", "turn")
BATCH_BYTES = 8 << 20
BATCH_ROWS = 1 << 15

Prompts = Callable[[Episode], Iterable[tuple[str, int, list[Message], list[Message]]]]


class Texts(Protocol):
    """The utterances of a split in key order."""

    def keys(self, split: str) -> Iterator[pa.RecordBatch]:
        """episode_id, agent, turn (text may be dictionary-encoded)."""
        ...

    def rows(self, split: str) -> Iterator[pa.RecordBatch]:
        """The same rows with episode_id, environment_id, agent, turn, prompt, completion, as plain text."""
        ...


class StoredTexts:
    """The text of a version's own `rewards`, in the same layout: split -> Parquet files in key order."""

    def __init__(self, files: Mapping[str, Sequence[Path]]) -> None:
        self._files = files

    def keys(self, split: str) -> Iterator[pa.RecordBatch]:
        return read(self._files.get(split, ()), KEYS, BATCH_ROWS)

    def rows(self, split: str) -> Iterator[pa.RecordBatch]:
        for path in self._files.get(split, ()):
            yield from read([path], COLUMNS, _rows_per_batch(path), encoded=False)


def _rows_per_batch(path: Path) -> int:
    """As many rows as hold about `BATCH_BYTES` of text."""
    known = pq.read_metadata(path)
    text = [c for c in range(known.num_columns) if known.schema.column(c).path.startswith(("prompt.", "completion."))]
    size = sum(known.row_group(g).column(c).total_uncompressed_size for g in range(known.num_row_groups) for c in text)
    return max(64, min(BATCH_ROWS, int(known.num_rows * BATCH_BYTES // max(size, 1))))


class RenderedTexts:
    """Text rendered from episodes (split -> Parquet files in key order) by `prompts`.

    `prompts(episode)` yields (agent, turn, prompt, completion) for each utterance of the episode, by (agent, turn). The
    prompts of a long episode take many times its length, so that only some are held at a time.
    """

    def __init__(self, files: Mapping[str, Sequence[Path]], prompts: Prompts) -> None:
        self._files, self._prompts = files, prompts

    def keys(self, split: str) -> Iterator[pa.RecordBatch]:
        schema = pa.schema([rewards_schema(()).field(name) for name in KEYS])
        for batch in read(self._files.get(split, ()), ["episode_id", "turns"], 256, encoded=False):
            rows = []
            for episode in batch.to_pylist():
                for agent, turn in sorted((t["agent"], t["turn"]) for t in episode["turns"]):
                    rows.append({"episode_id": episode["episode_id"], "agent": agent, "turn": turn})
            yield pa.RecordBatch.from_pylist(rows, schema)

    def rows(self, split: str) -> Iterator[pa.RecordBatch]:
        schema = pa.schema([rewards_schema(()).field(name) for name in COLUMNS])
        held: list[dict[str, Any]] = []
        size = 0
        for batch in read(self._files.get(split, ()), EPISODES.names, 16, encoded=False):
            for row in batch.to_pylist():
                for one in self._render(episode_to_ask_about(row)):
                    held.append(one)
                    size += _length(one["prompt"]) + _length(one["completion"])
                    if size > BATCH_BYTES or len(held) > BATCH_ROWS:
                        yield pa.RecordBatch.from_pylist(held, schema)
                        held, size = [], 0
        if held:
            yield pa.RecordBatch.from_pylist(held, schema)

    def _render(self, episode: Episode) -> Iterator[dict[str, Any]]:
        keys = sorted((turn.agent, turn.turn) for turn in episode.turns)
        for key, rendered in zip_longest(keys, self._prompts(episode)):
            if rendered is None or key != rendered[:2]:
                turn = (key or rendered)[1]
                raise StoreError(
                    f"The prompts of the episode {episode.episode_id!r} do not match its utterances: see turn {turn}.",
                    "this is a bug: report it with the name of the template",
                )
            values = (episode.episode_id, episode.environment_id, *rendered)
            yield dict(zip(COLUMNS, values, strict=True))


def _length(messages: list[Message]) -> int:
    return sum(len(message["content"]) for message in messages)
