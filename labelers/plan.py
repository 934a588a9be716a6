"""What judges will be asked: the schema's questions about every episode, for each judge and sample.

A plan is pure: the same episodes and the same plan always give the same requests in the same order. So they are made
more than once rather than kept: to count, to ask, and to read the ledger. Whatever can be wrong with a plan is found
before anything is asked or written (`prepare`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from sotopia_rl_data.asking.providers import ModelName
from sotopia_rl_data.dimensions import SOTOPIA_EVAL, full_name, in_order, is_known, with_scored
from sotopia_rl_data.errors import BadAnswer, InputError, UsageError
from sotopia_rl_data.labelers import judges as judging
from sotopia_rl_data.labelers.judge import Judge, Question, Slot
from sotopia_rl_data.labelers.requests import JudgeRequest, request_of, target_of
from sotopia_rl_data.labelers.schemas import Schema, in_wording, own_dimensions, wording_of
from sotopia_rl_data.labelers.schemas import schema as find_schema
from sotopia_rl_data.labelers.schemas.phrasing import FIRST, Packing
from sotopia_rl_data.labelers.schemas.rubric import Rubric
from sotopia_rl_data.labelers.selection import Selection, episodes_version, read_selection
from sotopia_rl_data.rewards import Recipe
from sotopia_rl_data.rewards import preset as find_preset
from sotopia_rl_data.schema import Episode
from sotopia_rl_data.store import Store, Version

if TYPE_CHECKING:
    from sotopia_rl_data.prompts import Layout, Template

Files = Mapping[str, Sequence[Path]]

# Columns of the episodes that no schema asks about. They are not read, since observations are most of the bytes.
_UNREAD = ("observations", "reasoning")


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

    def questions(self, episode: Episode) -> Iterator[Question]:
        """The questions about an episode, the same for every judge. They are made one at a time: each may hold all that
        was said until its turn, so that those about a long dialogue have gigabytes."""
        all_ = self.schema.questions(episode, self.dimensions, self.evaluator, self.packing, self.scale)
        return (question for question in all_ if self.only is None or self.only.wants(question))

    def requests(self, episodes: Iterable[Episode], judge: Judge) -> Iterator[JudgeRequest]:
        """Every request to `judge`, episode after episode, so that requests that share a prefix follow each other."""
        target = target_of(judge)
        for episode in episodes:
            for question in self._worth_caching(episode):
                for sample in range(self.samples):
                    yield request_of(question, target, sample)

    def units(self, episode: Episode) -> list[tuple[str, int]]:
        """(agent, turn) of everything that gets labels or failures: each utterance; or, where a schema judges an
        `episode` as a whole, each agent with turn -1."""
        if getattr(self.schema, "of", "utterance") == "episode":
            return [(agent.agent, -1) for agent in episode.agents]
        return [(turn.agent, turn.turn) for turn in episode.turns]

    def _worth_caching(self, episode: Episode) -> Iterator[Question]:
        """The questions about an episode. Where no other call shares a question's prefix, only the task is cached,
        which other episodes share: writing to the cache costs extra at Anthropic."""
        sharing = Counter(map(_prefix, self.questions(episode))) if self.samples == 1 else Counter[int]()
        for question in self.questions(episode):
            if sharing[_prefix(question)] == 1:
                question = replace(question, cache_until=min(question.cache_until, 1))
            yield question

    def read(self, question: Question, text: str) -> dict[Slot, float]:
        """The number of every slot. Raises BadAnswer, also where the schema gives too few numbers or one out of
        range."""
        values = self.schema.read(question, text)
        for slot in question.slots.values():
            low, high = self.schema.bounds(self.scale, slot.dimension)
            value = values.get(slot)
            if value is None or not low <= value <= high:
                raise BadAnswer(f"{slot.dimension} of turn {slot.turn} is {value}, outside {low:g} to {high:g}")
        return values

    def reasons(self, question: Question, text: str) -> dict[Slot, str]:
        """The judge's reasons, where the schema asks for them. `text` is one that `read` accepts."""
        reasons = getattr(self.schema, "reasons", None)
        return {} if reasons is None else dict(reasons(question, text))

    @property
    def needs_score(self) -> bool:
        """Whether labels mean nothing without the episode's score."""
        return getattr(self.schema, "needs_score", True)

    @property
    def rubric(self) -> Rubric | None:
        """The rubric that the schema asks by, if any."""
        rubric = getattr(self.schema, "rubric", None)
        return rubric if isinstance(rubric, Rubric) else None

    def recipe(self) -> dict[str, Any]:
        """The part of the plan that determines the rows, for the manifest's recipe. It holds no URLs."""
        recipe: dict[str, Any] = {
            "schema": self.schema.id,
            "schema_version": self.schema.version,
            "dimensions": list(self.dimensions),
            "evaluator": self.evaluator,
        }
        if self.judges:
            judges = [_judge_recipe(judge) for judge in self.judges]
            recipe |= {"ask": self.packing, "samples": self.samples, "judges": judges}
            # Recipes of before there were several wordings say nothing, and their digests must stay what they are.
            if wording_of(self.schema) not in (None, FIRST):
                recipe["wording"] = wording_of(self.schema)
        if self.rubric is not None:
            recipe["rubric_sha256"] = self.rubric.sha256
        if self.only is not None:
            recipe["only_sha256"] = self.only.sha256
        return recipe


def _prefix(question: Question) -> int:
    """A hash of what providers can cache of a question."""
    shared = question.messages[: question.cache_until]
    return hash((repr(question.answer_schema), *(message["content"] for message in shared)))


def _judge_recipe(judge: Judge) -> dict[str, Any]:
    target = target_of(judge)
    return {"judge": judge.id, "provider": target.provider, "sampling": dict(target.sampling)}


def check_can_ask(packing: str, samples: int) -> None:
    """Raises UsageError for an unknown packing, and for fewer than one sample."""
    if packing not in get_args(Packing):
        raise UsageError(
            f"The packing {packing!r} does not exist.", f"use --ask {' or --ask '.join(get_args(Packing))}"
        )
    if samples < 1:
        raise UsageError(f"The number of samples is {samples}, but it must be 1 or more.", "set it with --samples 1")


def episodes_of(files: Iterable[Path]) -> Iterator[Episode]:
    """The episodes of some Parquet files, in the files' order, without observations and reasoning. Raises InputError
    where one is too long for prompts."""
    import pyarrow.parquet as pq

    from sotopia_rl_data.tables import EPISODES, episode_to_ask_about

    columns = [name for name in EPISODES.names if name not in _UNREAD]
    for path in files:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(128, columns=columns):
                for row in batch.to_pylist():
                    yield episode_to_ask_about(row | {"observations": [], "reasoning": ""})


DEFAULT_PRESET = "sotopia-rl"
DEFAULT_SCHEMA = "direct"
DEFAULT_SCALE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Elicitation:
    """What judges are asked. None stands for the command's own default; an audit takes it from the labels it looks at.

    `judges` are specs ("gpt-4o", "openai:MODEL@URL" …), models of a judges file (ModelName), or Judges. `schema` says
    what they are asked about an episode. `dimensions` are by default those that the reward weighs (for `sotopia-rl`:
    goal, relationship, knowledge). `scale` is the highest level of importance: 3, 5 or 10. `packing` is
    "per-dimension", one call for each agent and dimension as in the paper, or "packed", one call for each episode.
    `evaluator` names the evaluator whose episode scores are attributed, if there are several. `samples` is how often
    every question is asked. `only` is a CSV of what to ask about. `sampling` (temperature, max_tokens …) overrides the
    judges' defaults. `wording` is how episodes are shown to judges: "v1" or "v2" (default: the newest).
    """

    judges: Sequence[str | ModelName | Judge] = ()
    schema: str | None = None
    dimensions: Sequence[str] | None = None
    scale: int | None = None
    packing: Packing | None = None
    evaluator: str | None = None
    samples: int = 1
    only: Path | None = None
    sampling: Mapping[str, Any] | None = None
    wording: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSettings:
    """How rewards are made of the answers. `preset` names their recipe; None is `sotopia-rl` with the schema's own
    rule. `weights` take the place of the recipe's. `average` says how the opinions of judges and samples are joined
    ("mean" or "median"; default: the preset's). `layout` and `template` say how the rows' prompts are written."""

    preset: str | None = None
    weights: Mapping[str, float] | None = None
    average: str | None = None
    layout: Layout = "single"
    template: Template | None = None


def prepare(asked: Elicitation, rewards: RewardSettings) -> tuple[LabelPlan, Recipe]:
    """The plan and the reward recipe that goes with it. Where no evaluator is named, `with_episodes` fills it in.

    Raises UsageError and KeyMissing.
    """
    from sotopia_rl_data.prompts import layout_id

    chosen = in_wording(find_schema(asked.schema or DEFAULT_SCHEMA), asked.wording)
    own = own_dimensions(chosen)
    named = asked.dimensions
    if named is None and own:
        named = own
    recipe = _recipe(chosen, rewards.preset, asked.evaluator, dimensions_of(named or (), own) if own else ())
    if rewards.weights is not None:
        recipe = replace(recipe, weights=rewards.weights)
    if rewards.average is not None:
        recipe = replace(recipe, average=rewards.average)  # type: ignore[arg-type]  # Recipe checks the average
    dimensions = _asked_dimensions(recipe.weighted if named is None else named, own, recipe)
    _check_weighted(recipe, dimensions, own)
    packing, scale = asked.packing or "per-dimension", DEFAULT_SCALE if asked.scale is None else asked.scale
    check_can_ask(packing, asked.samples)
    chosen.wording_sha256(scale)  # raises UsageError where no prompt explains this scale
    layout_id(rewards.layout, rewards.template)  # raises UsageError where the template is for another layout
    if asked.only is not None and not chosen.needs_judge:
        raise UsageError(f"The schema {chosen.id!r} asks no judge, so --only does not apply to it.", "leave --only out")
    known = own or with_scored(dimensions)
    only = None if asked.only is None else read_selection(asked.only, known)
    judges = _judges(chosen, asked.judges, asked.sampling, known)
    return LabelPlan(chosen, dimensions, asked.evaluator or "", judges, scale, packing, asked.samples, only), recipe


def with_episodes(plan: LabelPlan, store: Store, source: str | Path | None) -> tuple[Version, LabelPlan]:
    """The version with the episodes to label, imported where `source` is a file, and the plan with its evaluator filled
    in. Raises NotFound, InputError, and UsageError where several evaluators scored the episodes and none is named."""
    from sotopia_rl_data.rewards.resolve import choose_evaluator, scored_by

    def choose(scored: Set[tuple[str, str]]) -> str:
        names = {evaluator for dimension, evaluator in scored if dimension in plan.dimensions}
        known = sorted({dimension for dimension, _ in scored})
        own = own_dimensions(plan.schema)
        unknown = [name for name in plan.dimensions if not (name in own or is_known(name) or name in known)]
        if unknown:
            listed = in_order([*(one.name for one in SOTOPIA_EVAL), *known])
            raise UsageError(
                f"{unknown[0]!r} is not a SOTOPIA-EVAL dimension, and no episode has a score on it.",
                f"name one of: {', '.join(listed)}",
            )
        try:
            return choose_evaluator(names, plan.evaluator or None, plan.dimensions, plan.needs_score)
        except InputError as error:
            weights = ",".join(f"{dimension}=1" for dimension in known)
            hint = f"weigh what is scored: --weights {weights}" if weights else error.hint
            raise InputError(error.message, hint) from error

    def check(scored: Set[tuple[str, str]] | None) -> None:
        choose(scored or set())

    version = episodes_version(store, source, check)
    files = [path for paths in version.files("episodes").values() for path in paths]
    return version, replace(plan, evaluator=choose(scored_by(files)))


def check_named(plan: LabelPlan, calls: int) -> None:
    """Raises UsageError where `only` leaves nothing to ask, so that no utterance would have a reward."""
    if plan.only is not None and plan.judges and not calls:
        raise UsageError(
            f"The list of --only names nothing that the schema {plan.schema.id!r} asks about in these episodes.",
            "compare the list with the ids, agents and scores of the episodes",
        )


def _recipe(schema: Schema, preset: str | None, evaluator: str | None, own: Sequence[str]) -> Recipe:
    """The preset's recipe, made to read this schema's attributions. Without a preset: the default preset's recipe with
    the schema's rule and, where the schema has `own` dimensions, with these weighed equally."""
    from sotopia_rl_data.rewards.rules import rule

    recipe = find_preset(preset or DEFAULT_PRESET)
    if preset is None:
        weights = dict.fromkeys(own, 1.0) or recipe.weights
        recipe = replace(recipe, rule=schema.rule, weights=weights)  # type: ignore[arg-type]  # Recipe checks the rule
    measure = rule(recipe.rule).measure
    if measure is not None and (measure != schema.measure or not schema.needs_judge):
        if preset is None:
            needing, hint = f"The rule {recipe.rule!r}", "give the schema a `rule` that fits its `measure`"
        else:
            needing, hint = f"The preset {preset!r}", "leave --preset out, or name a preset that fits the schema"
        raise UsageError(f"{needing} needs {measure!r} attributions, but the schema {schema.id!r} yields none.", hint)
    return replace(recipe, evaluator=evaluator, schema=schema.id if measure else None)


def _check_weighted(recipe: Recipe, asked: Sequence[str], own: Sequence[str]) -> None:
    missing = [name for name in recipe.weighted if name not in asked]
    if not missing:
        return
    hint = f"label all of them: --dimensions {','.join([*asked, *missing])}; or name another --preset"
    if own and not set(missing) <= set(own):
        hint = f"leave --preset out, or name a preset file of yours that weighs {', '.join(own)}"
    raise UsageError(f"The rewards weigh {', '.join(missing)}, but this run would label only {', '.join(asked)}.", hint)


def _asked_dimensions(names: Sequence[str], own: Sequence[str], recipe: Recipe) -> tuple[str, ...]:
    """As `dimensions_of`, where the episodes may have scores on dimensions of their own if the recipe weighs these:
    `with_episodes` looks."""
    if own:
        return dimensions_of(names, own)
    theirs = [name.strip() for name in names if not is_known(name) and name.strip() in recipe.weighted]
    return in_order([*(full_name(name) for name in names if name.strip() not in theirs), *theirs]) or dimensions_of(())


def dimensions_of(names: Sequence[str], own: Sequence[str] = ()) -> tuple[str, ...]:
    """Full names, each once, in a fixed order: the order of `names` must not change what is asked. `own` are the
    dimensions of a schema that does not ask about SOTOPIA-EVAL's. Raises UsageError."""
    dimensions = in_order(full_name(name, own) for name in names)
    if not dimensions:
        raise UsageError(
            "No dimension is named, but at least one is needed.",
            f"name dimensions as in --dimensions {','.join(own) or 'goal,relationship,knowledge'}",
        )
    return dimensions


def _judges(
    schema: Schema,
    named: Sequence[str | ModelName | Judge],
    sampling: Mapping[str, Any] | None,
    dimensions: Sequence[str],
) -> tuple[Judge, ...]:
    """The judges, made at once, so that a missing API key is found now. Raises UsageError, KeyMissing."""
    if not schema.needs_judge:
        if named:
            raise UsageError(f"The schema {schema.id!r} asks no judge, but a judge is named.", "leave --judge out")
        return ()
    return judges_of(named, sampling, dimensions)


def judges_of(
    named: Sequence[str | ModelName | Judge], sampling: Mapping[str, Any] | None, dimensions: Sequence[str] = ()
) -> tuple[Judge, ...]:
    """The judges that are named: one or more, no two with the same id. `dimensions` are those that people may
    name (empty: SOTOPIA-EVAL's). `sampling` goes only to the models among the judges: people have no temperature.

    Raises UsageError, KeyMissing."""
    if not named:
        raise UsageError("No judge is named, but at least one is needed.", f"add --judge with one of: {judging.FORMS}")
    models = [spec for spec in named if isinstance(spec, (str, ModelName)) and judging.samples(spec)]
    judges: list[Judge] = []
    for spec in named:
        if isinstance(spec, (str, ModelName)):
            # Only models take `sampling`. Where no judge is a model, the others get it too, and `judging.judge` raises.
            takes_sampling = spec in models or not models
            judges.append(judging.judge(spec, sampling if takes_sampling else None, dimensions))
        else:
            judges.append(spec)
    ids = [judge.id for judge in judges]
    twice = next((name for name in ids if ids.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            f"Two judges are called {twice!r}, so their rows could not be told apart.",
            "name each judge once; people get a name of their own by human:FILE.csv#NAME",
        )
    for judge in judges:
        target_of(judge)  # raises UsageError where the `target` of the judge is not a Target
    return tuple(judges)
