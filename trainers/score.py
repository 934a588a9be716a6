"""A reward model as one more judge: its scores of a dataset's utterances, added as a new version.

Each utterance and target gets one `attributions` row, with the schema `reward-model` and the measure `quality`. The
judge is named by the model and its revision, so that `stats` and `agreement` show it beside LLM judges. Every other
config is linked as it is.

Imported training rows do not say which utterance they are, so that a score would have nobody to belong to. They get a
key in the scored version: an episode of their own, named by a hash of prompt and completion, in which the assistant has
turn 0 (turn 1, where the same row is there twice, and so on).

A shard makes no version: it keeps its scores in a ledger, and whoever scores the whole dataset takes them from there. A
shard is a choice of blocks of rows, since scores that are computed together may differ in their last digits from the
same computed otherwise: so the version is that of one process. The processes of `accelerate launch` are such shards.

Rows are read a block at a time, first to be scored, then to be written; of all of them only the scores are held, since
the range of the scores stands beside each.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sotopia_rl_data.agreement.opinions import REWARD_MODEL
from sotopia_rl_data.display import Display, Silent
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.hub.resolve import open_dataset
from sotopia_rl_data.ledger.attempt import answered
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.request import Reply, Request, Target
from sotopia_rl_data.schema import Attribution
from sotopia_rl_data.shards import Shard
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.tables import attribution_table
from sotopia_rl_data.trainers.data import DatasetRow, DatasetRows, load_rows
from sotopia_rl_data.trainers.reward_model.model import RewardModel

if TYPE_CHECKING:
    from sotopia_rl_data.cluster.on_ray import RayWorkers

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
    rows = load_rows(ref, store=store, split_by="stored", need_reward=False)
    version, opened = open_dataset(ref, store).version, Store.of(store)
    with Ledger(ledger or opened.ledger) as kept:
        scores = head_scores(rows, KeptScores(kept, model), display)
        kept.flush()
    is_keyed = {"episode_id", "agent", "turn"} <= version.manifest.columns["rewards"].keys()
    keys = None if is_keyed else MadeKeys.of(version)
    judge = judge_of(model)
    with opened.stage(out or version.name) as stage:
        for config in version.manifest.configs:
            if config != "attributions" and (config != "rewards" or is_keyed):
                stage.link(version, config)
        for split in version.files("rewards"):
            if keys is not None:
                stage.write("rewards", split, _with_keys(version.files("rewards")[split], keys))
            stage.write("attributions", split, _others(version, split, judge))
        for split, fresh in _attributions(rows, scores, model, keys and MadeKeys(keys.repeated)):
            stage.write("attributions", split, fresh)
        recipe = dict(version.manifest.recipe)
        recipe["scored_by"] = sorted({*recipe.get("scored_by", []), judge})
        before = version.manifest.provenance
        provenance = {name: before[name] for name in ("trajectories",) if name in before}
        provenance["parents"] = [{"name": version.name, "version": version.version, "digest": version.digest}]
        provenance["command"] = "score"
        committed = stage.commit(recipe, provenance)
    return {"ref": committed.version.ref, "created": committed.created, "judge": judge, "rows": scores.size}


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
    rows = load_rows(ref, store=store, split_by="stored", need_reward=False)
    is_in = shard.of((str(number), sum(map(_length, block))) for number, block in enumerate(rows.blocks(BATCH)))
    ours = [number for number in range(-(-len(rows) // BATCH)) if is_in(str(number))]
    count = sum(min(BATCH, len(rows) - number * BATCH) for number in ours)
    opened = Store.of(store)
    with Ledger(ledger or opened.ledger) as kept:
        kept.check()
        found = _scores(rows.blocks(BATCH, ours), count, KeptScores(kept, model), display)
        hits = sum(known for _, known in found)
        directory = str(kept.directory)
    return {"shard": str(shard), "judge": judge_of(model), "rows": count, "hits": hits, "ledger": directory}


def score_blocks_on(
    workers: RayWorkers,
    ref: str,
    name: str,
    model: RewardModel,
    *,
    store: str | Path | None = None,
    ledger: str | Path | None = None,
    display: Display | None = None,
) -> None:
    """Have workers score the blocks whose scores `ledger` (default: the store's) lacks, and keep them there:
    `score_dataset` takes them from it. `name` is where every node finds `model`. Raises NotFound, InputError where a
    node has another model there, and what `RayWorkers.map` raises."""
    rows = load_rows(ref, store=store, split_by="stored", need_reward=False)
    opened = Store.of(store)
    with (
        Ledger(ledger or opened.ledger) as ours,
        (display or Silent()).progress("scoring", "rows") as advance,
    ):
        ours.check()
        kept, done = KeptScores(ours, model), 0
        left = (block for block in rows.blocks(BATCH) if kept.known(block) is None)
        for block, (judge, scores, seconds) in workers.map(partial(_score_block, name), lambda _: left):
            if judge != judge_of(model):
                raise InputError(
                    f"A node has another model at {name}: {judge}, and not {judge_of(model)}.",
                    "put the same files there on every node, or name a model on the Hub with its revision",
                )
            kept.keep(block, scores, seconds)
            done += len(block)
            advance(done, len(rows))


def _score_block(name: str, block: Block) -> tuple[str, NDArray[np.float64], float]:
    """The judge's name, the [N, K] scores, and the seconds that they took."""
    model, began = _loaded(name), time.monotonic()
    scores = model.score_heads([(row.prompt, row.completion) for row in block])
    return judge_of(model), scores, time.monotonic() - began


@cache
def _loaded(name: str) -> RewardModel:
    """The model, loaded once in a worker's process."""
    return RewardModel.load(name)


def judge_of(model: RewardModel) -> str:
    """The name of a reward model among judges."""
    return f"rm:{model.identity}"


def head_scores(
    rows: DatasetRows | Sequence[DatasetRow], kept: KeptScores, display: Display | None = None
) -> NDArray[np.float64]:
    """[N, K] the scores of all rows by target, those that are kept and the model's."""
    if isinstance(rows, DatasetRows):
        blocks: Iterable[Block] = rows.blocks(BATCH)
    else:
        blocks = (rows[at : at + BATCH] for at in range(0, len(rows), BATCH))
    return np.concatenate([scores for scores, _ in _scores(blocks, len(rows), kept, display)])


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
        return Request(self._target, self.model.encoder.plain([*row.prompt, *row.completion]))  # as the model reads it


def _length(row: DatasetRow) -> int:
    """Characters of a dialogue."""
    return sum(len(message["content"]) for message in (*row.prompt, *row.completion))


def _scores(
    blocks: Iterable[Block], total: int, kept: KeptScores, display: Display | None
) -> Iterator[tuple[NDArray[np.float64], int]]:
    """[N, K] scores of each block of neighbouring rows, which share prefixes: those that are kept, or else the model's,
    which are kept as they come. And how many rows' were kept already. `total` counts the rows of all blocks."""
    done = 0
    with (display or Silent()).progress("scoring", "utterances") as advance:
        for block in blocks:
            scores, known = kept.known(block), len(block)
            if scores is None:
                began, known = time.monotonic(), 0
                scores = kept.model.score_heads([(row.prompt, row.completion) for row in block])
                kept.keep(block, scores, time.monotonic() - began)
            yield scores, known
            done += len(block)
            advance(done, total)


def _attributions(
    rows: DatasetRows, scores: NDArray[np.float64], model: RewardModel, keys: MadeKeys | None
) -> Iterator[tuple[str, pa.Table]]:
    """The [N, K] scores of all rows, a block at a time, with the split: an attribution for each of the K scores of a
    row. A target's scale is the range of its scores."""
    judge, targets, at = judge_of(model), model.head.targets, 0
    scales = list(zip(scores.min(axis=0).tolist(), scores.max(axis=0).tolist(), strict=True))

    def of_row(row: DatasetRow, heads: Sequence[float]) -> Iterator[Attribution]:
        key = keys.next(row.prompt, row.completion) if keys else None
        return attributions_of(row, judge, targets, heads, scales, key)

    for block in rows.blocks(BATCH):
        scored = zip(block, scores[at : at + len(block)].tolist(), strict=True)
        at += len(block)
        for split, of_split in groupby(scored, key=lambda pair: pair[0].split):
            yield split, attribution_table(one for row, heads in of_split for one in of_row(row, heads))


def attributions_of(
    row: DatasetRow,
    judge: str,
    targets: Sequence[str],
    heads: Sequence[float],
    scales: Sequence[tuple[float, float]],
    key: tuple[str, str, int] | None = None,
) -> Iterator[Attribution]:
    """What a reward model, named `judge`, says of each target of a row, on its scale (low, high). `key` is the
    (episode_id, agent, turn) of a row that has none."""
    key = key or (row.episode_id, row.agent, row.turn or 0)
    call = sha256_of([judge, list(row.prompt), list(row.completion)])
    for target, score, (low, high) in zip(targets, heads, scales, strict=True):
        yield Attribution(*key, target, REWARD_MODEL, "quality", judge, 0, score, low, high, call)


class MadeKeys:
    """The keys of rows that have none, by their prompts and completions, in the order in which they are asked for.
    Texts that occur once, as nearly all do, are not held: `repeated` names the episodes of the others."""

    def __init__(self, repeated: Collection[str]) -> None:
        self.repeated = repeated
        self._seen: Counter[str] = Counter()

    @classmethod
    def of(cls, version: Version) -> MadeKeys:
        """Those of a version's rewards."""
        names = (
            int(_episode(prompt, completion).removeprefix("row-"), 16)
            for files in version.files("rewards").values()
            for batch in _batches(files)
            for prompt, completion in _texts(batch)
        )
        found, counts = np.unique(np.fromiter(names, np.uint64), return_counts=True)
        return cls({f"row-{name:016x}" for name in found[counts > 1].tolist()})

    def next(self, prompt: Iterable[Any], completion: Iterable[Any]) -> tuple[str, str, int]:
        """(episode_id, agent, turn) of the next row, which has these messages."""
        episode = _episode(prompt, completion)
        turn = self._seen[episode]
        if episode in self.repeated:
            self._seen[episode] += 1
        return episode, "assistant", turn


def _episode(prompt: Iterable[Any], completion: Iterable[Any]) -> str:
    return f"row-{sha256_of([list(prompt), list(completion)])[:16]}"


def _batches(files: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    for path in files:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(BATCH)


def _texts(batch: pa.RecordBatch) -> Iterator[tuple[Any, Any]]:
    return zip(batch.column("prompt").to_pylist(), batch.column("completion").to_pylist(), strict=True)


def _with_keys(files: Sequence[Path], keys: MadeKeys) -> Iterator[pa.Table]:
    """The rows of `rewards` files, each with a key."""
    for batch in _batches(files):
        episodes, agents, turns = zip(*(keys.next(*texts) for texts in _texts(batch)), strict=True)
        table = pa.Table.from_batches([batch])
        table = table.add_column(0, "episode_id", pa.array(episodes, pa.string()))
        place = table.schema.get_field_index("prompt")
        table = table.add_column(place, "turn", pa.array(turns, pa.int32()))
        yield table.add_column(place, "agent", pa.array(agents, pa.string()))


def _others(version: Version, split: str, judge: str) -> Iterator[pa.Table]:
    """The split's attributions of other judges, unchanged."""
    yield attribution_table([])
    files = version.files("attributions").get(split, []) if "attributions" in version.manifest.configs else []
    for batch in _batches(files):
        table = pa.Table.from_batches([batch])
        yield table.filter(pc.not_equal(table["judge"], judge))
