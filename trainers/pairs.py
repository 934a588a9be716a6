"""The preferences in a dataset: the best and the worst completion of each prompt that has several.

Which two those are is the exporters' rule (`trl-preference`). They are found over the rows that a run may use, once,
and kept in the cache as an index like that of the rows: the rows 2k and 2k + 1 of a split are the chosen and the
rejected completion of one prompt. In place of their episodes, which may be two, stands the prompt's hash, so that
whatever keeps episodes whole keeps pairs together. Episodes of one scene open with the same prompt, and may be in
several splits: such a prompt makes a pair in the first of them, so that what is trained on is not held out. Tokenised,
pairs are what TRL makes of such messages. No torch here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.exporters.training import NO_PAIR, PAIRS_FROM, best_and_worst
from sotopia_rl_data.schema import SPLITS
from sotopia_rl_data.trainers.cache import cached
from sotopia_rl_data.trainers.data import DatasetRow, DatasetRows, check_splits
from sotopia_rl_data.trainers.encoding import Dialogues, Encoded, Encoder, cuts_of_all, without_turns
from sotopia_rl_data.trainers.reward_model.tree import shared_prefix
from sotopia_rl_data.trainers.row_index import memory_mapped, schema, split_file
from sotopia_rl_data.trainers.tokenised import tokenised

ELSEWHERE = "of a prompt that an earlier split has a pair of"


def paired(data: DatasetRows, evaluating: bool) -> DatasetRows:
    """The rows of `data`, which all have a reward, that make pairs, as the module says; the others are `dropped`.

    Raises UsageError where there is no pair to train on, or, `evaluating`, none that is held out.
    """
    key = {"rows": data.folder.name, "prompts": "in one split"}
    folder, facts = cached("pairs", key, lambda unfinished: _write_pairs(unfinished, data))
    found, elsewhere = 2 * sum(facts["pairs"].values()), 2 * facts["elsewhere"]
    pairs = replace(
        data,
        folder=folder,
        sizes={split: 2 * count for split, count in facts["pairs"].items()},
        dropped={**data.dropped, ELSEWHERE: elsewhere, NO_PAIR: len(data) - found - elsewhere},
    )
    if not facts["pairs"]:
        raise UsageError(
            f"{data.pinned.ref} has no prompt with several completions of different rewards, so there is nothing to "
            "prefer.",
            PAIRS_FROM,
        )
    lacks = "has no prompt with several completions of different rewards"
    check_splits(pairs, pairs.sizes, evaluating, f"{lacks} that is not trained on" if elsewhere else lacks)
    return pairs


def _write_pairs(folder: Path, data: DatasetRows) -> dict[str, Any]:
    """Write the index of the pairs of each split; how many there are, and how many were left out since an earlier split
    has a pair of the same prompt."""
    from sotopia_rl_data.query import unlocked

    counts, elsewhere = Counter[str](), 0
    taken = pa.table({"episode_id": pa.array([], pa.string())})
    with unlocked() as connection:
        names = [str(file.resolve()) for file in data.files]
        connection.register("files", pa.table({"number": pa.array(range(len(names)), pa.int32()), "name": names}))
        for split in [name for name in SPLITS if name in data.sizes]:
            connection.register("chosen_rows", data.index(split))
            connection.register("taken", taken)
            found = connection.sql(_SELECT, params=[names]).to_arrow_reader(1024)
            with pa.ipc.new_stream(split_file(folder, split), schema(0)) as writer:
                for pairs in found:
                    own = pairs.filter(pc.is_null(pairs.column("taken_before")))
                    if own.num_rows:
                        writer.write_batch(_as_index(own.drop_columns("taken_before"), split))
                    counts[split] += own.num_rows
                    elsewhere += pairs.num_rows - own.num_rows
            taken = pa.concat_tables([taken, memory_mapped(split_file(folder, split)).select(["episode_id"])])
    return {"pairs": {split: count for split, count in counts.items() if count}, "elsewhere": elsewhere}


# Texts are hashed before they are grouped, and only those of prompts that come twice: in memory they would be too many.
_SELECT = f"""
    WITH texts AS (
        SELECT i.split, md5(to_json(t.prompt)) AS prompt, t.completion, i.reward, i.environment_id, i.file, i.row
        FROM chosen_rows i JOIN files f ON f.number = i.file
        JOIN read_parquet(?, filename = true, file_row_number = true) t
          ON t.filename = f.name AND t.file_row_number = i.row
    ), several AS (SELECT prompt FROM texts GROUP BY prompt HAVING count(*) > 1)
    SELECT prompt, chosen, rejected, taken_before FROM (
        {best_and_worst("(FROM texts SEMI JOIN several USING (prompt))", "ROW(file, row, reward, environment_id)")}
    ) LEFT JOIN (SELECT DISTINCT episode_id AS prompt, true AS taken_before FROM taken) USING (prompt)
    ORDER BY chosen"""


def _as_index(pairs: pa.RecordBatch, split: str) -> pa.RecordBatch:
    """The pairs that were selected, as rows of the index."""
    prompt, *both = pairs.columns
    order = np.arange(2 * len(prompt)).reshape(2, -1).T.ravel()  # the first chosen, the first rejected, …
    places = [[one.field(k) for k in range(4)] for one in both]
    file, row, reward, environment = (
        pa.concat_arrays([chosen, rejected]).take(pa.array(order)) for chosen, rejected in zip(*places, strict=True)
    )
    known = {
        "split": pa.array([split] * len(order)),
        "episode_id": prompt.take(pa.array(order % len(prompt))),
        "environment_id": environment,
        "file": file,
        "row": row,
        "reward": reward,
    }
    arrays = [
        known[one.name].cast(one.type) if one.name in known else pa.nulls(len(order), one.type) for one in schema(0)
    ]
    return pa.record_batch(arrays, schema(0))


def tokenised_pairs(data: DatasetRows, encoder: Encoder, show: bool = False) -> Dialogues:
    """Each pair of `paired` rows as `prompt_ids`, `chosen_ids` and `rejected_ids` just as TRL makes them of messages. A
    prompt is cut so that both completions fit. Raises InputError where no pair does."""

    def encode(rows: Sequence[DatasetRow]) -> tuple[pa.Table, dict[str, int]]:
        return encoded_pairs(rows, encoder)

    found = tokenised(data, encode, {"kind": "pairs", **encoder.settings()}, show)
    return Dialogues(dict(found.splits), cuts_of_all(found, encoder.max_length))


def encoded_pairs(rows: Sequence[DatasetRow], encoder: Encoder) -> tuple[pa.Table, dict[str, int]]:
    """The pairs that fit as token ids, and what was cut; `rows` are the chosen and the rejected one of each pair."""
    encoded = encoder.encode([(row.prompt, row.completion) for row in rows])
    prompts, chosen, rejected = [], [], []
    counts = {"turns": 0, "prompts": 0, "too_long": 0}
    for at in range(0, len(rows), 2):
        both = encoded[at : at + 2]
        if None in both:
            counts["too_long"] += 1
            continue
        cut = max(one.turns_cut for one in both if one)
        prompt = without_turns(rows[at].prompt, cut)
        (asked,) = encoder.prompts([prompt])
        texts = [_whole(one, row, cut, encoder) for one, row in zip(both, rows[at : at + 2], strict=True) if one]
        shared = min(shared_prefix(asked, text) for text in texts)  # where they part, the template writes the answer
        prompts.append(asked[:shared])
        chosen.append(texts[0][shared:])
        rejected.append(texts[1][shared:])
        counts["turns"] += cut
        counts["prompts"] += cut > 0
    columns = {"prompt_ids": prompts, "chosen_ids": chosen, "rejected_ids": rejected}
    return pa.table({name: pa.array(ids, pa.list_(pa.int32())) for name, ids in columns.items()}), counts


def _whole(one: Encoded, row: DatasetRow, cut: int, encoder: Encoder) -> NDArray[np.int32]:
    """A pair's completion with its prompt, of which `cut` turns are left out, as ids."""
    if one.turns_cut < cut:
        (again,) = encoder.encode([(without_turns(row.prompt, cut), row.completion)])
        assert again is not None  # it is shorter than what has fitted
        one = again
    return one.whole[: encoder.max_length]
