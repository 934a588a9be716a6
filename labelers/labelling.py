"""label(): episodes in, a version with their utterances' rewards out.

    plan      check everything that can be wrong, count the calls                       plan.py
    ask       put to every judge the questions that the ledger does not answer          questions.py, asking/
    read      the ledger -> attributions and failures, in key order                     questions.py
    reward    attributions and episode scores -> rewards                                rewards/
    commit    a new version, unless the store has this content already                  store/

Every raw answer is durable before it is parsed, and what follows the asking is a function of (episodes, plan, ledger):
a run that was killed goes on where it stopped and ends in the same digest. Leaves out what a command prints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.asking import ask as asking
from sotopia_rl_data.asking.ask import bill_of
from sotopia_rl_data.asking.estimate import estimate
from sotopia_rl_data.asking.keys import without_api_keys
from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.asking.report import AskedReport, asking_warnings
from sotopia_rl_data.labelers.ask_only import ask_questions
from sotopia_rl_data.labelers.coverage import Coverage, coverage
from sotopia_rl_data.labelers.plan import (
    Elicitation,
    LabelPlan,
    RewardSettings,
    check_named,
    episodes_of,
    prepare,
    with_episodes,
)
from sotopia_rl_data.labelers.questions import LabelTally, Questions, Rows, rows_of
from sotopia_rl_data.labelers.report import LabelReport, by_number, provenance, rejected_records, remarks, unrewarded
from sotopia_rl_data.labelers.requests import asked_judges
from sotopia_rl_data.labelers.selection import check_there, is_imported
from sotopia_rl_data.labelers.wordings import JudgedEstimate, OtherWording, judged_estimate, tell_other_wordings
from sotopia_rl_data.ledger.journal import check_writable
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.refs import check_name
from sotopia_rl_data.schema import Attribution, Failure
from sotopia_rl_data.shards import WHOLE, Shard
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.store.versions import check as check_version

if TYPE_CHECKING:
    from sotopia_rl_data.rewards import Recipe
    from sotopia_rl_data.rewards.build import Built
    from sotopia_rl_data.store.stage import Stage

# Rows of one kind (attributions or failures) are written when this many have been gathered.
_ROWS = 1 << 16


def label(
    store: Store,
    source: str | Path | None,
    asked: Elicitation,
    rewards: RewardSettings | None = None,
    *,
    out: str | None = None,
    version: str | None = None,
    options: AskOptions | None = None,
    announce: Callable[[Coverage | OtherWording], object] | None = None,
) -> LabelReport:
    """Have judges attribute the episodes' scores to their utterances, and build the rewards.

    `source` is a dataset's reference, a path, or None for the bundled samples (see `selection.py`). `asked` says what
    is asked of which judges, `rewards` what is made of their answers, `options` how requests are sent. `out` is by
    default the episodes' name + "-rewards"; `version` overrides the number. `announce` is told, before anything is
    asked, how many utterances can get a reward, and where the ledger has answers in another wording alone.

    Raises UsageError, NotFound, KeyMissing, and VersionExists where `version` is taken and something is left to ask,
    all before anything is asked or written; Interrupted after Ctrl-C; UnderWay where batches are not waited for;
    BudgetSpent where nothing more fits under the budget; Rejected and Unavailable where a provider gives no answer at
    all; StoreError. Whatever is raised, the store's versions stay as they were and every answer is kept.
    """
    from sotopia_rl_data.rewards.trajectories import wording

    began = time.monotonic()
    rewards, options = rewards or RewardSettings(), options or AskOptions()
    prices = options.price_list()
    check_there(source)  # before a missing key is told: where there is no file, no key helps
    plan, recipe = prepare(asked, rewards)
    out, version = out and check_name(out), version and check_version(version)
    asking.check(asked_judges(plan.judges), options, prices)
    ledger_path = options.ledger_in(store)
    # A ledger that does not exist yet has no answers. So judges will be asked, and the ledger will be written.
    if plan.judges and not ledger_path.exists():
        check_writable(ledger_path)
    parent, plan = with_episodes(plan, store, source)
    covered = coverage(plan, recipe, parent)
    covered.check()
    if announce is not None:
        announce(covered)
    name = out or check_name(f"{parent.name}-rewards")
    with store.stage(name) as stage, Ledger(ledger_path) as ledger:
        questions = Questions.about(plan, parent)
        check_named(plan, questions.total)
        store.check_untaken(name, version, lambda: estimate(questions, ledger, options, prices).asked)
        tell_other_wordings(announce, questions, ledger)
        outcomes = asking.ask(questions, ledger, options, prices)
        rows = _VersionRows(plan, parent, ledger, stage)
        tally = rows.read()
        bill = bill_of(questions.judges, tally, prices)
        built = rows.reward(recipe, rewards)
        stage.link(parent, "episodes")
        messages = wording(rewards.layout, rewards.template)
        facts = {"command": "label", "rewards": built.provenance(), "trajectories": messages}
        committed = stage.commit(
            recipe=rows.recipe(built.recipe, rewards),
            provenance=provenance(parent, plan, tally, bill, facts),
            version=version,
        )
    rejected, told = rejected_records(parent) if is_imported(source) else (0, [])
    rewarded = questions.utterances - sum(built.unrewarded.values())
    return LabelReport(
        committed=committed,
        outcomes=outcomes,
        calls=questions.total,
        failures=by_number(tally),
        bill=bill,
        warnings=[
            *told,
            *remarks(plan),
            *asking_warnings(outcomes),
            *built.warnings,
            *unrewarded(tally.labels, rewarded, recipe.weighted),
        ],
        seconds=round(time.monotonic() - began, 3),
        episodes=questions.episodes,
        repaired=tally.repaired,
        unusable=tally.unusable,
        utterances=questions.utterances,
        labels=tally.labels,
        rewarded=rewarded,
        rejected=rejected,
    )


def ask_label(
    store: Store,
    source: str | Path | None,
    asked: Elicitation,
    rewards: RewardSettings | None = None,
    *,
    shard: Shard = WHOLE,
    options: AskOptions | None = None,
    announce: Callable[[Coverage | OtherWording], object] | None = None,
) -> AskedReport:
    """Ask what `label` asks with the same arguments, about the episodes of `shard`, and make no version: `label` does
    that when the ledgers of all shards are merged. Raises what `label` raises; nothing but the ledger is written."""
    rewards, options = rewards or RewardSettings(), options or AskOptions()
    prices = options.price_list()
    check_there(source)
    plan, recipe = prepare(asked, rewards)
    asking.check(asked_judges(plan.judges), options, prices)
    with _reading_store(store, source) as episode_store, Ledger(options.ledger_in(store)) as ledger:
        parent, plan = with_episodes(plan, episode_store, source)
        covered = coverage(plan, recipe, parent)
        covered.check()
        if announce is not None:
            announce(covered)
        return ask_questions(Questions.about(plan, parent, shard), ledger, options, prices, shard, announce)


def estimate_label(
    store: Store,
    source: str | Path | None,
    asked: Elicitation,
    rewards: RewardSettings | None = None,
    options: AskOptions | None = None,
    shard: Shard = WHOLE,
) -> JudgedEstimate:
    """What `label` would ask and cost with the same arguments, or `ask_label` about a shard. Sends no request and needs
    no API key; otherwise raises what `label` raises before it asks."""
    options = options or AskOptions()
    prices = options.price_list()
    with without_api_keys():
        plan, recipe = prepare(asked, rewards or RewardSettings())
    with _reading_store(store, source) as episode_store, Ledger(options.ledger_in(store)) as ledger:
        parent, plan = with_episodes(plan, episode_store, source)
        covered = coverage(plan, recipe, parent)
        covered.check()
        questions = Questions.about(plan, parent, shard)
        return judged_estimate(estimate(questions, ledger, options, prices), questions, ledger, covered)


@contextmanager
def _reading_store(store: Store, source: str | Path | None) -> Iterator[Store]:
    """The store to read the episodes from: where `source` is a file, a temporary one that it is imported into."""
    if not is_imported(source):
        yield store
        return
    with TemporaryDirectory(prefix="sotopia-rl-data-") as folder:
        yield Store(Path(folder))


INHERITED = ("seed", "split_by", "license", "speakers")
"""What a version's recipe takes over from that of its episodes."""


class _VersionRows:
    """The rows of the version that is being staged."""

    def __init__(self, plan: LabelPlan, parent: Version, ledger: Ledger, stage: Stage) -> None:
        self._plan, self._parent, self._ledger, self._stage = plan, parent, ledger, stage
        self._files = parent.files("episodes")
        self._labels: dict[str, list[Path]] = {}

    def read(self) -> LabelTally:
        """Write the attributions and failures of every split, as the ledger has them."""
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
        from sotopia_rl_data.rewards.trajectories import with_trajectories

        texts = RenderedTexts(self._files, lambda episode: prompts_of(episode, rewards.layout, rewards.template))
        with TemporaryDirectory(prefix=".wide-", dir=self._stage.dir) as scratch:
            return build(
                recipe,
                Sources(self._files, self._labels, texts),
                write=with_trajectories(self._stage, self._files, rewards.layout),
                scratch=Path(scratch),
                dimensions=self._plan.dimensions,
            )

    def recipe(self, fitted: Recipe, rewards: RewardSettings) -> dict[str, Any]:
        """What determines the rows, for the manifest: labels, rewards, the prompts' layout, the splits' seed."""
        from sotopia_rl_data.prompts import layout_id

        recipe: dict[str, Any] = {
            "labels": self._plan.recipe(),
            "rewards": fitted.as_dict(),
            "layout": layout_id(rewards.layout, rewards.template),
        }
        if self._plan.judges:
            recipe["scale"] = self._plan.scale
        of_parent = self._parent.manifest.recipe
        return recipe | {name: of_parent[name] for name in INHERITED if name in of_parent}


def _write_split(stage: Stage, split: str, path: Path, rows: Iterator[Rows]) -> None:
    """Write rows, which come in key order, some thousands at a time. Both configs are written even without rows."""
    import pyarrow.parquet as pq

    from sotopia_rl_data.tables import ATTRIBUTIONS, attribution_table, failure_table

    labels: list[Attribution] = []
    failures: list[Failure] = []
    with pq.ParquetWriter(path, ATTRIBUTIONS, compression="zstd", write_page_index=True) as writer:
        for new_labels, new_failures in rows:
            labels += new_labels
            failures += new_failures
            if len(labels) >= _ROWS:
                writer.write_table(attribution_table(labels))
                labels = []
            if len(failures) >= _ROWS:
                stage.write("failures", split, failure_table(failures))
                failures = []
        writer.write_table(attribution_table(labels))
    stage.write("failures", split, failure_table(failures))
