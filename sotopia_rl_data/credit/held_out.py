"""Reward models that score what they have not seen: runs of `train rm` on complementary parts of the environments.

A run has seen the environments of its train split, which taught it, and of its validation split, which chose its
checkpoint. Its record names the version and the rows that it was trained on, so these environments are looked up there.
A row is scored by the runs that have not seen its environment; its prediction is their mean. How far off predictions
are is measured on the rewarded rows of the runs' own datasets, in environments that a run has not seen: the other
folds, and the test split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sotopia_rl_data.display import Display
from sotopia_rl_data.errors import InputError, NotFound, UsageError
from sotopia_rl_data.hub.resolve import open_dataset
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.store import Store
from sotopia_rl_data.trainers.data import DatasetRow, load_rows
from sotopia_rl_data.trainers.run_folder import RUN, RunFolder

Floats = NDArray[np.float64]
JUDGE = "judge"
"""Whose rewards these are, in the column `labelled_by`; others are a reward model's."""
FOLD = "--where \"md5(environment_id) < '8'\""
"""An option of `train` that chooses about half of the environments, the same with every version of DuckDB."""

_PINNED = ("name", "version", "digest")


@dataclass(frozen=True, slots=True)
class FoldRun:
    """The run of a reward model: its folder, the version that it was trained on, the environments that it has seen, and
    the layout of the prompts that it reads (None: its record does not say)."""

    path: str
    dataset: str
    sentinels: tuple[float, ...]
    environments: frozenset[str]
    layout: Any

    @classmethod
    def read(cls, path: str, store: Store) -> FoldRun:
        """From the run's record and the version that it names, which is looked up in `store`. Raises NotFound,
        UsageError where it is not the run of a reward model or its environments have no names, InputError where the
        version has other rows than it had."""
        record = RunFolder.existing(path).read()
        if record["kind"] != "rm":
            raise UsageError(f"{path} is not a reward model's run.", "name folders that `train rm` wrote")
        pinned, config = record["dataset"], record.get("config") or {}
        named = isinstance(pinned, Mapping) and all(isinstance(pinned.get(name), str) for name in _PINNED)
        if not named or not isinstance(config, Mapping):
            raise InputError(
                f"The {RUN} of {path} does not say what it was trained on.", "name folders that `train rm` wrote"
            )
        ref, sentinels = f"{pinned['name']}@{pinned['version']}", tuple(config.get("sentinels") or ())
        try:
            rows = load_rows(
                ref,
                store=store.address,
                targets=config.get("targets") or (),
                where=config.get("where"),
                split_by=config.get("split_by", "dataset"),
                sentinels=sentinels,
            )
        except NotFound as missing:
            raise NotFound(
                f"{path} was trained on {ref}, which is not there, so nobody can say what it has seen. "
                f"{missing.message}",
                missing.hint,
            ) from missing
        if rows.pinned.digest != pinned["digest"]:
            raise InputError(
                f"{path} was trained on another {ref} than the one in {store.address}.",
                "name a run that was trained on a dataset of this store, or that store with --store",
            )
        seen = frozenset(
            name
            for split in ("train", "validation")
            if split in rows.sizes
            for name in rows.index(split)["environment_id"].unique().to_pylist()
        )
        if "" in seen:
            raise UsageError(
                f"The rows of {ref} name no environment, so nobody can say what {path} has seen.",
                "train on a dataset with episodes: sotopia-rl-data label --help",
            )
        return cls(path, ref, sentinels, seen, (pinned.get("recipe") or {}).get("layout"))


@dataclass(frozen=True, slots=True)
class RunScores:
    """What one run says of N rows: `heads` (N, K) by target, and `total` (N,) their weighted mean; NaN where it has
    seen the environment. `judge` is its name among judges."""

    judge: str
    targets: tuple[str, ...]
    heads: Floats
    total: Floats


class FoldModels:
    """The reward models of some runs. Scores are taken from `ledger`, and with `keeps` put there as they come."""

    def __init__(self, runs: Sequence[FoldRun], ledger: Ledger, display: Display, *, keeps: bool = True) -> None:
        from sotopia_rl_data.trainers.reward_model.model import RewardModel

        self.runs = runs
        self._models = [RewardModel.load(run.path) for run in runs]
        if len(set(self.identities)) < len(runs):
            named = ", ".join(run.path for run in runs)
            raise UsageError(f"Two of these reward models are the same: {named}.", "name each once")
        self._ledger, self._display, self._keeps = ledger, display, keeps

    @property
    def identities(self) -> list[str]:
        """Each model's name and the hash of its weights."""
        return [model.identity for model in self._models]

    def scores(self, rows: Sequence[DatasetRow]) -> list[RunScores]:
        """What each run says of the rows whose environment it has not seen. Raises InputError where a prompt does not
        fit a model."""
        from sotopia_rl_data.trainers.score import KeptScores, head_scores, judge_of

        found = []
        for run, model in zip(self.runs, self._models, strict=True):
            unseen = np.array([row.environment_id not in run.environments for row in rows], dtype=bool)
            heads = np.full((len(rows), len(model.head.targets)), np.nan)
            if unseen.any():
                some = [row for row, is_unseen in zip(rows, unseen, strict=True) if is_unseen]
                kept = KeptScores(self._ledger, model, only_reads=not self._keeps)
                heads[unseen] = head_scores(some, kept, self._display)
            total = np.full(len(rows), np.nan)
            total[unseen] = model.head.aggregate(heads[unseen])
            found.append(RunScores(judge_of(model), tuple(model.head.targets), heads, total))
        return found

    def labelled_rows(self, store: str | Path) -> list[DatasetRow]:
        """The rows that judges rewarded of the datasets that the runs were trained on, in environments that a run has
        not seen. A row of several of these versions is taken from the first."""
        found = dict[tuple[str, str, int | None], DatasetRow]()
        for ref, sentinels in {run.dataset: run.sentinels for run in self.runs}.items():
            columns = open_dataset(ref, store).manifest.columns["rewards"]
            where = f"labelled_by = '{JUDGE}'" if "labelled_by" in columns else None
            rows = load_rows(ref, store=store, where=where, split_by="stored", sentinels=sentinels, need_reward=False)
            for row in rows:
                if row.reward is not None and any(row.environment_id not in run.environments for run in self.runs):
                    found.setdefault((row.episode_id, row.agent, row.turn), row)
        return list(found.values())


def prediction(scores: Iterable[RunScores]) -> Floats:
    """(N,) the mean of what the runs say; NaN where every one of them has seen the environment."""
    totals = np.stack([one.total for one in scores])
    known = ~np.isnan(totals)
    mean: Floats = np.where(known, totals, 0.0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
    return mean


def check_all_unseen(rows: Sequence[DatasetRow], predicted: Floats, runs: Sequence[FoldRun]) -> None:
    """Raises UsageError where every run has seen the environment of a row."""
    seen = {row.environment_id for row, one in zip(rows, predicted, strict=True) if np.isnan(one)}
    if seen:
        named = ", ".join(run.path for run in runs)
        raise UsageError(
            f"{len(seen):,} of {len({row.environment_id for row in rows}):,} environments have been seen by every "
            f"reward model that is named ({named}), {min(seen)} among them.",
            f"train two on complementary environments, with {FOLD} and with >= in its place, and name both: "
            "--reward-model runs/rm-1 --reward-model runs/rm-2",
        )


def check_layout(runs: Sequence[FoldRun], layout: Mapping[str, str]) -> None:
    """Raises UsageError where a run reads prompts of another layout."""
    for run in runs:
        theirs = run.layout.get("layout") if isinstance(run.layout, Mapping) else run.layout
        if theirs is not None and theirs != layout["layout"]:
            raise UsageError(
                f"{run.path} was trained on prompts of the layout {theirs!r}, and these have {layout['layout']!r}.",
                f"add --layout {theirs}",
            )
