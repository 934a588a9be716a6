"""label(): episodes in, a version with their utterances' rewards out.

    plan      check everything that can be wrong, count the calls                       plan.py
    ask       every judge what the ledger does not answer                   questions.py, sotopia_rl_data/asking
    read      the ledger -> attributions and failures, in key order         reading.py
    reward    attributions and episode scores -> rewards                    sotopia_rl_data/rewards
    commit    a version, or the news that the store has it already          sotopia_rl_data/store

Every raw answer is durable before it is parsed, and what follows the asking is a function of (episodes, plan, ledger):
a run that was killed goes on where it stood and ends in the same digest. Leaves out what a command prints.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.asking import run as asking
from sotopia_rl_data.asking.estimate import Estimate, estimate
from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.asking.report import asking_warnings
from sotopia_rl_data.asking.run import bill_of
from sotopia_rl_data.asking.transport import without_api_keys
from sotopia_rl_data.costs.prices import load as load_prices
from sotopia_rl_data.labelers.plan import (
    Elicitation,
    LabelPlan,
    RewardSettings,
    check_named,
    episodes_of,
    prepare,
    with_episodes,
)
from sotopia_rl_data.labelers.questions import QuestionPart, Questions
from sotopia_rl_data.labelers.reading import LabelTally, Rows, rows_of
from sotopia_rl_data.labelers.report import LabelReport, by_number, provenance, remarks, unrewarded
from sotopia_rl_data.labelers.requests import asked_judges
from sotopia_rl_data.labelers.source import is_imported
from sotopia_rl_data.ledger.journal import check_writable
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.refs import check_name
from sotopia_rl_data.schema import Attribution, Failure
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.store.versions import check as check_version

if TYPE_CHECKING:
    from sotopia_rl_data.rewards import Recipe
    from sotopia_rl_data.rewards.build import Built
    from sotopia_rl_data.store.stage import Stage

_ROWS = 1 << 16  # of attributions that are held before they are written


def label(
    store: Store,
    source: str | Path | None,
    asked: Elicitation,
    rewards: RewardSettings | None = None,
    *,
    out: str | None = None,
    version: str | None = None,
    options: AskOptions | None = None,
) -> LabelReport:
    """Have judges attribute the episodes' scores to their utterances, and build the rewards.

    `source` is a dataset's reference, a path, or None for the bundled samples (see `source.py`). `asked` says who is
    asked what, `rewards` what is made of it, `options` how it is asked. `out` is by default the episodes' name +
    "-rewards"; `version` overrides the number.

    Raises UsageError, NotFound, KeyMissing, and VersionExists where `version` is taken and something is left to ask,
    before anything is asked or written; Interrupted after Ctrl-C; UnderWay where batches are not waited for;
    BudgetSpent where nothing more fits under the budget; Rejected and Unavailable where a provider answers nothing;
    StoreError. Whatever is raised, the store's versions are as they were and every answer is kept.
    """
    began = time.monotonic()
    rewards, options = rewards or RewardSettings(), options or AskOptions()
    prices = load_prices(options.prices)
    plan, recipe = prepare(asked, rewards)
    out, version = out and check_name(out), version and check_version(version)
    asking.check(asked_judges(plan.judges), options, prices)
    kept_in = options.ledger_in(store.root)
    if plan.judges and not kept_in.exists():  # it answers nothing, so somebody will be asked
        check_writable(kept_in)
    parent, plan = with_episodes(plan, store, source)
    name = out or check_name(f"{parent.name}-rewards")
    with store.stage(name) as stage, Ledger(kept_in) as kept:
        questions = _questions(plan, parent)
        check_named(plan, questions.total)
        store.check_untaken(name, version, lambda: estimate(questions, kept, options, prices).asked)
        outcomes = asking.ask(questions, kept, options, prices)
        making = _Making(plan, parent, kept, stage)
        tally = making.read()
        bill = bill_of(questions.judges, tally, prices)
        built = making.reward(recipe, rewards)
        stage.link(parent, "episodes")
        committed = stage.commit(
            recipe=making.recipe(built.recipe, rewards),
            provenance=provenance(parent, plan, tally, bill, {"rewards": built.provenance()}),
            version=version,
        )
    rewarded = questions.utterances - sum(built.unrewarded.values())
    bare = unrewarded(tally.labels, rewarded, recipe.weighted)
    return LabelReport(
        committed=committed,
        outcomes=outcomes,
        calls=questions.total,
        failures=by_number(tally),
        bill=bill,
        warnings=[*remarks(plan), *asking_warnings(outcomes), *built.warnings, *bare],
        seconds=round(time.monotonic() - began, 3),
        episodes=questions.episodes,
        repaired=tally.repaired,
        unusable=tally.unusable,
        utterances=questions.utterances,
        labels=tally.labels,
        rewarded=rewarded,
    )


def estimate_label(
    store: Store,
    source: str | Path | None,
    asked: Elicitation,
    rewards: RewardSettings | None = None,
    options: AskOptions | None = None,
) -> Estimate:
    """What `label` would ask and cost with the same arguments; it asks nobody. Raises what `label` raises before it
    asks, but that no API key is needed."""
    options = options or AskOptions()
    prices = load_prices(options.prices)
    with without_api_keys():
        plan, _ = prepare(asked, rewards or RewardSettings())
    with _aside(store, source) as read_from, Ledger(options.ledger_in(store.root)) as kept:
        parent, plan = with_episodes(plan, read_from, source)
        return estimate(_questions(plan, parent), kept, options, prices)


@contextmanager
def _aside(store: Store, source: str | Path | None) -> Iterator[Store]:
    """The store to read from; where a file is to be imported, one that goes away again."""
    if not is_imported(source):
        yield store
        return
    with TemporaryDirectory(prefix="sotopia-rl-data-") as folder:
        yield Store(Path(folder))


def _questions(plan: LabelPlan, parent: Version) -> Questions:
    files = list(chain.from_iterable(parent.files("episodes").values()))
    return Questions(QuestionPart(plan, lambda: episodes_of(files)))


class _Making:
    """The rows of the version that is on its stage."""

    def __init__(self, plan: LabelPlan, parent: Version, ledger: Ledger, stage: Stage) -> None:
        self._plan, self._parent, self._ledger, self._stage = plan, parent, ledger, stage
        self._files = parent.files("episodes")
        self._labels: dict[str, list[Path]] = {}

    def read(self) -> LabelTally:
        """Write the attributions and failures of every split, out of the ledger."""
        tally = LabelTally()
        for split, files in self._files.items():
            self._labels[split] = [self._stage.sorted_file("attributions", split)]
            rows = rows_of(self._plan, self._ledger, episodes_of(files), tally)
            _write_split(self._stage, split, self._labels[split][0], rows)
        return tally

    def reward(self, recipe: Recipe, rewards: RewardSettings) -> Built:
        """Build and write the rewards of every split."""
        from sotopia_rl_data.prompts import prompts_of
        from sotopia_rl_data.rewards.build import Sources, build
        from sotopia_rl_data.rewards.texts import RenderedTexts

        texts = RenderedTexts(self._files, lambda episode: prompts_of(episode, rewards.layout, rewards.template))
        with TemporaryDirectory(prefix=".wide-", dir=self._stage.dir) as scratch:
            return build(
                recipe,
                Sources(self._files, self._labels, texts),
                write=partial(self._stage.write, "rewards"),
                scratch=Path(scratch),
                dimensions=self._plan.dimensions,
            )

    def recipe(self, made: Recipe, rewards: RewardSettings) -> dict[str, Any]:
        """What determines the rows, for the manifest: the labels, the rewards, the text, and how it was split."""
        from sotopia_rl_data.prompts import layout_id

        recipe: dict[str, Any] = {
            "labels": self._plan.recipe(),
            "rewards": made.as_dict(),
            "layout": layout_id(rewards.layout, rewards.template),
        }
        if self._plan.judges:
            recipe["scale"] = self._plan.scale
        if "seed" in self._parent.manifest.recipe:
            recipe["seed"] = self._parent.manifest.recipe["seed"]
        return recipe


def _write_split(stage: Stage, split: str, path: Path, rows: Iterator[Rows]) -> None:
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
