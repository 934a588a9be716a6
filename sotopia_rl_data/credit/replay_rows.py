"""The version that `label --schema counterfactual` or `shapley` commits: a row of `attributions` for each draw, and the
rewards.

A draw's difference is an opinion of its own (`sample` is its number), of the measure `step` on a scale as wide as the
dimension, up and down. So `raw_DIMENSION` is the mean credit as a share of the dimension's width, with its sign;
`reward` is the same from 0 to 1, as the lowest and the highest of all are (min-max). With one judge `n_opinions` is the
number of draws, and `spread` / √n_opinions the standard error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sotopia_rl_data import tables
from sotopia_rl_data.code import code
from sotopia_rl_data.costs.bill import Bill
from sotopia_rl_data.credit.branching import CreditDraw, PlaySettings
from sotopia_rl_data.dimensions import dimension
from sotopia_rl_data.labelers.judge import Judge
from sotopia_rl_data.labelers.labelling import INHERITED
from sotopia_rl_data.labelers.requests import target_of
from sotopia_rl_data.prompts import Layout, prompts_of
from sotopia_rl_data.rewards import Recipe, preset
from sotopia_rl_data.rewards.build import Built, Sources, build
from sotopia_rl_data.rewards.texts import RenderedTexts
from sotopia_rl_data.rewards.trajectories import with_trajectories, wording
from sotopia_rl_data.schema import Attribution, Failure
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.store.stage import Committed, Stage

VERSION = 1
LAYOUT: Layout = "single"


@dataclass(frozen=True, slots=True)
class ReplayedVersion:
    """What is committed: the credit of turns of `parent`, from `gaps` by draw, dimension and judge."""

    parent: Version
    settings: PlaySettings
    dimensions: Sequence[str]
    judges: Sequence[Judge]
    gaps: Mapping[tuple[CreditDraw, str, str], float]
    failures: Sequence[tuple[CreditDraw, Failure]]

    def commit(self, store: Store, name: str, policies: Bill, judges: Bill) -> Committed:
        """Write attributions, failures and rewards as the next version of `name`. The bills are those of the policies
        and of the judges."""
        files = self.parent.files("episodes")
        with store.stage(name) as stage:
            labels = {split: [stage.sorted_file("attributions", split)] for split in files}
            for split, (path,) in labels.items():
                _write(path, self._rows(split))
            stage.write("failures", "train", tables.FAILURES.empty_table())
            for split in files:
                failures = [failure for draw, failure in self.failures if draw.juncture.split == split]
                if failures:
                    stage.write("failures", split, tables.failure_table(failures))
            built = self._reward(stage, labels)
            stage.link(self.parent, "episodes")
            return stage.commit(self._recipe(built.recipe), self._provenance(built, policies, judges))

    def _rows(self, split: str) -> Iterator[Attribution]:
        for (draw, name, judge), gap in self.gaps.items():
            if draw.juncture.split == split:
                place, span = (draw.episode_id, draw.agent, draw.turn, name), width(name)
                yield Attribution(*place, self.settings.schema, "step", judge, draw.k, gap, -span, span, draw.call_id)

    def _reward(self, stage: Stage, labels: Mapping[str, Sequence[Path]]) -> Built:
        files = self.parent.files("episodes")
        texts = RenderedTexts(files, lambda episode: prompts_of(episode, LAYOUT, None))
        weights = dict.fromkeys(self.dimensions, 1.0)
        with TemporaryDirectory(prefix=".wide-", dir=stage.dir) as scratch:
            return build(
                replace(preset("sotopia-rl"), rule="progress", weights=weights, schema=self.settings.schema),
                Sources(files, labels, texts),
                write=with_trajectories(stage, files, LAYOUT),
                scratch=Path(scratch),
                dimensions=self.dimensions,
            )

    def _recipe(self, fitted: Recipe) -> dict[str, Any]:
        labels = {
            "schema": self.settings.schema,
            "schema_version": VERSION,
            "dimensions": list(self.dimensions),
            "samples": self.settings.samples,
            "judges": [{"judge": judge.id, "provider": target_of(judge).provider} for judge in self.judges],
        }
        made = {"labels": labels, "rewards": fitted.as_dict(), "layout": LAYOUT, "replay": self.settings.recipe()}
        of_parent = self.parent.manifest.recipe
        return made | {name: of_parent[name] for name in INHERITED if name in of_parent}

    def _provenance(self, built: Built, policies: Bill, judges: Bill) -> dict[str, Any]:
        """The calls and the cost of a judge are with those of the policies, since its credit took both."""
        played = sum(line.calls for line in policies.lines)
        spent = [
            {"judge": line.judge, "calls": line.calls + played}
            | ({} if line.total is None or policies.total is None else {"cost_usd": line.total + policies.total})
            for line in judges.lines
        ]
        parent = {"name": self.parent.name, "version": self.parent.version, "digest": self.parent.digest}
        return {
            "command": "label",
            "parents": [parent],
            "code": code(),
            "judges": spent,
            "rewards": built.provenance(),
            "trajectories": wording(LAYOUT, None),
        }


def width(name: str) -> float:
    """How far apart two scores on this dimension can be."""
    known = dimension(name)
    return known.high - known.low


def _write(path: Path, rows: Iterable[Attribution]) -> None:
    import pyarrow.parquet as pq

    ordered = sorted(
        rows,
        key=lambda row: (row.episode_id, row.agent, row.turn, row.dimension, row.judge, row.sample),
    )
    pq.write_table(tables.attribution_table(ordered), path)
