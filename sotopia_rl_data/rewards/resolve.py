"""A recipe resolved against a version: which opinions it reads, on which dimensions, and whose scores are G.

Most of what is needed is in the footers of the version's files. An episode may be scored by several evaluators, and an
utterance judged under several schemas; a reward uses one of each, and where there are several the recipe must name it.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sotopia_rl_data.dimensions import in_order, is_known
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.rewards.recipe import Recipe
from sotopia_rl_data.rewards.rules import Rule, rule
from sotopia_rl_data.streams import opened, read

Files = Mapping[str, Sequence[Path]]
"""Split -> Parquet files in key order."""

Opinion = tuple[str, int]
"""(judge, sample)."""

# At most this many numbers are held in memory at a time (4 MiB).
CELLS = 1 << 19


@dataclass(frozen=True, slots=True)
class ResolvedRecipe:
    """A recipe's choices, resolved against what the version holds.

    `opinions` are the (judge, sample) in order: none where the rule needs no judge, or no answer could be read.
    `filters` maps a column of the attributions to the one value that counts, where the files hold others. `cells` is
    how many numbers (utterances, dimensions, opinions) are worked on at a time. `ranges` are those of the scores on
    dimensions of the source's own.
    """

    rule: Rule
    gamma: float
    dimensions: tuple[str, ...]
    opinions: tuple[Opinion, ...]
    evaluator: str
    schema: str | None
    filters: Mapping[str, str | int]
    cells: int = CELLS
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def judged(self) -> bool:
        """Whether the rule reads attributions."""
        return self.rule.measure is not None

    @property
    def layers(self) -> int:
        """How many values of r an utterance and dimension have: one for each opinion, and one where there is no
        opinion."""
        return max(1, len(self.opinions))

    @property
    def columns(self) -> list[str]:
        """The columns read of the attributions: judge and sample only where there is more than one opinion."""
        opinion = ["judge", "sample"] if len(self.opinions) > 1 else []
        named = dict.fromkeys([*opinion, *self.filters])
        return ["episode_id", "agent", "turn", "dimension", "raw", "scale_min", "scale_max", *named]

    @property
    def chunk_rows(self) -> int:
        """How many utterances are in memory at a time."""
        return max(1, self.cells // (len(self.dimensions) * self.layers))


def resolve(
    recipe: Recipe, episodes: Files, attributions: Files, dimensions: Sequence[str] | None = None, cells: int = CELLS
) -> ResolvedRecipe:
    """The recipe for these files.

    `dimensions` are those that judges were asked about (None: those of the attributions). Raises UsageError where the
    recipe does not fit them, or does not say which schema or evaluator it means; InputError where no episode has a
    score.
    """
    chosen = rule(recipe.rule)
    judged = [path for paths in attributions.values() for path in paths] if chosen.measure else []
    held = distinct(judged, ("schema", "measure", "judge", "sample"))
    chosen = _over(recipe, held)
    schema, opinions, filters = _opinions_read(recipe, chosen, held, may_be_empty=dimensions is not None)
    columns = _dimensions_read(recipe, chosen, judged, dimensions)
    scores = [path for paths in episodes.values() for path in paths]
    scored = evaluators(scores, recipe.weighted) or evaluators(scores, columns)
    evaluator = choose_evaluator(scored, recipe.evaluator, columns, needed=chosen.reads_score)
    ranges = own_ranges(scores, columns)
    return ResolvedRecipe(chosen, recipe.gamma, columns, tuple(opinions), evaluator, schema, filters, cells, ranges)


def check_opinions(recipe: Recipe, held: Collection[tuple[Any, ...]]) -> None:
    """Raises UsageError where the recipe cannot be made of attributions that have these (schema, measure, judge,
    sample)."""
    _opinions_read(recipe, _over(recipe, held), held, may_be_empty=False)


def _over(recipe: Recipe, held: Collection[tuple[Any, ...]]) -> Rule:
    """The recipe's rule, over what the attributions measure."""
    return rule(recipe.rule).over({measure for schema, measure, *_ in held if recipe.schema in (None, schema)})


def _opinions_read(
    recipe: Recipe, chosen: Rule, held: Collection[tuple[Any, ...]], may_be_empty: bool
) -> tuple[str | None, list[Opinion], dict[str, str | int]]:
    """The schema, its opinions in order, and the columns that must be filtered by their value; `held` has the (schema,
    measure, judge, sample) of the attributions.

    Raises UsageError where the attributions have no answers of the rule's kind, or several schemas of which the recipe
    names none. No attributions at all are allowed if `may_be_empty`: then every answer failed.
    """
    if chosen.measure is None:
        return None, [], {}
    measures = {measure for _, measure, _, _ in held}
    if not held and may_be_empty:
        return recipe.schema, [], {}
    if chosen.measure not in measures:
        present = f"only {_named(measures)} attributions" if measures else "none"
        raise UsageError(
            f"The rule {chosen.id!r} needs {chosen.measure!r} attributions, but there are {present}.",
            "label with a schema that asks for them, or name a rule that needs no judge: --rule uniform",
        )
    schemas = {schema for schema, measure, _, _ in held if measure == chosen.measure}
    schema = recipe.schema or min(schemas)
    if schema not in schemas:
        raise UsageError(
            f"No attribution is by the schema {schema!r}, which the recipe names.", f"name one of: {_named(schemas)}"
        )
    if len(schemas) > 1 and not recipe.schema:
        raise UsageError(
            f"The attributions are by the schemas {_named(schemas)}, and the recipe does not say which to use.",
            f"say which: --schema {min(schemas)}, or `schema: {min(schemas)}` in a recipe",
        )
    opinions = sorted((judge, sample) for s, m, judge, sample in held if (s, m) == (schema, chosen.measure))
    wanted = {name: value for name, value in (("judge", recipe.judge), ("sample", recipe.sample)) if value is not None}
    chosen_opinions = [
        (judge, sample)
        for judge, sample in opinions
        if wanted.get("judge", judge) == judge and wanted.get("sample", sample) == sample
    ]
    if not chosen_opinions:
        raise UsageError(
            f"No attribution by the schema {schema!r} is of {' and '.join(f'{n} {v}' for n, v in wanted.items())}.",
            "name one of: " + ", ".join(f"--judge {shlex.quote(judge)} --sample {one}" for judge, one in opinions),
        )
    filters: dict[str, str | int] = wanted if len(chosen_opinions) < len(opinions) else {}
    if len({s for s, *_ in held}) > 1:
        filters["schema"] = schema
    if len(measures) > 1:
        filters["measure"] = chosen.measure
    return schema, chosen_opinions, filters


def _dimensions_read(
    recipe: Recipe, chosen: Rule, files: Sequence[Path], asked: Sequence[str] | None
) -> tuple[str, ...]:
    """The dimensions that get columns: those asked (None: those that the attributions hold), and for a rule without a
    judge those that the recipe weighs. Raises UsageError where a weighted dimension was never asked.
    """
    if chosen.measure is None:
        return tuple(dict.fromkeys([*(asked or ()), *recipe.weights]))
    if asked is not None:
        columns = tuple(dict.fromkeys(asked))
    else:
        columns = in_order(d for d, measure in distinct(files, ("dimension", "measure")) if measure == chosen.measure)
    missing = [d for d in recipe.weighted if d not in columns]
    if missing:
        raise UsageError(
            f"The recipe weighs {_named(missing)}, but judges were asked only about {_named(columns) or 'nothing'}.",
            f"label with --dimensions {','.join([*columns, *missing])}, or weigh only dimensions that were asked about",
        )
    return columns


def _named(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) if isinstance(names, set) else ", ".join(names)


def evaluators(files: Sequence[Path], dimensions: Sequence[str]) -> set[str]:
    """The evaluators that scored any of these dimensions in the episodes of these Parquet files."""
    names: set[str] = set()
    for batch in read(files, ["scores"], 1 << 14):
        items = pc.list_flatten(batch.column("scores"))
        evaluator = pc.struct_field(items, "evaluator")
        if set(pc.unique(evaluator).to_pylist()) - names:
            scored = pc.is_in(pc.struct_field(items, "dimension"), value_set=pa.array(dimensions))
            names.update(pc.unique(evaluator.filter(scored)).to_pylist())
    return names


def scored_by(files: Sequence[Path]) -> set[tuple[str, str]]:
    """The (dimension, evaluator) of the scores in the episodes of these Parquet files."""
    found: set[tuple[str, str]] = set()
    for batch in read(files, ["scores"], 1 << 14):
        items = pc.list_flatten(batch.column("scores"))
        pairs = pa.table({name: pc.struct_field(items, name) for name in ("dimension", "evaluator")})
        distinct_pairs = pairs.group_by(pairs.column_names).aggregate([]).to_pydict()
        found.update(zip(distinct_pairs["dimension"], distinct_pairs["evaluator"], strict=True))
    return found


def own_ranges(files: Sequence[Path], dimensions: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The declared ranges of those dimensions that are not SOTOPIA-EVAL's; none for one without a declared range."""
    own = [name for name in dimensions if not is_known(name)]
    ranges: dict[str, tuple[float, float]] = {}
    for batch in read(files, ["scores"], 1 << 14) if own else ():
        items = pc.list_flatten(batch.column("scores"))
        if items.type.get_field_index("low") < 0:
            return {}
        items = items.filter(pc.is_in(pc.struct_field(items, "dimension"), value_set=pa.array(own)))
        for score in pc.unique(pc.struct_field(items, "dimension")).to_pylist():
            of_one = items.filter(pc.equal(pc.struct_field(items, "dimension"), score))
            low, high = (pc.struct_field(of_one, end).drop_null() for end in ("low", "high"))
            if len(low) and len(high):
                before = ranges.get(score, (low[0].as_py(), high[0].as_py()))
                ranges[score] = min(before[0], pc.min(low).as_py()), max(before[1], pc.max(high).as_py())
    return ranges


def choose_evaluator(scored: Iterable[str], named: str | None, dimensions: Sequence[str], needed: bool = True) -> str:
    """The evaluator, of those that `scored`, whose scores are G; "" where the choice is open and no score is `needed`.

    Raises UsageError where there are several and none is named, or the named one is not among them; InputError where
    no evaluator scored any of `dimensions`.
    """
    names = sorted(set(scored))
    if not needed and named is None and len(names) != 1:
        return ""
    if not names:
        raise InputError(
            f"No episode has a score on {' or '.join(dimensions)}.",
            "name episodes that have scores, or score a dataset first, with `sotopia-rl-data evaluate`",
        )
    if named is None and len(names) > 1:
        raise UsageError(
            f"The episodes are scored by several evaluators: {', '.join(names)}.",
            f"say whose scores to use: --evaluator {shlex.quote(names[0])}",
        )
    if named is not None and named not in names:
        raise UsageError(
            f"No episode is scored by {named!r} on {' or '.join(dimensions)}.",
            f"name the one that did score them: --evaluator {shlex.quote(names[0])}"
            if len(names) == 1
            else f"name one of: {', '.join(names)}",
        )
    return named or names[0]


def distinct(files: Sequence[Path], columns: Sequence[str]) -> set[tuple[Any, ...]]:
    """The distinct combinations of values in these top-level columns.

    A row group whose columns are constant (as in a version by one judge) is answered by its statistics alone.
    """
    return {combination for path in files for combination in _of_file(path, columns)}


def _of_file(path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    with opened(path, columns, encoded=False) as file:
        known = file.metadata
        leaf = {known.schema.column(i).path: i for i in range(len(known.schema))}
        for g in range(known.num_row_groups):
            constants = [_constant(known.row_group(g).column(leaf[c])) for c in columns]
            if None not in constants:
                yield tuple(constants)
                continue
            rows = file.read_row_group(g, columns=list(columns))
            combinations = rows.group_by(list(columns), use_threads=False).aggregate([])
            yield from zip(*(combinations.column(name).to_pylist() for name in columns), strict=True)


def _constant(chunk: Any) -> Any:
    """The only value of a column chunk, where its statistics say that it has only one; else None."""
    statistics = chunk.statistics
    if statistics is None or not (statistics.has_min_max and statistics.has_null_count) or statistics.null_count:
        return None
    return statistics.min if statistics.min == statistics.max else None
