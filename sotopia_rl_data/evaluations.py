"""Scores of episodes by a judge or by people, added to a dataset as its next version.

An evaluator's scores on a dimension replace those that the same evaluator gave before; the scores of other evaluators
stay. `scores` has one number for each evaluator: the mean of its samples. Each sample as it was given, with its
reasoning, is a row of `attributions` (turn -1, measure "evaluation"). A missing score is a row of `failures` without a
turn, and never 0.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sotopia_rl_data.code import code
from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.schema import Attribution, Failure
from sotopia_rl_data.store import Version
from sotopia_rl_data.store.stage import Stage
from sotopia_rl_data.streams import read
from sotopia_rl_data.tables import (
    ATTRIBUTIONS,
    FAILURES,
    attribution_table,
    episode_schema,
    failure_table,
)

SCHEMA = "sotopia-eval"
"""`schema` of the attributions that are scores of whole episodes."""

_BATCH = 128
_PLACE = {one.name: place for place, one in enumerate(SOTOPIA_EVAL)}

Judged = tuple[Sequence[Attribution], Sequence[Failure]]
"""The attributions and failures of one episode."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluator and its dimensions; `how` has the settings that determine the rows, for the recipe.

    With `given`, the (episode, agent, dimension) that have new scores, only those replace older ones: people score some
    dialogues now and others later. `how` then has `files`, whose hashes are collected over all evaluations.
    """

    evaluator: str
    dimensions: tuple[str, ...]
    how: Mapping[str, Any]
    given: frozenset[tuple[str, str, str]] | None = None

    def replaces(self, episode: str, agent: str, dimension: str, evaluator: str) -> bool:
        """Whether an older score is replaced."""
        if evaluator != self.evaluator or dimension not in self.dimensions:
            return False
        return self.given is None or (episode, agent, dimension) in self.given


def check_evaluator(version: Version, evaluator: str) -> None:
    """Raises UsageError where `version` has scores by this evaluator that were imported with its episodes."""
    if evaluator in {one["evaluator"] for one in version.manifest.recipe.get("evaluations", [])}:
        return
    for paths in version.files("episodes").values():
        for batch in read(paths, ["scores"], 1 << 14):
            by = pc.struct_field(pc.list_flatten(batch.column("scores")), "evaluator")
            if pc.any(pc.equal(by, evaluator)).as_py():
                raise UsageError(
                    f"{version.ref} holds scores by {evaluator!r} that came with its episodes and would be replaced.",
                    f"store the new scores under another name: --evaluator {shlex.quote(f'{evaluator}-here')}",
                )


def add_scores(
    stage: Stage, parent: Version, evaluated: Sequence[Evaluated], judged: Mapping[str, Iterator[Judged]]
) -> dict[str, Any]:
    """Stage all of `parent` with these scores; returns the recipe to commit it under.

    `judged[split]` yields the attributions and failures of each episode, in the order of the split's files; a split
    that is absent stays unchanged. Raises StoreError."""
    for config in parent.manifest.configs:
        if config not in ("episodes", "attributions", "failures"):
            stage.link(parent, config)
    for split, files in parent.files("episodes").items():
        _split(stage, split, files, evaluated, judged.get(split, iter(())))
    for config in ("attributions", "failures"):
        for split, files in (parent.files(config) if config in parent.manifest.configs else {}).items():
            _kept_rows(stage, config, split, files, evaluated)
    for config, schema in (("attributions", ATTRIBUTIONS), ("failures", FAILURES)):
        stage.write(config, "train", schema.empty_table())
    return _recipe(parent.manifest.recipe, evaluated)


def provenance(parent: Version, judges: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """The parent's provenance, which stays, with that of the evaluation.

    `judges` are marked as evaluators and take the place of their earlier entries; `more` is about the evaluation.
    """
    before = parent.manifest.provenance
    names = {judge["judge"] for judge in judges}
    others = [one for one in before.get("judges", []) if not (one.get("evaluates") and one.get("judge") in names)]
    return {
        **before,
        "command": "evaluate",
        "parents": [{"name": parent.name, "version": parent.version, "digest": parent.digest}],
        "code": code(),
        "judges": [*others, *({**judge, "evaluates": True} for judge in judges)],
        "evaluation": more,
    }


def _split(
    stage: Stage, split: str, files: Sequence[Path], evaluated: Sequence[Evaluated], judged: Iterator[Judged]
) -> None:
    """The split's episodes with their new scores, and the new rows of attributions and failures."""
    columns = episode_schema(files)
    place, field = columns.get_field_index("scores"), columns.field("scores")  # with ranges, where scores have them
    for batch in read(files, columns.names, _BATCH, encoded=False):
        said = [next(judged, ((), ())) for _ in range(batch.num_rows)]
        agents = [[one["agent"] for one in row] for row in batch.column("agents").to_pylist()]
        old = batch.column("scores").to_pylist()
        ids = batch.column("episode_id").to_pylist()
        scores = [
            _scores(*row, evaluated) for row in zip(ids, old, agents, (labels for labels, _ in said), strict=True)
        ]
        rows = pa.Table.from_batches([batch])
        rows = rows.set_column(place, field, pa.array(scores, field.type))
        stage.write("episodes", split, rows.cast(columns))
        labels = [label for some, _ in said for label in some]
        failures = [replace(lost, turn=None) for _, some in said for lost in some]
        if labels:
            stage.write("attributions", split, attribution_table(labels))
        if failures:
            stage.write("failures", split, failure_table(failures))


def _scores(
    episode: str,
    old: Sequence[Mapping[str, Any]],
    agents: Sequence[str],
    labels: Iterable[Attribution],
    evaluated: Sequence[Evaluated],
) -> list[Mapping[str, Any]]:
    """An episode's scores, evaluator after evaluator as they came; within a new one, in the agents' and SOTOPIA-EVAL's
    order, so that evaluating again in another order changes nothing."""
    found = [
        score
        for score in old
        if not _is_replaced(evaluated, episode, score["agent"], score["dimension"], score["evaluator"])
    ]
    samples: dict[tuple[str, str, str], list[float]] = {}
    for label in labels:
        samples.setdefault((label.agent, label.dimension, label.judge), []).append(label.raw)
    found += [
        {"agent": agent, "dimension": name, "score": fmean(raws), "evaluator": evaluator}
        for (agent, name, evaluator), raws in samples.items()
    ]
    names = [score["evaluator"] for score in old] + [one.evaluator for one in evaluated]
    order = {name: place for place, name in enumerate(dict.fromkeys(names))}
    ours = {one.evaluator for one in evaluated}

    def place(score: Mapping[str, Any]) -> tuple[int, int, int]:
        evaluator, agent, name = score["evaluator"], score["agent"], score["dimension"]
        within = (agents.index(agent) if agent in agents else len(agents), _PLACE.get(name, len(_PLACE)))
        return order[evaluator], *(within if evaluator in ours else (0, 0))

    return sorted(found, key=place)


def _kept_rows(stage: Stage, config: str, split: str, files: Sequence[Path], evaluated: Sequence[Evaluated]) -> None:
    """Stage the parent's rows that these evaluations do not replace."""
    schema = ATTRIBUTIONS if config == "attributions" else FAILURES
    present = pq.read_schema(files[0]).names if files else schema.names
    for batch in read(files, [name for name in schema.names if name in present], 1 << 16, encoded=False):
        rows = pa.Table.from_batches([batch])
        for name in schema.names:
            if name not in present:  # the version was written before this column existed
                rows = rows.append_column(name, pa.nulls(rows.num_rows, schema.field(name).type))
        rows = rows.select(schema.names).cast(schema)
        stage.write(config, split, rows.filter(pc.invert(_replaced(config, rows, evaluated))))


def _replaced(config: str, rows: pa.Table, evaluated: Sequence[Evaluated]) -> Any:
    """Which rows are by one of these evaluators, on a dimension that is evaluated again."""
    if config == "attributions":
        about = pc.equal(rows.column("schema"), SCHEMA)
    else:
        about = pc.and_(pc.is_null(rows.column("turn")), pc.is_valid(rows.column("agent")))
    keys = rows.select(["episode_id", "agent", "dimension", "judge"]).filter(about).to_pylist()
    replaced = iter([_is_replaced(evaluated, *key.values()) for key in keys])
    return pa.array([next(replaced) if is_about else False for is_about in about.to_pylist()], pa.bool_())


def _is_replaced(evaluated: Sequence[Evaluated], episode: str, agent: str, dimension: str, evaluator: str) -> bool:
    return any(one.replaces(episode, agent, dimension, evaluator) for one in evaluated)


def _recipe(before: Mapping[str, Any], evaluated: Sequence[Evaluated]) -> dict[str, Any]:
    """The parent's recipe with these evaluations, each in the place of what it replaces."""
    anew = {one.evaluator: one for one in evaluated}
    entries: list[dict[str, Any]] = []
    for old in before.get("evaluations", []):
        one = anew.get(old["evaluator"])
        if one is not None and one.given is not None:
            entries.append(_together(old, _entry(anew.pop(one.evaluator))))
            continue
        left = [name for name in old["dimensions"] if one is None or name not in one.dimensions]
        if left:
            entries.append({**old, "dimensions": left})
        elif one is not None:
            entries.append(_entry(anew.pop(one.evaluator)))
    entries += [_entry(one) for one in anew.values()]
    return {**before, "evaluations": entries}


def _entry(one: Evaluated) -> dict[str, Any]:
    return {"evaluator": one.evaluator, "dimensions": list(one.dimensions), **one.how}


def _together(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """One entry for the scores that people gave before and now."""
    named = {*old["dimensions"], *new["dimensions"]}
    files = dict.fromkeys([*old.get("files", []), *new.get("files", [])])
    return {**old, **new, "dimensions": [one.name for one in SOTOPIA_EVAL if one.name in named], "files": list(files)}
