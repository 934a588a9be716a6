"""A reward model as one more judge: its scores of a dataset's utterances, added as a new version.

One `attributions` row an utterance and target, schema `reward-model`, measure `quality`; the judge is named by the
model and its revision, so that `stats` and `agreement` set it beside LLM judges. Every other config is linked as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sotopia_rl_data.agreement.opinions import REWARD_MODEL
from sotopia_rl_data.display import Display, Silent
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.hub.resolve import open_dataset
from sotopia_rl_data.schema import Attribution
from sotopia_rl_data.store import Store
from sotopia_rl_data.tables import attribution_table
from sotopia_rl_data.trainers.data import Example, load_examples
from sotopia_rl_data.trainers.reward_model import RewardModel

AT_ONCE = 512


def score_dataset(
    ref: str,
    model: RewardModel,
    *,
    store: str | Path | None = None,
    out: str | None = None,
    display: Display | None = None,
) -> dict[str, Any]:
    """Commit `ref` with `model`'s scores as the next version of its dataset, or as `out`'s.

    An earlier score of the same judge is replaced. Returns the new reference, whether it is new, the judge and the
    number of rows. Raises NotFound for the dataset, InputError where its rows have no episodes or a prompt does not fit
    the model.
    """
    found = load_examples(ref, store=store, need_reward=False)
    if not all(row.episode_id and row.agent and row.turn is not None for row in found.rows):
        raise InputError(f"The rows of {ref} have no episode that a score could belong to.", "import the episodes")
    version = open_dataset(ref, store).version
    judge = f"rm:{model.identity}"
    scores = _scores(found.rows, model, display or Silent())
    where = Store(store) if store else Store.default()
    with where.stage(out or version.name) as stage:
        for config in version.manifest.configs:
            if config != "attributions":
                stage.link(version, config)
        for split in version.files("rewards"):
            stage.write("attributions", split, _others(version, split, judge))
            stage.write("attributions", split, attribution_table(_rows(found.rows, split, scores, model, judge)))
        recipe = dict(version.manifest.recipe)
        recipe["scored_by"] = sorted({*recipe.get("scored_by", []), judge})
        provenance = {"parents": [{"name": version.name, "version": version.version, "digest": version.digest}]}
        committed = stage.commit(recipe, provenance)
    return {"ref": committed.version.ref, "created": committed.created, "judge": judge, "rows": int(scores.size)}


def _scores(rows: Sequence[Example], model: RewardModel, display: Display) -> NDArray[np.float64]:
    """[N, K] scores, some episodes at a time: neighbours share prefixes."""
    found = []
    with display.progress("scoring", "utterances") as advance:
        for at in range(0, len(rows), AT_ONCE):
            found.append(model.score_heads([(r.prompt, r.completion) for r in rows[at : at + AT_ONCE]]))
            advance(min(at + AT_ONCE, len(rows)), len(rows))
    return np.concatenate(found)


def _rows(rows: Sequence[Example], split: str, scores: Any, model: RewardModel, judge: str) -> Iterator[Attribution]:
    low, high = scores.min(axis=0), scores.max(axis=0)
    for at, row in enumerate(rows):
        if row.split != split:
            continue
        call = sha256_of([judge, list(row.prompt), list(row.completion)])
        for k, target in enumerate(model.head.targets):
            yield Attribution(
                row.episode_id, row.agent, row.turn, target, REWARD_MODEL, "quality", judge, 0,
                float(np.float64(scores[at, k])), float(low[k]), float(high[k]), call,
            )  # fmt: skip


def _others(version: Any, split: str, judge: str) -> pa.Table:
    """The split's attributions as they are, without this judge's."""
    import pyarrow.parquet as pq

    files = version.files("attributions").get(split, []) if "attributions" in version.manifest.configs else []
    tables = [pq.read_table(path) for path in files] or [attribution_table([])]
    table = pa.concat_tables(tables)
    return table.filter(pc.not_equal(table["judge"], judge))
