"""build() makes the `rewards` config from attributions, episode scores and text; remake() commits it as a version.

`label` and `rewards` both build, in three steps, each of which streams: widen (long attributions -> one row for each
utterance, the rule applied), fit (on the train split), finish (normalise, aggregate, join the numbers with the text).
Memory does not grow with the dataset.

remake() makes the next version of a dataset from what is stored, without calling a model: episodes, attributions and
failures become hard links, only `rewards` and their `trajectories` are written. If the layout stays, prompts and
completions are passed through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from sotopia_rl_data.code import code
from sotopia_rl_data.errors import StoreError, UsageError
from sotopia_rl_data.prompts import Layout, Template, layout_id, prompts_of
from sotopia_rl_data.rewards.normalise import Statistic, TrainValues, average, fit, reward, spread
from sotopia_rl_data.rewards.recipe import Recipe
from sotopia_rl_data.rewards.recipe import preset as find_preset
from sotopia_rl_data.rewards.resolve import CELLS, Files, Opinion, ResolvedRecipe, resolve
from sotopia_rl_data.rewards.rules import Floats
from sotopia_rl_data.rewards.texts import RenderedTexts, StoredTexts, Texts
from sotopia_rl_data.rewards.trajectories import with_trajectories, wording
from sotopia_rl_data.rewards.widen import Wide, widen
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.streams import Episodes, read
from sotopia_rl_data.tables import rewards_schema

Write = Callable[[str, Iterator[pa.Table]], object]

READ_ROWS = 1 << 16
_DAMAGED = "check its files with `sotopia-rl-data verify`, then make the version again from its episodes"


@dataclass(frozen=True, slots=True)
class Sources:
    """What rewards are built from: each split's Parquet files in key order, and the text of its utterances.

    The splits are those of `episodes`. `attributions` may lack one, and are not read at all by a rule without a judge.
    """

    episodes: Files
    attributions: Files
    texts: Texts


@dataclass(frozen=True, slots=True)
class Built:
    """What was built, and from what. `recipe` has the evaluator and the schema that were used, `opinions` are (judge,
    sample). Counts are by split: `rows`, `unrewarded` (rows whose reward is NULL), and `outside` by dimension (values
    outside the fitted range).
    """

    recipe: Recipe
    dimensions: tuple[str, ...]
    opinions: tuple[Opinion, ...]
    statistics: Mapping[str, Statistic]
    rows: Mapping[str, int]
    unrewarded: Mapping[str, int]
    outside: Mapping[str, Mapping[str, int]]
    warnings: tuple[str, ...]

    def provenance(self) -> dict[str, Any]:
        """Everything but the recipe, as JSON, for the manifest's provenance."""
        return {
            "dimensions": list(self.dimensions),
            "opinions": [{"judge": judge, "sample": sample} for judge, sample in self.opinions],
            "statistics": {name: statistic.as_dict() for name, statistic in self.statistics.items()},
            "rows": dict(self.rows),
            "unrewarded": dict(self.unrewarded),
            "outside": {split: dict(counts) for split, counts in self.outside.items()},
            "warnings": list(self.warnings),
        }


def build(
    recipe: Recipe,
    sources: Sources,
    *,
    write: Write,
    scratch: Path,
    dimensions: Sequence[str] | None = None,
    cells: int = CELLS,
    on_progress: Callable[[int], object] | None = None,
) -> Built:
    """Build the rewards of every split.

    `write(split, tables)` is called once for each split and must use up `tables`: rows in key order, in the columns of
    `tables.rewards_schema(dimensions)`. `scratch` is a directory for the wide intermediate (8 bytes for each utterance,
    dimension and opinion), which is removed again. `dimensions` are those that judges were asked about (full names, in
    the order of the columns; None: those of the attributions). `cells` bounds how many numbers are held at a time.
    `on_progress` is called with how many utterances of the split are finished.

    An utterance without a label stays a row whose raw, norm and reward are NULL; the reward is NULL where a weighted
    dimension is. `raw_<d>` is the rule's value averaged over opinions, `norm_<d>` the same normalised; `n_opinions`
    counts the opinions that cover every weighted dimension (0 for a rule without a judge), and `spread` is the sample
    standard deviation of their rewards (NULL for fewer than two).

    Raises UsageError where the recipe does not fit what was asked or names no evaluator among several, InputError
    where no episode has a score, StoreError where files are not in key order or belong to other episodes.
    """
    resolved = resolve(recipe, sources.episodes, sources.attributions, dimensions, cells)
    wide = {split: Wide(scratch / f"wide-{split}.arrow", resolved) for split in sources.episodes}
    try:
        for split, r in wide.items():
            r.write(widened(resolved, split, sources))
        fitted_on = [r for split, r in wide.items() if split == "train" or recipe.fit == "all"]
        train = chain.from_iterable(r.read() for r in fitted_on)
        statistics, warnings = fitted(recipe, resolved.dimensions, train, resolved.ranges)
        finish = Finish(recipe, resolved, statistics, list(wide))
        for split, r in wide.items():
            write(split, finish.split(split, r.read(), sources.texts.rows(split), on_progress))
    finally:
        for r in wide.values():
            r.remove()
    return Built(
        recipe=replace(recipe, evaluator=resolved.evaluator or None, schema=resolved.schema),
        dimensions=resolved.dimensions,
        opinions=resolved.opinions if resolved.judged else (),
        statistics=statistics,
        rows={split: r.rows for split, r in wide.items()},
        unrewarded=finish.unrewarded,
        outside=finish.outside,
        warnings=tuple(warnings),
    )


def widened(resolved: ResolvedRecipe, split: str, sources: Sources) -> Iterator[Floats]:
    """The values r of one split: `widen` over its files."""
    judged = sources.attributions.get(split, ()) if resolved.judged else ()
    return widen(
        resolved,
        Episodes("utterances", sources.texts.keys(split)),
        Episodes("attributions", read(judged, resolved.columns, READ_ROWS)),
        Episodes("episodes", read(sources.episodes[split], ["episode_id", "scores"], READ_ROWS // 16)),
    )


def fitted(
    recipe: Recipe,
    dimensions: Sequence[str],
    train: Iterable[Floats],
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> tuple[dict[str, Statistic], list[str]]:
    """The statistics of r (opinions, dimensions, utterances), averaged over opinions, of the splits that are
    fitted on; and warnings."""
    values = {name: TrainValues(recipe.normaliser) for name in dimensions}
    for r in train:
        for d, of_dimension in enumerate(values.values()):
            of_dimension.add(average(recipe.average, r[:, d]))
    return fit(recipe.normaliser, values, recipe.rule, ranges, recipe.fit)


class Finish:
    """Normalises, aggregates, and joins the numbers with the text, split by split; counts as it goes."""

    def __init__(
        self, recipe: Recipe, resolved: ResolvedRecipe, statistics: Mapping[str, Statistic], splits: Sequence[str]
    ) -> None:
        self._recipe, self._resolved, self._statistics = recipe, resolved, statistics
        self._schema = rewards_schema(resolved.dimensions)
        self._times = 10.0 if recipe.units == "0-10" else 1.0
        self.unrewarded = dict.fromkeys(splits, 0)
        self.outside = {split: dict.fromkeys(resolved.dimensions, 0) for split in splits}

    def split(
        self,
        split: str,
        wide: Iterable[Floats],
        texts: Iterable[pa.RecordBatch],
        on_progress: Callable[[int], object] | None,
    ) -> Iterator[pa.Table]:
        """The finished rows of a split. Raises StoreError where there are more or fewer texts than utterances."""
        numbers = _TableQueue(self.numbers(split, r) for r in wide)
        done = 0
        for text in texts:
            if not text.num_rows:
                continue
            beside_text = numbers.take(text.num_rows)
            columns = {name: text.column(name) for name in text.schema.names}
            columns |= {name: beside_text.column(name) for name in beside_text.schema.names}
            yield pa.table([columns[name] for name in self._schema.names], schema=self._schema)
            done += text.num_rows
            if on_progress is not None:
                on_progress(done)
        numbers.end()
        if not done:
            # A split without rows still gets a table, since its file must have the columns.
            yield self._schema.empty_table()

    def numbers(self, split: str, r: Floats) -> pa.Table:
        """The numeric columns of the rewards, from r (opinions, dimensions, utterances)."""
        dimensions, recipe = self._resolved.dimensions, self._recipe
        raw = {d: average(recipe.average, r[:, i]) for i, d in enumerate(dimensions)}
        norm = {d: self._statistics[d].apply(values) for d, values in raw.items()}
        total = self._times * reward(recipe.weights, norm)
        for d, values in raw.items():
            self.outside[split][d] += self._statistics[d].outside(values)
        self.unrewarded[split] += int(np.count_nonzero(np.isnan(total)))
        columns = {"reward": _nullable(total)}
        columns |= {f"raw_{d}": _nullable(values) for d, values in raw.items()}
        columns |= {f"norm_{d}": _nullable(values) for d, values in norm.items()}
        alone = self._alone(r) if len(r) > 1 else total[None]
        judges = np.count_nonzero(~np.isnan(alone), axis=0) if self._resolved.judged else np.zeros(len(total))
        columns |= {"n_opinions": pa.array(judges.astype(np.int32)), "spread": _nullable(spread(alone))}
        return pa.table(columns)

    def _alone(self, r: Floats) -> Floats:
        """The reward that each opinion alone would give: (opinions, utterances)."""
        place = {d: self._resolved.dimensions.index(d) for d in self._recipe.weighted}
        rewards = []
        for opinion in r:
            norm = {d: self._statistics[d].apply(opinion[i]) for d, i in place.items()}
            rewards.append(self._times * reward(self._recipe.weights, norm))
        return np.stack(rewards)


def _nullable(values: Floats) -> pa.Array:
    """NaN, which stands for NULL in the arithmetic, becomes NULL."""
    missing = np.isnan(values)
    return pa.array(values, mask=missing) if missing.any() else pa.array(values)


class _TableQueue:
    """A stream of tables, from which `take` cuts pieces of any size."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        self._tables = iter(tables)
        self._rest = pa.table({})

    def take(self, rows: int) -> pa.Table:
        """The next rows. Raises StoreError where fewer are left."""
        while self._rest.num_rows < rows:
            more = next(self._tables, None)
            if more is None:
                raise StoreError("There are more prompts than utterances in the version.", _DAMAGED)
            self._rest = pa.concat_tables([self._rest, more]) if self._rest.num_rows else more
        taken, self._rest = self._rest.slice(0, rows), self._rest.slice(rows)
        return taken

    def end(self) -> None:
        """Raises StoreError where a row is left."""
        if self._rest.num_rows or next(self._tables, None) is not None:
            raise StoreError("There are fewer prompts than utterances in the version.", _DAMAGED)


def remade_recipe(own: Mapping[str, Any] | None, preset: str | None, changes: Mapping[str, Any]) -> Recipe:
    """The preset's recipe, or else `own`, which a manifest has under `rewards`, with the fields in `changes` replaced.
    Raises UsageError."""
    recipe = Recipe.from_dict(own) if own and not preset else find_preset(preset or "sotopia-rl")
    if preset and own:
        changes = {"evaluator": own.get("evaluator"), **changes}
    if "gamma" in changes and changes.get("rule", recipe.rule) != "discounted":
        raise UsageError(
            "A gamma is given, but only the rule `discounted` has one.",
            "choose that rule (--rule discounted), or leave gamma out",
        )
    return replace(recipe, **changes)


@dataclass(frozen=True, slots=True)
class Remade:
    """The version with the rewards, whether it is new, and what was built."""

    version: Version
    created: bool
    built: Built


def remake(
    store: Store,
    source: Version,
    recipe: Recipe,
    *,
    layout: Layout = "single",
    template: Template | None = None,
    out: str | None = None,
    version: str | None = None,
    progress: Callable[[int], object] | None = None,
) -> Remade:
    """Build the rewards of `source` by `recipe` and commit them as the next version of `out` (default: its own name).
    A version that has no trajectories gets them this way.

    Raises UsageError where `source` has no episodes or the recipe weighs a dimension that was never judged, and what
    committing raises; the store is then unchanged.
    """
    configs = source.manifest.configs
    if "episodes" not in configs:
        raise UsageError(
            f"{source.ref} has no episodes to make rewards from.", "name a labelled dataset: sotopia-rl-data list"
        )
    text = layout_id(layout, template)
    episodes = source.files("episodes")
    texts: Texts = RenderedTexts(episodes, lambda e: prompts_of(e, layout, template))
    if "rewards" in configs and source.manifest.recipe.get("layout") == text:  # the stored prompts have this layout
        texts = StoredTexts(source.files("rewards"))
    attributions = source.files("attributions") if "attributions" in configs else {}
    with store.stage(out or source.name) as stage:
        with TemporaryDirectory(prefix=".wide-", dir=stage.dir) as scratch:
            built = build(
                recipe,
                Sources(episodes, attributions, texts),
                write=with_trajectories(stage, episodes, layout),
                scratch=Path(scratch),
                on_progress=progress,
            )
        for config in ("episodes", "attributions", "failures"):
            if config in configs:
                stage.link(source, config)
        kept = {name: value for name, value in source.manifest.recipe.items() if name not in ("rewards", "layout")}
        known = {
            **source.manifest.provenance,
            "parents": [{"name": source.name, "version": source.version, "digest": source.digest}],
            "code": code(),
            "command": "rewards",
            "rewards": built.provenance(),
            "trajectories": wording(layout, template),
        }
        recipe_of_all = kept | {"rewards": built.recipe.as_dict(), "layout": text}
        committed = stage.commit(recipe_of_all, known, version, completes=stage.name == source.name)
    return Remade(committed.version, committed.created, built)
