"""The drafts of best-of-N as completions with rewards. A version has their scores; their texts are in the ledger of the
store in which they were drawn, under the `call_id` of each score."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sotopia_rl_data.errors import BadAnswer
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.query import stream
from sotopia_rl_data.rollouts.actions import action_object, read_action
from sotopia_rl_data.rollouts.episode_run import BEST_OF_N
from sotopia_rl_data.store import Version
from sotopia_rl_data.tables import MESSAGES

_SCHEMA = pa.schema(
    [
        ("episode_id", pa.string()),
        ("agent", pa.string()),
        ("turn", pa.int32()),
        ("completion", MESSAGES),
        ("reward", pa.float64()),
    ]
)
_SELECT = f"SELECT split, episode_id, agent, turn, raw, call_id FROM attributions WHERE schema = '{BEST_OF_N}'"
WITH_DRAFTS = """(
    SELECT * FROM rewards ANTI JOIN drafts USING (episode_id, agent, turn) UNION ALL BY NAME
    SELECT r.* REPLACE (d.completion AS completion, d.reward AS reward)
    FROM rewards r JOIN drafts d USING (episode_id, agent, turn))"""
"""The rows of `rewards`, in SQL, with all drafts of an utterance in place of the one that was kept."""


@dataclass(frozen=True, slots=True)
class Drafts:
    """The files of a table `drafts` by split, and how many drafts have no text in the ledger."""

    files: Mapping[str, list[Path]]
    without_text: int


def write_drafts(version: Version, ledger: Path, folder: Path, seconds: float) -> Drafts:
    """Write the version's drafts into `folder`: no file where it has none. Raises QueryError after `seconds`."""
    if "attributions" not in version.manifest.configs:
        return Drafts({}, 0)
    without_text = 0
    writers: dict[str, pq.ParquetWriter] = {}
    with Ledger(ledger) as answers, stream(version, _SELECT, seconds) as scores, ExitStack() as files:
        for batch in scores:
            found: dict[str, list[dict[str, object]]] = {}
            for score in batch.to_pylist():
                text = _text(answers, score["call_id"])
                if text is None:
                    without_text += 1
                else:
                    said = [{"role": "assistant", "content": text}]
                    found.setdefault(score["split"], []).append(score | {"completion": said, "reward": score["raw"]})
            for split, rows in found.items():
                if split not in writers:
                    writers[split] = files.enter_context(pq.ParquetWriter(folder / f"{split}.parquet", _SCHEMA))
                writers[split].write_table(pa.Table.from_pylist(rows, _SCHEMA))
    return Drafts({split: [folder / f"{split}.parquet"] for split in writers}, without_text)


def _text(ledger: Ledger, call_id: str) -> str | None:
    """The action of the newest answer that has one, as `rollout` keeps it."""
    for attempt in ledger.attempts(call_id):
        if attempt.status == "answer":
            try:
                text = action_object(attempt.reply.answer)
                read_action(text)
            except BadAnswer:
                continue
            return text
    return None
