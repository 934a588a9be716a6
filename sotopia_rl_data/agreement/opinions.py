"""Attributions of one or several versions as one matrix of opinions by units judged.

A unit is (episode, agent, turn, dimension). The files of a version are in key order, so that the rows of a unit follow
each other and are placed by comparing them with their neighbours. Only where several files have the same episodes are
units looked up, some whole episodes at a time. Baselines (turn -1) are not units.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.errors import StoreError, UsageError
from sotopia_rl_data.statistics import Floats
from sotopia_rl_data.store import Version
from sotopia_rl_data.streams import Codes, Episodes, changes, encode, read

Of = Literal["attributions", "rewards"]
REWARD = "reward"
# The schema of the attributions in which the command `score` stores a reward model's scores.
REWARD_MODEL = "reward-model"

_KEYS = ("episode_id", "agent", "turn")
_COLUMNS = (*_KEYS, "dimension", "schema", "judge", "sample", "raw", "scale_min", "scale_max")
_ROWS = 1 << 17
_LAST = "\U0010ffff"  # sorts behind every id


@dataclass(frozen=True, slots=True)
class Opinion:
    """The source of an opinion. For `rewards`, only the version, or a reward model that scored it."""

    ref: str
    judge: str = ""
    sample: int = 0
    schema: str = ""


@dataclass(frozen=True, slots=True)
class Opinions:
    """The matrix. `values` is (opinions, units), NaN where an opinion is missing.

    `episode`, `agent`, `dimension` (units,) point into `episodes`, `agents` and `dimensions`; `turn` is the turn.
    `names` are the shortest that tell the opinions apart. `scale` is (low, high) where every opinion uses the same
    scale; else None, and the values are shares of their own scales (0 to 1), or plain rewards. `ranges` are then the
    scales of those dimensions on which every opinion uses the same scale; `level` turns a share back into a level.
    """

    opinions: tuple[Opinion, ...]
    names: tuple[str, ...]
    dimensions: tuple[str, ...]
    episodes: tuple[str, ...]
    agents: tuple[str, ...]
    episode: Codes
    agent: Codes
    turn: Codes
    dimension: Codes
    values: Floats
    scale: tuple[float, float] | None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def width(self, dimension: str) -> float:
        """A difference of 1 between values on this dimension, in levels where its range is known."""
        low, high = self.ranges.get(dimension, (0.0, 1.0))
        return high - low

    def level(self, dimension: int, value: float) -> float:
        """A value on this dimension (by index) as the judge gave it, where the range is known; else unchanged."""
        name = self.dimensions[dimension]
        return self.ranges.get(name, (0.0, 1.0))[0] + value * self.width(name)

    def __len__(self) -> int:
        """Number of units."""
        return len(self.episode)


def opinions_of(
    versions: Sequence[Version], dimensions: Sequence[str] | None = None, of: Of = "attributions"
) -> Opinions:
    """The opinions that the versions hold, of these dimensions (None: all).

    Raises UsageError where a version has no such rows or a dimension is in none of them, StoreError for damaged files.
    """
    matrix = _MatrixBuilder()
    wanted = None if dimensions is None else set(dimensions)
    for rows, apart in _rows_of_versions(versions, of):
        matrix.add(rows, apart, wanted)
    opinions = matrix.opinions([version.ref for version in versions])
    absent = [name for name in dimensions or () if name not in opinions.dimensions]
    if absent:
        raise UsageError(
            f"Nothing in {', '.join(v.ref for v in versions)} is about the dimension {absent[0]!r}.",
            f"name one of: {', '.join(matrix.met)}" if matrix.met else "label the episodes first",
        )
    return opinions


def _rows_of_versions(versions: Sequence[Version], of: Of) -> Iterator[tuple[pa.Table, bool]]:
    """Rows of all versions, some whole episodes at a time, with the `source` each came from; and whether the rows of a
    unit may be apart, because they come from several files."""
    paths: list[Path] = []
    streams: list[tuple[int, Episodes]] = []
    for source, version in enumerate(versions):
        for files in _files(version, of):
            paths += files
            streams += [(source, Episodes(of, rows)) for rows in _rows(files, of)]
    for source, version in enumerate(versions if of == "rewards" else ()):
        # Scores of reward models are compared with rewards, although they are stored as attributions.
        if version.manifest.recipe.get("scored_by") and "attributions" in version.manifest.configs:
            streams += [(source, Episodes(of, _scores(files))) for files in _files(version, "attributions")]
    for last in [*_ends(paths), _LAST]:
        parts = []
        for source, stream in streams:
            rows = stream.until(last)
            if rows.num_rows:
                parts.append(rows.append_column("source", pa.array(np.full(rows.num_rows, source))))
        if parts:
            yield pa.concat_tables(parts), len(parts) > 1


def _files(version: Version, of: Of) -> list[list[Path]]:
    if of not in version.manifest.configs:
        hint = f"label it first: sotopia-rl-data label {version.name} --judge gpt-4o"
        raise UsageError(f"{version.ref} holds no {of} to compare.", hint)
    return list(version.files(of).values())


def _ends(files: Iterable[Path]) -> list[str]:
    """Ids at which the rows can be cut into pieces: where row groups end, as their statistics say."""
    found = set()
    for path in files:
        try:
            known = pq.read_metadata(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise StoreError(
                f"The file {path} cannot be read: {str(error).splitlines()[0]}.",
                f"see what is damaged: sotopia-rl-data verify {shlex.quote(str(path.resolve().parents[1]))}",
            ) from error
        column = next(i for i in range(known.num_columns) if known.schema.column(i).path == "episode_id")
        for group in range(known.num_row_groups):
            statistics = known.row_group(group).column(column).statistics
            if statistics is not None and statistics.has_min_max:
                found.add(str(statistics.max))
    return sorted(found)


def _rows(files: Sequence[Path], of: Of) -> list[Iterator[pa.RecordBatch]]:
    """The rows of a split in the columns of attributions. Rewards give one stream for each of their columns."""
    if of == "attributions":
        return [read(files, _COLUMNS, _ROWS)]
    norms = [name for name in pq.read_schema(files[0]).names if name.startswith("norm_")]
    columns = {REWARD: REWARD, **{name: name.removeprefix("norm_") for name in norms}}
    return [_long(read(files, [*_KEYS, column], _ROWS), column, name) for column, name in columns.items()]


def _long(batches: Iterator[pa.RecordBatch], column: str, dimension: str) -> Iterator[pa.RecordBatch]:
    """A reward column in the columns of attributions."""
    for whole in batches:
        batch = whole.filter(whole.column(column).is_valid())
        zero, none = pa.array(np.zeros(batch.num_rows, np.int32)), pa.array(np.full(batch.num_rows, np.nan))
        names = [pa.DictionaryArray.from_arrays(zero, [name]) for name in (dimension, "", "")]
        arrays = [*(batch.column(key) for key in _KEYS), *names, zero, batch.column(column), none, none]
        yield pa.RecordBatch.from_arrays(arrays, names=_COLUMNS)


def _scores(files: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    """The scores of reward models for a split, in the units of its rewards, without a scale."""
    for whole in read(files, _COLUMNS, _ROWS):
        batch = whole.filter(pc.equal(whole.column("schema").cast(pa.string()), REWARD_MODEL))
        none = pa.array(np.full(batch.num_rows, np.nan))
        yield pa.RecordBatch.from_arrays([*(batch.column(name) for name in _COLUMNS[:-2]), none, none], names=_COLUMNS)


@dataclass(slots=True)
class _Numbering:
    """Names and their numbers, in the order in which they came."""

    names: list[str] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)

    def codes(self, column: pa.ChunkedArray) -> Codes:
        """Each row's number; names that are new get the next ones."""
        own, values = encode(column)
        number = np.zeros(len(values), np.int32)
        # The dictionary of an Arrow column may hold values that no row has. Those get no number.
        for i in np.flatnonzero(np.bincount(own, minlength=len(values))):
            name = str(values[int(i)].as_py())
            if name not in self.known:
                self.known[name] = len(self.names)
                self.names.append(name)
            number[i] = self.known[name]
        return number[own]


class _MatrixBuilder:
    """Collects the rows of the matrix."""

    def __init__(self) -> None:
        self._episodes, self._agents, self._dimensions = _Numbering(), _Numbering(), _Numbering()
        self._schemas, self._judges = _Numbering(), _Numbering()
        self._opinions: dict[tuple[int, int, int, int], int] = {}
        self._scales: dict[tuple[int, int], tuple[float, float]] = {}
        self._units: list[NDArray[np.int32]] = []
        self._values: list[Floats] = []

    @property
    def met(self) -> list[str]:
        """Every dimension in the rows, wanted or not."""
        return sorted(self._dimensions.names, key=_place)

    def add(self, rows: pa.Table, apart: bool, wanted: set[str] | None) -> None:
        """Lay some whole episodes' rows on `wanted` dimensions (None: all) into the matrix. `apart`: a unit's rows need
        not follow each other. Raises UsageError where one judge answered on several scales of a dimension."""
        dimension = self._dimensions.codes(rows.column("dimension"))
        turn = np.asarray(rows.column("turn").to_numpy(), np.int32)
        keep = turn >= 0
        if wanted is not None:
            keep &= np.array([name in wanted for name in self._dimensions.names], bool)[dimension]
        if not keep.all():
            rows, dimension, turn = rows.filter(pa.array(keep)), dimension[keep], turn[keep]
        if not len(turn):
            return
        keys = (
            self._episodes.codes(rows.column("episode_id")),
            self._agents.codes(rows.column("agent")),
            turn,
            dimension,
        )
        opinion = self._opinion(rows)
        if apart:
            heads, unit = _looked_up(keys)
        else:  # the rows of a unit are neighbours, so their keys need not be looked up
            begins = changes(*keys)
            heads, unit = np.flatnonzero(begins), np.cumsum(begins) - 1
        values = np.full((len(self._opinions), len(heads)), np.nan)
        values[opinion, unit] = rows.column("raw").to_numpy()
        self._note_scales(rows, opinion, dimension)
        self._units.append(np.stack([key[heads] for key in keys]).astype(np.int32))
        self._values.append(values)

    def _opinion(self, rows: pa.Table) -> NDArray[np.int64]:
        """Each row's opinion."""
        parts = [
            np.asarray(rows.column("source").to_numpy(), np.int64),
            self._schemas.codes(rows.column("schema")).astype(np.int64),
            self._judges.codes(rows.column("judge")).astype(np.int64),
            np.asarray(rows.column("sample").to_numpy(), np.int64),
        ]
        sizes = [int(part.max()) + 1 for part in parts]
        code: NDArray[np.int64] = np.ravel_multi_index(parts, sizes)
        number = np.zeros(int(np.prod(sizes)), np.int64)
        for combination in np.flatnonzero(np.bincount(code)):
            source, schema, judge, sample = (int(part) for part in np.unravel_index(int(combination), sizes))
            number[combination] = self._opinions.setdefault((source, schema, judge, sample), len(self._opinions))
        return number[code]

    def _note_scales(self, rows: pa.Table, opinion: NDArray[np.int64], dimension: Codes) -> None:
        low, high = (np.asarray(rows.column(name).to_numpy(), np.float64) for name in ("scale_min", "scale_max"))
        kind = opinion * len(self._dimensions.names) + dimension
        for pair in np.flatnonzero(np.bincount(kind)):
            rows_of_pair = kind == pair
            first = int(np.argmax(rows_of_pair))
            place = divmod(int(pair), len(self._dimensions.names))  # (opinion, dimension)
            scale = self._scales.setdefault(place, (float(low[first]), float(high[first])))
            same = (low[rows_of_pair] == scale[0]) & (high[rows_of_pair] == scale[1])
            if np.isfinite(scale).all() and not same.all():
                judge = list(self._opinions)[place[0]][2]
                raise UsageError(
                    f"The judge {self._judges.names[judge]!r} answered on several scales for one dimension.",
                    "label the episodes again, so that each judge uses one scale for a dimension",
                )

    def opinions(self, refs: Sequence[str]) -> Opinions:
        """The finished matrix."""
        count = len(self._opinions)
        units = np.concatenate(self._units, axis=1) if self._units else np.zeros((4, 0), np.int32)
        values = np.full((count, units.shape[1]), np.nan)
        at = 0
        for part in self._values:
            values[: len(part), at : at + part.shape[1]] = part
            at += part.shape[1]
        self._values = []
        opinions = [
            Opinion(refs[source], self._judges.names[judge], sample, self._schemas.names[schema])
            for source, schema, judge, sample in self._opinions
        ]
        order = sorted(
            range(count),
            key=lambda i: (refs.index(opinions[i].ref), opinions[i].schema, opinions[i].judge, opinions[i].sample),
        )
        present = sorted(set(units[3].tolist()), key=lambda d: _place(self._dimensions.names[d]))
        renumbered = np.zeros(max(present, default=0) + 1, np.int32)
        renumbered[present] = np.arange(len(present))
        scale, ranges = self._scale(values, units[3])
        return Opinions(
            opinions=tuple(opinions[i] for i in order),
            names=tuple(_names([opinions[i] for i in order])),
            dimensions=tuple(self._dimensions.names[d] for d in present),
            episodes=tuple(self._episodes.names),
            agents=tuple(self._agents.names),
            episode=units[0],
            agent=units[1],
            turn=units[2],
            dimension=renumbered[units[3]],
            values=values[order] if order != list(range(count)) else values,
            scale=scale,
            ranges=ranges,
        )

    def _scale(
        self, values: Floats, dimension: NDArray[np.int32]
    ) -> tuple[tuple[float, float] | None, dict[str, tuple[float, float]]]:
        """The scale that all opinions share. Without one, every value becomes a share of its own scale, in place, and
        the ranges of the dimensions with one scale are returned too."""
        scales = set(self._scales.values())
        if len(scales) == 1 or not all(np.isfinite(scale).all() and scale[1] > scale[0] for scale in scales):
            if len(scales) != 1:
                return None, {}
            (scale,) = scales
            return (scale if bool(np.isfinite(scale).all()) else None), {}
        by_dimension: dict[str, set[tuple[float, float]]] = {}
        for (opinion, number), (low, high) in self._scales.items():
            own = dimension == number
            values[opinion, own] = (values[opinion, own] - low) / (high - low)
            by_dimension.setdefault(self._dimensions.names[number], set()).add((low, high))
        return None, {
            name: min(by_dimension[name]) for name in sorted(by_dimension, key=_place) if len(by_dimension[name]) == 1
        }


def _looked_up(keys: tuple[Codes, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The first row of each unit, and each row's unit, for rows in any order."""
    # Numbers are counted from the lowest in these rows, so that `code` stays small: an episode's number may be large.
    lows = [int(key.min()) for key in keys]
    sizes = [int(key.max()) - low + 1 for key, low in zip(keys, lows, strict=True)]
    code = np.ravel_multi_index([key.astype(np.int64) - low for key, low in zip(keys, lows, strict=True)], sizes)
    _, first, unit = np.unique(code, return_index=True, return_inverse=True)
    return first, unit


def _place(dimension: str) -> tuple[int, str]:
    """The place of a dimension: the aggregate first, SOTOPIA-EVAL in its order, then the others."""
    names = [REWARD, *(known.name for known in SOTOPIA_EVAL)]
    return (names.index(dimension) if dimension in names else len(names), dimension)


def _names(opinions: Sequence[Opinion]) -> list[str]:
    """The shortest names that tell the opinions apart: the judge, and whatever else differs."""

    samples, schemas, refs = (
        len({getattr(opinion, part) for opinion in opinions}) > 1 for part in ("sample", "schema", "ref")
    )

    def name(opinion: Opinion) -> str:
        parts = []
        if opinion.judge:
            parts.append(f"{opinion.judge} #{opinion.sample}" if samples else opinion.judge)
        if schemas and opinion.schema:
            parts.append(opinion.schema)
        if refs or not opinion.judge:
            parts.append(opinion.ref)
        return " · ".join(parts)

    return [name(opinion) for opinion in opinions]
