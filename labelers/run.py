"""label(): episodes in, a version with their utterances' rewards out.

    plan      check everything that can be wrong, count the calls           plan.py
    ask       every judge what the ledger does not answer                   asking.py, sotopia_rl_data/asking
    read      the ledger -> attributions and failures, in key order         reading.py
    reward    attributions and episode scores -> rewards                    sotopia_rl_data/rewards
    commit    a version, or the news that the store has it already          sotopia_rl_data/store

Every raw answer is durable before it is parsed, and what follows the asking is a function of (episodes, plan, ledger):
a run that was killed goes on where it stood and ends in the same digest. Leaves out what a command prints.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.asking.batch.run import Batching
from sotopia_rl_data.asking.dispatch import Pacing
from sotopia_rl_data.costs.prices import load as load_prices
from sotopia_rl_data.labelers.asking import Asking, Progress, wait
from sotopia_rl_data.labelers.costs import bill_of, capped, check_budget
from sotopia_rl_data.labelers.judge import Judge
from sotopia_rl_data.labelers.judges.batches import check_batches
from sotopia_rl_data.labelers.plan import Plan, episodes_of, size
from sotopia_rl_data.labelers.preparing import check_named, left_to_ask, prepare, with_episodes
from sotopia_rl_data.labelers.reading import Tally, rows_of
from sotopia_rl_data.labelers.report import LabelReport, bare, cold, provenance, ran, remarks
from sotopia_rl_data.ledger.journal import check_writable
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.refs import check_name
from sotopia_rl_data.schema import Attribution, Episode, Failure
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.store.versions import check as check_version

if TYPE_CHECKING:
    from sotopia_rl_data.labelers.schemas.phrasing import Packing
    from sotopia_rl_data.prompts import Layout, Template
    from sotopia_rl_data.rewards import Recipe
    from sotopia_rl_data.rewards.build import Built
    from sotopia_rl_data.store.stage import Stage

_ROWS = 1 << 16  # of attributions that are held before they are written


def label(
    store: Store,
    source: str | Path | None,
    *,
    judges: Sequence[str | Judge] = (),
    schema: str = "direct",
    dimensions: Sequence[str] | None = None,
    scale: int = 3,
    ask: Packing = "per-dimension",
    preset: str | None = None,
    evaluator: str | None = None,
    out: str | None = None,
    version: str | None = None,
    samples: int = 1,
    average: str | None = None,
    only: Path | None = None,
    sampling: Mapping[str, Any] | None = None,
    layout: Layout = "single",
    template: Template | None = None,
    retry_failed: bool = False,
    concurrency: int | None = None,
    pacing: Pacing | None = None,
    batching: Batching | None = None,
    ledger: Path | None = None,
    prices: Path | None = None,
    budget: float | None = None,
    progress: Progress | None = None,
) -> LabelReport:
    """Have judges attribute the episodes' scores to their utterances, and build the rewards.

    `source` is a dataset's reference, a path, or None for the bundled samples (see `source.py`). `dimensions` are by
    default those that the preset weighs (for `sotopia-rl`: goal, relationship, knowledge). `scale` is the top of the
    importance levels: 3, 5 or 10. `ask` is "per-dimension", one call for each agent and dimension as the paper asks, or
    "packed", one call an episode. `preset` names the reward recipe; None is `sotopia-rl` with the schema's own rule.
    `out` is by default the episodes' name + "-rewards"; `version` overrides the number. `samples` repeats every
    question; `average` joins the opinions of judges and samples ("mean" or "median"; default: the preset's). `only` is
    a CSV that names what to ask about (`selection.py`). `sampling` is laid over the judges' defaults. What failed is
    asked again only with `retry_failed`. `concurrency` bounds the calls in flight (default: the judge's own).
    With `batching` the judges are asked through their providers' batch APIs, at half the price and within a day.
    `prices` is a file that overrides the price list; `budget` is a hard cap in USD on what these labels may cost, all
    runs together.

    Raises UsageError, NotFound, KeyMissing, and VersionExists where `version` is taken and something is left to ask,
    before anything is asked or written; Interrupted after Ctrl-C; UnderWay where batches are not waited for;
    BudgetSpent where nothing more fits under the budget; Rejected and Unavailable where a provider answers nothing;
    StoreError. Whatever is raised, the store's versions are as they were and every answer is kept.
    """
    began = time.monotonic()
    price_list = load_prices(prices)
    plan, recipe = prepare(
        judges=judges,
        schema=schema,
        dimensions=dimensions,
        scale=scale,
        ask=ask,
        preset=preset,
        evaluator=evaluator,
        samples=samples,
        average=average,
        only=only,
        sampling=sampling,
        layout=layout,
        template=template,
    )
    out, version = out and check_name(out), version and check_version(version)
    if batching is not None:
        check_batches(plan.judges)
    if budget is not None:
        check_budget(budget, plan, price_list)
    kept_in = ledger or store.root / ".ledger"
    if plan.judges and not kept_in.exists():  # it answers nothing, so somebody will be asked
        check_writable(kept_in)
    parent, plan = with_episodes(plan, store, source)
    name = out or check_name(f"{parent.name}-rewards")
    with store.stage(name) as stage, Ledger(kept_in) as kept:
        run = _Run(plan, parent, kept, stage)
        counted = size(plan, run.episodes())
        check_named(plan, counted.calls)
        left = partial(left_to_ask, plan, kept, run.episodes, price_list, retry_failed)
        store.check_untaken(name, version, left)
        asking = run.asking()
        how: dict[str, Any] = {"retry_failed": retry_failed, "concurrency": concurrency, "pacing": pacing}
        with capped(budget, plan, kept, run.episodes, price_list) as cap:
            outcomes = wait(
                asking.ask(counted.calls, **how, batching=batching, progress=progress, budget=cap, prices=price_list)
            )
        tally = run.read()
        cost = bill_of(plan, tally, price_list)
        built = run.reward(recipe, layout, template)
        stage.link(parent, "episodes")
        committed = stage.commit(
            recipe=run.recipe(built.recipe, layout, template),
            provenance=provenance(parent, plan, tally, cost, built.provenance()),
            version=version,
        )
    rewarded = counted.utterances - sum(built.unrewarded.values())
    warnings = [*remarks(plan), *cold(outcomes), *built.warnings, *bare(tally.labels, rewarded, recipe.weighted)]
    return LabelReport(
        **ran(committed, counted, tally, outcomes, cost, warnings, time.monotonic() - began),
        utterances=counted.utterances,
        labels=tally.labels,
        rewarded=rewarded,
    )


class _Run:
    """One plan, one version of episodes, one ledger, one stage."""

    def __init__(self, plan: Plan, parent: Version, ledger: Ledger, stage: Stage) -> None:
        self._plan, self._parent, self._ledger, self._stage = plan, parent, ledger, stage
        self._files = parent.files("episodes")
        self._labels: dict[str, list[Path]] = {}

    def episodes(self) -> Iterator[Episode]:
        """Every episode of every split."""
        return episodes_of(chain.from_iterable(self._files.values()))

    def asking(self) -> Asking:
        """What asks about these episodes."""
        return Asking(self._plan, self._ledger, self.episodes)

    def read(self) -> Tally:
        """Write the attributions and failures of every split, out of the ledger."""
        tally = Tally()
        for split, files in self._files.items():
            self._labels[split] = [self._stage.sorted_file("attributions", split)]
            _write_split(self._stage, split, self._labels[split][0], self._rows(files, tally))
        return tally

    def reward(self, recipe: Recipe, layout: Layout, template: Template | None) -> Built:
        """Build and write the rewards of every split."""
        from sotopia_rl_data.prompts import prompts_of
        from sotopia_rl_data.rewards.build import Sources, build
        from sotopia_rl_data.rewards.texts import RenderedTexts

        texts = RenderedTexts(self._files, lambda episode: prompts_of(episode, layout, template))
        with TemporaryDirectory(prefix=".wide-", dir=self._stage.dir) as scratch:
            return build(
                recipe,
                Sources(self._files, self._labels, texts),
                write=partial(self._stage.write, "rewards"),
                scratch=Path(scratch),
                asked=self._plan.dimensions,
            )

    def recipe(self, rewards: Recipe, layout: Layout, template: Template | None) -> dict[str, Any]:
        """What determines the rows, for the manifest: the labels, the rewards, the text, and how it was split."""
        from sotopia_rl_data.prompts import layout_id

        made: dict[str, Any] = {
            "labels": self._plan.recipe(),
            "rewards": rewards.as_dict(),
            "layout": layout_id(layout, template),
        }
        if self._plan.judges:
            made["scale"] = self._plan.scale
        if "seed" in self._parent.manifest.recipe:
            made["seed"] = self._parent.manifest.recipe["seed"]
        return made

    def _rows(self, files: Sequence[Path], tally: Tally) -> Iterator[tuple[list[Attribution], list[Failure]]]:
        return rows_of(self._plan, self._ledger, episodes_of(files), tally)


def _write_split(stage: Stage, split: str, path: Path, rows: Iterator[tuple[list[Attribution], list[Failure]]]) -> None:
    """Write rows that come in key order, some thousands at a time. Both configs are written even where none come."""
    import pyarrow.parquet as pq

    from sotopia_rl_data.tables import ATTRIBUTIONS, attribution_table, failure_table

    labels: list[Attribution] = []
    failures: list[Failure] = []
    with pq.ParquetWriter(path, ATTRIBUTIONS, compression="zstd", write_page_index=True) as writer:
        for more, lost in rows:
            labels += more
            failures += lost
            if len(labels) >= _ROWS:
                writer.write_table(attribution_table(labels))
                labels = []
            if len(failures) >= _ROWS:
                stage.write("failures", split, failure_table(failures))
                failures = []
        writer.write_table(attribution_table(labels))
    stage.write("failures", split, failure_table(failures))
