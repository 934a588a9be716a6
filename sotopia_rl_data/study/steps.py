"""The steps that make versions of data, each by the library function of a command.

A step has a name, the names of the steps that it needs, and settings. Its identity is its name, these settings and the
digests of what the other steps made, so that nothing that is there is made again, and a change of the file makes only
what depends on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sotopia_rl_data.asking.estimate import Estimate
from sotopia_rl_data.asking.keys import without_api_keys
from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.asking.report import RunReport
from sotopia_rl_data.display import Advance
from sotopia_rl_data.errors import SotopiaDataError
from sotopia_rl_data.hashing import file_sha256
from sotopia_rl_data.hub.resolve import resolve
from sotopia_rl_data.labelers.evaluation.evaluating import estimate_evaluation, evaluate, evaluation_plan
from sotopia_rl_data.labelers.labelling import estimate_label, label
from sotopia_rl_data.labelers.plan import Elicitation, RewardSettings, prepare
from sotopia_rl_data.rewards.resolve import check_opinions
from sotopia_rl_data.store import Store
from sotopia_rl_data.study.declared import DatasetSource, LabelSpec

if TYPE_CHECKING:
    from sotopia_rl_data.rewards import Recipe

Inputs = Mapping[str, "StepResult"]
Doing = Callable[[str, str], AbstractContextManager[Advance]]
Held = Sequence[tuple[str, str, str, int]]
"""(schema, measure, judge, sample) of the attributions that a step gives."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step made: `ref` is a version, or the folder of a model that the training run in the folder `run` made;
    `digest` is that of its content. `bill` has a line for each judge or policy that was asked; `failures` counts what
    has no label, score or end, and `unreachable` the calls without an answer, which another run may get; `facts` are
    figures that no version holds."""

    ref: str
    digest: str
    failures: int = 0
    unreachable: int = 0
    bill: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""

    @property
    def usd(self) -> float | None:
        """What it cost or may have cost; None where something has no price."""
        return self.spent if all(line["total"] is not None for line in self.bill) else None

    @property
    def spent(self) -> float:
        """The same as a budget counts it, which leaves out what has no price."""
        return sum((line["total"] or 0.0) + (line["maybe"] or 0.0) for line in self.bill)


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where and how steps work: the store, the folder of trained models, how models are asked, and `doing`, which shows
    a progress bar. `title` begins the names of datasets."""

    title: str
    store: Store
    folder: Path
    options: AskOptions
    doing: Doing

    def spending(self, usd: float) -> Workshop:
        """The same where other steps have spent so much of the budget."""
        return replace(self, options=replace(self.options, spent=usd))


class StudyStep(Protocol):
    """`asks` says whether models are asked, `check_keys` raises KeyMissing where one of them has no key. `settings` are
    all that determines the result beside the inputs; `estimate` says what would be asked (None: nothing, or that cannot
    be known yet), `inputs` holding only what is there. The run gets the step's identity as `key`."""

    name: str
    needs: tuple[str, ...]
    asks: bool

    def settings(self) -> dict[str, Any]: ...
    def check_keys(self) -> None: ...
    def estimate(self, work: Workshop, inputs: Inputs) -> Estimate | None: ...
    def run(self, work: Workshop, inputs: Inputs, key: str) -> StepResult: ...


def label_step(name: str) -> str:
    """The step that makes labels."""
    return f"labels {name}"


@contextmanager
def at(place: str) -> Iterator[None]:
    """What is wrong inside the block is told with a place in the study's file."""
    try:
        yield
    except SotopiaDataError as error:
        error.message = f"{place}: {error.message}"
        raise


def reported(report: RunReport) -> StepResult:
    """The result of a run that asked."""
    return StepResult(
        ref=report.version,
        digest=report.digest,
        failures=sum(report.failures.values()),
        unreachable=report.unreachable,
        bill=[asdict(line) for line in report.bill.lines if line.calls],
    )


class UnaskingStep:
    """A step that asks no model."""

    asks = False

    def check_keys(self) -> None:
        """There are none."""

    def estimate(self, work: Workshop, inputs: Inputs) -> Estimate | None:
        """Nothing is asked."""
        return None


class DatasetStep(UnaskingStep):
    """The episodes: a dataset that is there, or an import. Raises InputError, QueryError and UsageError for files that
    cannot be imported so."""

    needs: tuple[str, ...] = ()

    def __init__(self, name: str, source: DatasetSource, place: str) -> None:
        self.name, self.source = f"dataset {name}", source
        self._short, self._place = name, place
        if not source.ref:
            from sotopia_rl_data.importers.importing import check_import

            check_import(self._files, source.where)

    @property
    def _files(self) -> Sequence[str | Path]:
        from sotopia_rl_data.importers import samples_path

        return self.source.files or (samples_path(),)

    def settings(self) -> dict[str, Any]:
        """The files' content."""
        return {"where": self.source.where, "files": [_sha256(Path(file)) for file in self.source.files]}

    def run(self, work: Workshop, inputs: Inputs, key: str) -> StepResult:
        """Find it, or import it."""
        from sotopia_rl_data.importers.importing import import_dataset
        from sotopia_rl_data.importers.options import ImportOptions

        if self.source.ref:
            with at(self._place):
                version = resolve(work.store, self.source.ref)
            return StepResult(version.ref, version.digest)
        with at(self._place), work.doing("importing", "byte") as advance:
            report = import_dataset(
                work.store,
                self._files,
                f"{work.title}/{self._short}",
                options=ImportOptions(where=self.source.where),
                progress=lambda done, total: advance(done, total),
            )
        return StepResult(report.version.ref, report.version.digest)


class LabelStep:
    """Rewards by judges who are asked about a dataset's episodes; `dimensions` are all that they may have. Raises
    UsageError for what cannot be asked."""

    asks = True

    def __init__(self, name: str, spec: LabelSpec, source: DatasetStep) -> None:
        self.name, self._source = label_step(name), source
        self.needs: tuple[str, ...] = (source.name,)
        self._short = name
        asked = dict(spec.asked)
        recipe = dict(spec.recipe)
        self._asked = Elicitation(judges=spec.judges, packing=asked.pop("ask", None), **asked)
        self._rewards = RewardSettings(**recipe)
        with without_api_keys():
            plan, made = prepare(self._asked, self._rewards)
        self.recipe = made.as_dict()
        self.dimensions = tuple(dict.fromkeys([*plan.dimensions, *made.weights]))
        kind, judges = (plan.schema.id, plan.schema.measure), [judge.id for judge in plan.judges]
        self.held: Held = [(*kind, judge, sample) for judge, sample in product(judges, range(plan.samples))]
        self._settings = {"labels": plan.recipe(), "rewards": self.recipe, "layout": self._rewards.layout}

    def settings(self) -> dict[str, Any]:
        """What the version's recipe says of the labels and rewards."""
        return self._settings

    def check_keys(self) -> None:
        """Raises KeyMissing."""
        prepare(self._asked, self._rewards)

    def estimate(self, work: Workshop, inputs: Inputs) -> Estimate | None:
        """As `label --dry-run` says it. Before an import the files themselves are read."""
        made, source = inputs.get(self._source.name), self._source.source
        if made is None and (source.where or len(source.files) > 1):
            return None
        episodes = made.ref if made else Path(source.files[0]) if source.files else None
        return estimate_label(work.store, episodes, self._asked, self._rewards, work.options)

    def run(self, work: Workshop, inputs: Inputs, key: str) -> StepResult:
        """Ask, and make the rewards."""
        name = f"{work.title}/{self._short}"
        with work.doing("labelling", "call") as advance:
            options = replace(work.options, progress=advance)
            source = inputs[self._source.name].ref
            return reported(label(work.store, source, self._asked, self._rewards, out=name, options=options))


class RewardsStep(UnaskingStep):
    """Rewards made of the attributions of `origin`. Raises UsageError for a recipe that makes no sense, or that cannot
    be made of these."""

    def __init__(self, name: str, spec: LabelSpec, origin: LabelStep | RewardsStep) -> None:
        self.name = label_step(name)
        self.needs: tuple[str, ...] = (origin.name,)
        self._short, self._spec = name, spec
        self.held: Held = origin.held
        recipe = self._remade(origin.recipe)
        check_opinions(recipe, self.held)
        self.recipe: dict[str, Any] = recipe.as_dict()
        self.dimensions: tuple[str, ...] = tuple(dict.fromkeys([*origin.dimensions, *recipe.weights]))

    def settings(self) -> dict[str, Any]:
        """What is changed of the recipe."""
        return dict(self._spec.recipe)

    def run(self, work: Workshop, inputs: Inputs, key: str) -> StepResult:
        """Make them."""
        from sotopia_rl_data.rewards.build import remake

        (needed,) = self.needs
        source = work.store.resolve(inputs[needed].ref)
        recipe = self._remade(source.manifest.recipe["rewards"])
        with work.doing("rewards", "utterance") as advance:
            made = remake(
                work.store,
                source,
                recipe,
                layout=self._spec.recipe.get("layout", "single"),
                out=f"{work.title}/{self._short}",
                progress=lambda done: advance(done),
            )
        return StepResult(made.version.ref, made.version.digest)

    def _remade(self, own: Mapping[str, Any]) -> Recipe:
        from sotopia_rl_data.rewards.build import remade_recipe

        changes = {key: value for key, value in self._spec.recipe.items() if key not in ("preset", "layout")}
        return remade_recipe(own, self._spec.recipe.get("preset"), changes)


class EvaluateStep:
    """The scores of so many episodes that are played. Raises UsageError for judges that cannot be asked."""

    asks = True

    def __init__(self, name: str, played: str, episodes: int, asked: Elicitation) -> None:
        self.name = name
        self.needs: tuple[str, ...] = (played,)
        self._asked, self.calls = asked, episodes * len(asked.judges)
        with without_api_keys():
            self._settings = evaluation_plan(asked).recipe()

    def settings(self) -> dict[str, Any]:
        """Who scores, and how."""
        return self._settings

    def check_keys(self) -> None:
        """Raises KeyMissing."""
        evaluation_plan(self._asked)

    def estimate(self, work: Workshop, inputs: Inputs) -> Estimate | None:
        """As `evaluate --dry-run` says it; None where the episodes are not there."""
        made = inputs.get(self.needs[0])
        return None if made is None else estimate_evaluation(work.store, made.ref, self._asked, options=work.options)

    def run(self, work: Workshop, inputs: Inputs, key: str) -> StepResult:
        """Ask; the scores are the dataset's next version."""
        with work.doing("evaluating", "call") as advance:
            options = replace(work.options, progress=advance)
            return reported(evaluate(work.store, inputs[self.needs[0]].ref, self._asked, options=options))


def _sha256(path: Path) -> str:
    """Of a file, or of all files in a folder by their names."""
    if path.is_dir():
        named = [f"{file.relative_to(path)} {_sha256(file)}" for file in sorted(path.rglob("*")) if file.is_file()]
        return hashlib.sha256("\n".join(named).encode()).hexdigest()
    return file_sha256(path)
