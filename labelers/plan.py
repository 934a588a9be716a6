"""What judges will be asked: the schema's questions about every episode, for each judge and sample.

A plan is pure: the same episodes and the same plan give the same requests in the same order, however often they are
made. They are made once to count, once to ask, and once to read the ledger. What can be wrong with one is
found before anything is asked or written (`prepare`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from sotopia_rl_data.dimensions import full_name, in_order
from sotopia_rl_data.errors import BadAnswer, UsageError
from sotopia_rl_data.labelers import judges as judging
from sotopia_rl_data.labelers.judge import Judge, Question, Slot
from sotopia_rl_data.labelers.requests import JudgeRequest, request_of, target_of
from sotopia_rl_data.labelers.schemas import Schema, own_dimensions
from sotopia_rl_data.labelers.schemas import schema as find_schema
from sotopia_rl_data.labelers.schemas.phrasing import Packing
from sotopia_rl_data.labelers.schemas.rubric import Rubric
from sotopia_rl_data.labelers.selection import Selection, read_selection
from sotopia_rl_data.labelers.source import episodes_version
from sotopia_rl_data.rewards import Recipe
from sotopia_rl_data.rewards import preset as find_preset
from sotopia_rl_data.schema import Episode
from sotopia_rl_data.store import Store, Version

if TYPE_CHECKING:
    from sotopia_rl_data.prompts import Layout, Template

Files = Mapping[str, Sequence[Path]]

_UNREAD = ("observations", "reasoning")  # what no schema asks about; observations are most of an episode's bytes


@dataclass(frozen=True, slots=True)
class LabelPlan:
    """Everything that determines what is asked and how it is read."""

    schema: Schema
    dimensions: tuple[str, ...]
    evaluator: str
    judges: tuple[Judge, ...] = ()
    scale: int = 3
    packing: Packing = "per-dimension"
    samples: int = 1
    only: Selection | None = None

    def questions(self, episode: Episode) -> list[Question]:
        """The questions about an episode, whoever is asked."""
        all_ = self.schema.questions(episode, self.dimensions, self.evaluator, self.packing, self.scale)
        return [question for question in all_ if self.only is None or self.only.wants(question)]

    def requests(self, episodes: Iterable[Episode], judge: Judge) -> Iterator[JudgeRequest]:
        """Every request to `judge`, episode after episode: those that share a prefix follow each other."""
        target = target_of(judge)
        for episode in episodes:
            for question in self._worth_caching(self.questions(episode)):
                for sample in range(self.samples):
                    yield request_of(question, target, sample)

    def units(self, episode: Episode) -> list[tuple[str, int]]:
        """(agent, turn) of what ends in labels or in failures: utterances; or, where a schema judges an `episode` as a
        whole, each agent at turn -1."""
        if getattr(self.schema, "of", "utterance") == "episode":
            return [(one.agent, -1) for one in episode.agents]
        return [(turn.agent, turn.turn) for turn in episode.turns]

    def _worth_caching(self, questions: Sequence[Question]) -> list[Question]:
        """The same questions; one whose prefix no other shares has nothing but the task cached, which other episodes
        share: writing to a cache costs extra at Anthropic."""
        together = Counter(map(_prefix, questions))
        return [
            question
            if self.samples > 1 or together[_prefix(question)] > 1
            else replace(question, cache_until=min(question.cache_until, 1))
            for question in questions
        ]

    def read(self, question: Question, text: str) -> dict[Slot, float]:
        """The number of every slot. Raises BadAnswer, also where a schema gives too few or what is out of range."""
        values = self.schema.read(question, text)
        for slot in question.slots.values():
            low, high = self.schema.bounds(self.scale, slot.dimension)
            value = values.get(slot)
            if value is None or not low <= value <= high:
                raise BadAnswer(f"{slot.dimension} of turn {slot.turn} is {value}, outside {low:g} to {high:g}")
        return values

    def reasons(self, question: Question, text: str) -> dict[Slot, str]:
        """Why, in the judge's words, for the slots whose schema asks for that. `text` is one that `read` takes."""
        told = getattr(self.schema, "reasons", None)
        return {} if told is None else dict(told(question, text))

    @property
    def needs_score(self) -> bool:
        """Whether a label means nothing where the episode's score is missing."""
        return getattr(self.schema, "needs_score", True)

    @property
    def rubric(self) -> Rubric | None:
        """The rubric that is asked by, where there is one."""
        found = getattr(self.schema, "rubric", None)
        return found if isinstance(found, Rubric) else None

    def recipe(self) -> dict[str, Any]:
        """What of the plan determines the rows: for the manifest's recipe. URLs are not in it."""
        made: dict[str, Any] = {
            "schema": self.schema.id,
            "schema_version": self.schema.version,
            "dimensions": list(self.dimensions),
            "evaluator": self.evaluator,
        }
        if self.judges:
            made |= {"ask": self.packing, "samples": self.samples, "judges": [_who(judge) for judge in self.judges]}
        if self.rubric is not None:
            made["rubric_sha256"] = self.rubric.sha256
        if self.only is not None:
            made["only_sha256"] = self.only.sha256
        return made


def _prefix(question: Question) -> tuple[str, ...]:
    shared = question.messages[: question.cache_until]
    return repr(question.answer_schema), *(message["content"] for message in shared)


def _who(judge: Judge) -> dict[str, Any]:
    target = target_of(judge)
    return {"judge": judge.id, "provider": target.provider, "sampling": dict(target.sampling)}


def check_can_ask(packing: str, samples: int) -> None:
    """Raises UsageError for a way to ask that does not exist, and for fewer than one sample."""
    if packing not in get_args(Packing):
        raise UsageError(f"{packing!r} is not a way to ask.", f"use {' or '.join(get_args(Packing))}")
    if samples < 1:
        raise UsageError(f"There cannot be {samples} samples.", "ask for one or more")


def episodes_of(files: Iterable[Path]) -> Iterator[Episode]:
    """The episodes of some Parquet files, in the files' order, without what no schema asks about."""
    import pyarrow.parquet as pq

    from sotopia_rl_data.tables import EPISODES, row_episode

    columns = [name for name in EPISODES.names if name not in _UNREAD]
    for path in files:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(128, columns=columns):
                for row in batch.to_pylist():
                    yield row_episode(row | {"observations": [], "reasoning": ""})


DEFAULT_PRESET = "sotopia-rl"
DEFAULT_SCHEMA = "direct"
DEFAULT_SCALE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Elicitation:
    """What judges are asked. None stands for the default of the command: what `label` asks without further words, or
    what the labels were asked by that an audit looks at.

    `judges` are specs ("gpt-4o", "openai:MODEL@URL" …) or Judge objects. `schema` says how credit is asked for.
    `dimensions` are by default those that the reward weighs (for `sotopia-rl`: goal, relationship, knowledge). `scale`
    is the top of the importance levels: 3, 5 or 10. `packing` is "per-dimension", one call for each agent and dimension
    as the paper asks, or "packed", one call an episode. `evaluator` names whose episode scores are attributed, where
    several gave some. `samples` repeats every question. `only` is a CSV that names what to ask about.
    `sampling` (temperature, max_tokens …) is laid over the judges' defaults.
    """

    judges: Sequence[str | Judge] = ()
    schema: str | None = None
    dimensions: Sequence[str] | None = None
    scale: int | None = None
    packing: Packing | None = None
    evaluator: str | None = None
    samples: int = 1
    only: Path | None = None
    sampling: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSettings:
    """What is made of the answers. `preset` names the reward recipe; None is `sotopia-rl` with the schema's own rule.
    `average` joins the opinions of judges and samples ("mean" or "median"; default: the preset's). `layout` and
    `template` say how the rows' prompts are written."""

    preset: str | None = None
    average: str | None = None
    layout: Layout = "single"
    template: Template | None = None


def prepare(asked: Elicitation, rewards: RewardSettings) -> tuple[LabelPlan, Recipe]:
    """The plan, but for its evaluator where none is named, and the reward recipe that goes with it.

    Raises UsageError and KeyMissing.
    """
    from sotopia_rl_data.prompts import layout_id

    chosen = find_schema(asked.schema or DEFAULT_SCHEMA)
    own = own_dimensions(chosen)
    named = own or None if asked.dimensions is None else asked.dimensions
    recipe = _recipe(chosen, rewards.preset, asked.evaluator, dimensions_of(named or (), own) if own else ())
    if rewards.average is not None:
        recipe = replace(recipe, average=rewards.average)  # type: ignore[arg-type]  # Recipe raises where it is none
    dimensions = dimensions_of(recipe.weighted if named is None else named, own)
    _check_weighted(recipe, dimensions, own)
    packing, scale = asked.packing or "per-dimension", DEFAULT_SCALE if asked.scale is None else asked.scale
    check_can_ask(packing, asked.samples)
    chosen.wording_sha256(scale)  # raises where the scale is not worded
    layout_id(rewards.layout, rewards.template)  # raises where the template is of another layout
    if asked.only is not None and not chosen.needs_judge:
        raise UsageError(f"The schema {chosen.id!r} asks nobody.", "leave --only out")
    only = None if asked.only is None else read_selection(asked.only, own)
    judges = _judges(chosen, asked.judges, asked.sampling)
    return LabelPlan(chosen, dimensions, asked.evaluator or "", judges, scale, packing, asked.samples, only), recipe


def with_episodes(plan: LabelPlan, store: Store, source: str | Path | None) -> tuple[Version, LabelPlan]:
    """The episodes to label, imported where they are a file, and the plan with the evaluator whose scores are traced.

    Raises NotFound, InputError, and UsageError where several evaluators scored them and none was named.
    """
    from sotopia_rl_data.rewards.resolve import choose_evaluator, evaluators

    def choose(found: Set[str]) -> str:
        return choose_evaluator(found, plan.evaluator or None, plan.dimensions, plan.needs_score)

    def check(scored: Set[tuple[str, str]] | None) -> None:
        choose({evaluator for name, evaluator in scored or () if name in plan.dimensions})

    version = episodes_version(store, source, check)
    files = [path for paths in version.files("episodes").values() for path in paths]
    return version, replace(plan, evaluator=choose(evaluators(files, plan.dimensions)))


def check_named(plan: LabelPlan, calls: int) -> None:
    """Raises UsageError where `only` leaves nothing to ask of anybody, so that all there is would have no reward."""
    if plan.only is not None and plan.judges and not calls:
        raise UsageError(
            "The list of --only names nothing that is asked about here.",
            'compare it with: sotopia-rl-data query REF "SELECT episode_id, agents, scores FROM episodes"',
        )


def _recipe(schema: Schema, preset: str | None, evaluator: str | None, own: Sequence[str]) -> Recipe:
    """The preset's recipe, reading this schema's attributions; without a preset, the default one's with its rule, and
    `own` dimensions, where the schema has some, weighed alike."""
    from sotopia_rl_data.rewards.rules import rule

    recipe = find_preset(preset or DEFAULT_PRESET)
    if preset is None:
        weights = dict.fromkeys(own, 1.0) or recipe.weights
        recipe = replace(recipe, rule=schema.rule, weights=weights)  # type: ignore[arg-type]  # Recipe raises
    measure = rule(recipe.rule).measure
    if measure is not None and (measure != schema.measure or not schema.needs_judge):
        raise UsageError(
            f"The preset {preset!r} reads {measure!r} attributions, and the schema {schema.id!r} yields none.",
            "leave --preset out, or name one that fits the schema",
        )
    return replace(recipe, evaluator=evaluator, schema=schema.id if measure else None)


def _check_weighted(recipe: Recipe, asked: Sequence[str], own: Sequence[str]) -> None:
    missing = [name for name in recipe.weighted if name not in asked]
    if not missing:
        return
    hint = f"ask about them too: --dimensions {','.join([*asked, *missing])}; or name another --preset"
    if own and not set(missing) <= set(own):
        hint = f"leave --preset out, or name a file of yours that weighs {', '.join(own)}"
    raise UsageError(f"The rewards weigh {', '.join(missing)}, about which no judge would be asked.", hint)


def dimensions_of(names: Sequence[str], own: Sequence[str] = ()) -> tuple[str, ...]:
    """Full names, each once, in order: how they were listed must not change what is asked. `own` are those of a schema
    that does not ask about SOTOPIA-EVAL's. Raises UsageError."""
    found = in_order(full_name(name, own) for name in names)
    if not found:
        raise UsageError("No dimension is named.", "name one or more, as in --dimensions goal,relationship,knowledge")
    return found


def _judges(schema: Schema, named: Sequence[str | Judge], sampling: Mapping[str, Any] | None) -> tuple[Judge, ...]:
    """The judges, made, so that a missing key is found now. Raises UsageError, KeyMissing."""
    if not schema.needs_judge:
        if named:
            raise UsageError(f"The schema {schema.id!r} asks nobody.", "leave --judge out")
        return ()
    return judges_of(named, sampling, own_dimensions(schema))


def judges_of(
    named: Sequence[str | Judge], sampling: Mapping[str, Any] | None, dimensions: Sequence[str] = ()
) -> tuple[Judge, ...]:
    """One judge or more, no two of one name, made; `dimensions` where they are asked about other than SOTOPIA-EVAL's.
    `sampling` is for those that sample: people beside a model have no temperature.

    Raises UsageError, KeyMissing."""
    if not named:
        raise UsageError("No judge is named.", f"add --judge: {judging.FORMS}")
    take = {one for one in named if isinstance(one, str) and judging.samples(one)}
    made = tuple(
        judging.judge(one, sampling if one in take or not take else None, dimensions) if isinstance(one, str) else one
        for one in named
    )
    ids = [judge.id for judge in made]
    twice = next((name for name in ids if ids.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"Two judges are called {twice!r}, so their rows could not be told apart.", "name each once")
    for judge in made:
        target_of(judge)
    return made
