"""The version that `label --where-unsure` commits: what `label` would, and the reward models' word where no judge was
asked.

`rewards` has two columns more. `labelled_by` is "judge" or "reward-model", and NULL where an utterance has no reward;
`chance` is the probability with which it was asked about, whether it was or not. A reward model's reward is its
prediction on the line that brings it nearest to the judges' rewards, which needs ten of them; a row that was asked
about and has no readable answer has it too, and is in `failures`. `attributions` have what each model said itself, of
rows whose environment it has not seen, as `score` writes it. Utterances that judges cannot be asked about have no
reward, as ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sotopia_rl_data.agreement.opinions import REWARD_MODEL
from sotopia_rl_data.credit.held_out import JUDGE, RunScores
from sotopia_rl_data.credit.units import Units
from sotopia_rl_data.credit.unsure import AskedRows
from sotopia_rl_data.prompts import Layout
from sotopia_rl_data.rewards.trajectories import with_trajectories
from sotopia_rl_data.schema import Attribution
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.store.stage import Committed
from sotopia_rl_data.tables import attribution_table
from sotopia_rl_data.trainers.data import DatasetRow

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class UnsureVersion:
    """What is committed: the episodes of `parent`, the judges' labels as `label` made them of what was drawn, and what
    the models say of the rows of `units`."""

    labels: Version
    parent: Version
    units: Units
    scores: Sequence[RunScores]

    def answers(self) -> Floats:
        """(N,) the reward that the judges gave each row; NaN where they gave none."""
        given = {
            key: reward
            for paths in self.labels.files("rewards").values()
            for path in paths
            for *key_parts, reward in _columns(pq.read_table(path, columns=[*_KEYS, "reward"]))
            if reward is not None
            for key in [tuple(key_parts)]
        }
        return np.array([given.get(_key(row), np.nan) for row in self.units.rows], dtype=np.float64)

    def commit(self, store: Store, name: str, rows: AskedRows, layout: Layout, facts: Mapping[str, Any]) -> Committed:
        """Write it as the next version of `name`. `facts` go into the recipe."""
        start, slope = rows.line() if rows.has_line else (np.nan, 0.0)
        reward = np.where(rows.asked, rows.answers, start + slope * rows.model)
        by = np.where(rows.asked, JUDGE, REWARD_MODEL)
        known = {
            _key(row): (None, None, chance) if np.isnan(value) else (value, whose, chance)
            for row, value, whose, chance in zip(
                self.units.rows, reward.tolist(), by.tolist(), rows.chance.tolist(), strict=True
            )
        }
        episodes = self.parent.files("episodes")
        recipe, provenance = dict(self.labels.manifest.recipe), dict(self.labels.manifest.provenance)
        with store.stage(name) as stage:
            write = with_trajectories(stage, episodes, layout)
            for split, paths in self.labels.files("rewards").items():
                write(split, (_with_columns(pq.read_table(path), known) for path in paths))
            for split in episodes:
                for path in self.labels.files("attributions").get(split, ()):
                    stage.write("attributions", split, pq.read_table(path))
                said = [one for scores in self.scores for one in self._said(scores, split)]
                stage.write("attributions", split, attribution_table(said))
            stage.link(self.parent, "episodes")
            stage.link(self.labels, "failures")
            counts = {"rows": len(reward), "judged": int(rows.asked.sum())}
            return stage.commit(recipe | {"where_unsure": dict(facts)}, provenance | {"where_unsure": counts})

    def _said(self, scores: RunScores, split: str) -> Iterator[Attribution]:
        """What one model says of each target, of the rows of a split. A target's scale is the range of its scores."""
        from sotopia_rl_data.trainers.score import attributions_of

        known = ~np.isnan(scores.total)
        if not known.any():
            return
        heads = scores.heads[known]
        scales = list(zip(heads.min(axis=0).tolist(), heads.max(axis=0).tolist(), strict=True))
        for row, said, is_known in zip(self.units.rows, scores.heads.tolist(), known, strict=True):
            if row.split == split and is_known:
                yield from attributions_of(row, scores.judge, scores.targets, said, scales)


_KEYS = ("episode_id", "agent", "turn")
_Key = tuple[str, str, int]


def _key(row: DatasetRow) -> _Key:
    return row.episode_id, row.agent, row.turn or 0


def _columns(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in table.columns), strict=True)


def _with_columns(table: pa.Table, known: Mapping[_Key, Sequence[Any]]) -> pa.Table:
    """The rewards with their reward, whose it is and its chance, where they are known."""
    found = [known.get(key, (None, None, None)) for key in _columns(table.select(_KEYS))]
    reward, by, chance = (list(column) for column in zip(*found, strict=True)) if found else ([], [], [])
    place = table.schema.get_field_index("reward")
    table = table.set_column(place, "reward", pa.array(reward, pa.float64()))
    table = table.append_column("labelled_by", pa.array(by, pa.string()))
    return table.append_column("chance", pa.array(chance, pa.float64()))
