"""A reward model as one more judge: its scores of a dataset's utterances, added as a new version.

Each utterance and target gets one `attributions` row, with the schema `reward-model` and the measure `quality`. The
judge is named by the model and its revision, so that `stats` and `agreement` show it beside LLM judges. Every other
config is linked as it is.

Imported training rows do not say which utterance they are, so that a score would have nobody to belong to. They get a
key in the scored version: an episode of their own, named by a hash of prompt and completion, in which the assistant has
turn 0 (turn 1, where the same row is there twice, and so on).

A shard makes no version: it keeps its scores in a ledger, and whoever scores the whole dataset takes them from there. A
shard is a choice of blocks of rows, since scores that are computed together may differ in their last digits from the
same computed otherwise: so the version is that of one process.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sotopia_rl_data.agreement.opinions import REWARD_MODEL
from sotopia_rl_data.display import Display, Silent
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.hub.resolve import open_dataset
from sotopia_rl_data.ledger.attempt import answered
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.request import Reply, Request, Target
from sotopia_rl_data.schema import Attribution
from sotopia_rl_data.shards import Shard
from sotopia_rl_data.store import Store
from sotopia_rl_data.tables import attribution_table
from sotopia_rl_data.trainers.data import DatasetRow, load_rows
from sotopia_rl_data.trainers.reward_model.model import RewardModel

BATCH = 512
Block = Sequence[DatasetRow]


def score_dataset(
    ref: str,
    model: RewardModel,
    *,
    store: str | Path | None = None,
    out: str | None = None,
    ledger: str | Path | None = None,
    display: Display | None = None,
) -> dict[str, Any]:
    """Commit `ref` with `model`'s scores as the next version of its dataset, or of `out`.

    Earlier scores of the same judge are replaced. Scores are kept in `ledger` (default: the store's) as they come, and
    what it has already, of a run that died or of `score_shard`, is taken from there. Returns the version's reference,
    whether it is new, the judge and the number of scores that were written. Raises NotFound for the dataset, InputError
    where a prompt does not fit the model.
    """
    rows: Sequence[DatasetRow] = list(load_rows(ref, store=store, split_by="stored", need_reward=False))
    version, opened = open_dataset(ref, store).version, Store(store) if store else Store.default()
    is_keyed = {"episode_id", "agent", "turn"} <= version.manifest.columns["rewards"].keys()
    with Ledger(ledger or opened.root / ".ledger") as kept:
        scores = head_scores(rows, KeptScores(kept, model), display)
    if not is_keyed:
        keys = _keys((row.prompt, row.completion) for row in rows)
        rows = [
            replace(row, episode_id=episode, agent=agent, turn=turn)
            for row, (episode, agent, turn) in zip(rows, keys, strict=True)
        ]
    turns = [row.turn or 0 for row in rows]
    judge, written = judge_of(model), 0
    scored = list(zip(rows, turns, scores.tolist(), strict=True))
    scales = list(zip(scores.min(axis=0).tolist(), scores.max(axis=0).tolist(), strict=True))
    with opened.stage(out or version.name) as stage:
        for config in version.manifest.configs:
            if config != "attributions" and (config != "rewards" or is_keyed):
                stage.link(version, config)
        seen: Counter[str] = Counter()
        for split in version.files("rewards"):
            if not is_keyed:
                stage.write("rewards", split, _with_keys(version.files("rewards")[split], seen))
            stage.write("attributions", split, _others(version, split, judge))
            of_split = [(row, turn, heads) for row, turn, heads in scored if row.split == split]
            fresh = attribution_table(_attributions(of_split, scales, model, judge))
            stage.write("attributions", split, fresh)
            written += fresh.num_rows
        recipe = dict(version.manifest.recipe)
        recipe["scored_by"] = sorted({*recipe.get("scored_by", []), judge})
        before = version.manifest.provenance
        provenance = {name: before[name] for name in ("trajectories",) if name in before}
        provenance["parents"] = [{"name": version.name, "version": version.version, "digest": version.digest}]
        provenance["command"] = "score"
        committed = stage.commit(recipe, provenance)
    return {"ref": committed.version.ref, "created": committed.created, "judge": judge, "rows": written}


def score_shard(
    ref: str,
    model: RewardModel,
    shard: Shard,
    *,
    store: str | Path | None = None,
    ledger: str | Path | None = None,
    display: Display | None = None,
) -> dict[str, Any]:
    """Keep `model`'s scores of the rows in `shard` in `ledger` (default: the store's). Returns the shard, the judge,
    the number of rows in it, how many of them the ledger had already (`hits`), and the ledger. Raises NotFound,
    InputError and StoreError."""
    rows: Sequence[DatasetRow] = list(load_rows(ref, store=store, split_by="stored", need_reward=False))
    blocks = _blocks(rows)
    is_ours = shard.of((str(number), sum(map(_length, block))) for number, block in enumerate(blocks))
    ours = [block for number, block in enumerate(blocks) if is_ours(str(number))]
    opened = Store(store) if store else Store.default()
    with Ledger(ledger or opened.root / ".ledger") as kept:
        kept.check()
        _, hits = _scores(ours, KeptScores(kept, model), display or Silent())
        directory = str(kept.directory)
    count = sum(map(len, ours))
    return {"shard": str(shard), "judge": judge_of(model), "rows": count, "hits": hits, "ledger": directory}


def judge_of(model: RewardModel) -> str:
    """The name of a reward model among judges."""
    return f"rm:{model.identity}"


def head_scores(rows: Sequence[DatasetRow], kept: KeptScores, display: Display | None = None) -> NDArray[np.float64]:
    """[N, K] the scores of all rows by target, those that are kept and the model's."""
    found, _ = _scores(_blocks(rows), kept, display or Silent())
    return np.concatenate(found)


class KeptScores:
    """A model's scores that a ledger has, under a key made of the model, what else its scores depend on, and the
    dialogue. `model` is asked for others, which are kept too, but with `only_reads`."""

    def __init__(self, ledger: Ledger, model: RewardModel, *, only_reads: bool = False) -> None:
        self.model = model
        self._ledger, self._target = ledger, Target("reward-model", judge_of(model), sampling=model.conditions())
        self._only_reads = only_reads

    def known(self, block: Block) -> NDArray[np.float64] | None:
        """[N, K] scores, if the ledger has those of every row."""
        if not len(self._ledger):
            return None
        scores = []
        for row in block:
            attempts = self._ledger.attempts(self._request(row).key)
            if not attempts:
                return None
            scores.append(json.loads(attempts[0].text))
        return np.array(scores)

    def keep(self, block: Block, scores: NDArray[np.float64], seconds: float) -> None:
        """Keep the scores of a block, which took so long together."""
        if self._only_reads:
            return
        for row, heads in zip(block, scores.tolist(), strict=True):
            request = self._request(row)
            question, key = request.hashes
            self._ledger.append(answered(request, key, question, Reply(json.dumps(heads)), seconds / len(block)))

    def _request(self, row: DatasetRow) -> Request:
        return Request(self._target, [*row.prompt, *row.completion])


def _blocks(rows: Sequence[DatasetRow]) -> list[Block]:
    """The rows that are scored together; neighbouring rows share prefixes."""
    return [rows[at : at + BATCH] for at in range(0, len(rows), BATCH)]


def _length(row: DatasetRow) -> int:
    """Characters of a dialogue."""
    return sum(len(message["content"]) for message in (*row.prompt, *row.completion))


def _scores(blocks: Sequence[Block], kept: KeptScores, display: Display) -> tuple[list[NDArray[np.float64]], int]:
    """[N, K] scores of each block: those that are kept, or else the model's, which are kept as they come. And how many
    rows' were kept already."""
    scores: list[NDArray[np.float64]] = []
    done, hits, total = 0, 0, sum(map(len, blocks))
    with display.progress("scoring", "utterances") as advance:
        for block in blocks:
            found = kept.known(block)
            if found is not None:
                hits += len(block)
            else:
                began = time.monotonic()
                found = kept.model.score_heads([(row.prompt, row.completion) for row in block])
                kept.keep(block, found, time.monotonic() - began)
            scores.append(found)
            done += len(block)
            advance(done, total)
    return scores, hits


def _attributions(
    scored: Iterable[tuple[DatasetRow, int, list[float]]],
    scales: Sequence[tuple[float, float]],
    model: RewardModel,
    judge: str,
) -> Iterator[Attribution]:
    """An attribution for each of the K scores of each (row, turn, scores). A target's scale is the range of its
    scores."""
    for row, turn, scores in scored:
        call = sha256_of([judge, list(row.prompt), list(row.completion)])
        for target, score, (low, high) in zip(model.head.targets, scores, scales, strict=True):
            yield Attribution(
                row.episode_id, row.agent, turn, target, REWARD_MODEL, "quality", judge, 0, score, low, high, call
            )


def _keys(
    texts: Iterable[tuple[Sequence[Any], Sequence[Any]]], seen: Counter[str] | None = None
) -> Iterator[tuple[str, str, int]]:
    """(episode_id, agent, turn) of rows that have none, by their prompts and completions; `seen` counts rows alike."""
    seen = Counter() if seen is None else seen
    for prompt, completion in texts:
        episode = f"row-{sha256_of([list(prompt), list(completion)])[:16]}"
        yield episode, "assistant", seen[episode]
        seen[episode] += 1


def _with_keys(files: Sequence[Path], seen: Counter[str]) -> Iterator[pa.Table]:
    """The rows of `rewards` files, each with a key."""
    import pyarrow.parquet as pq

    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH):
                texts = zip(batch.column("prompt").to_pylist(), batch.column("completion").to_pylist(), strict=True)
                episodes, agents, turns = zip(*_keys(texts, seen), strict=True)
                table = pa.Table.from_batches([batch])
                table = table.add_column(0, "episode_id", pa.array(episodes, pa.string()))
                place = table.schema.get_field_index("prompt")
                table = table.add_column(place, "turn", pa.array(turns, pa.int32()))
                yield table.add_column(place, "agent", pa.array(agents, pa.string()))


def _others(version: Any, split: str, judge: str) -> pa.Table:
    """The split's attributions of other judges, unchanged."""
    import pyarrow.parquet as pq

    files = version.files("attributions").get(split, []) if "attributions" in version.manifest.configs else []
    tables = [pq.read_table(path) for path in files] or [attribution_table([])]
    table = pa.concat_tables(tables)
    return table.filter(pc.not_equal(table["judge"], judge))
