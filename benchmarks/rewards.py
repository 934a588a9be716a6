"""What `rewards` costs, against reading the same columns and writing the same result.

    python benchmarks/rewards.py --utterances 10_000_000 --dimensions 7

Makes a version's `episodes`, `attributions` (long) and text in the real columns, sorted, as the store lays them out,
with one utterance in 200 unlabelled, and runs each step in a process of its own, so that CPU seconds (user + system,
every thread) and peak memory are that step's. Both sides read and write with the same reader and writer; imports are
not counted. Prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.rewards import Recipe, preset
from sotopia_rl_data.rewards.build import READ_ROWS, Finish, Sources, build, fitted, widened
from sotopia_rl_data.rewards.resolve import Files, Opinion, resolve
from sotopia_rl_data.rewards.texts import StoredTexts
from sotopia_rl_data.rewards.widen import Wide
from sotopia_rl_data.schema import FRACTIONS
from sotopia_rl_data.streams import read
from sotopia_rl_data.tables import ATTRIBUTIONS, EPISODES, rewards_schema

TURNS = 20  # per episode, by two agents in turn
UNLABELLED = 200  # one utterance in so many
GROUP_ROWS = 1 << 17
AGENTS = [f"01H5TNE5P{i:017d}" for i in range(40)]


# --- the tables -------------------------------------------------------------------------------------------------


def generate(work: Path, utterances: int, dimensions: list[str]) -> None:
    """Episodes, attributions and text of about so many utterances, in three splits, sorted by key."""
    first = 0
    for split, fraction in FRACTIONS.items():
        episodes = max(1, round(utterances * fraction / TURNS))
        schemas = {"episodes": EPISODES, "attributions": ATTRIBUTIONS, "texts": _text_schema()}
        with contextlib.ExitStack() as stack:
            sinks = [stack.enter_context(Sink(work / f"{c}-{split}.parquet", s)) for c, s in schemas.items()]
            for start in range(first, first + episodes, 1 << 12):
                ids = np.arange(start, min(start + (1 << 12), first + episodes))
                tables = _episodes(ids, split), _attributions(ids, sorted(dimensions)), _texts(ids, split)
                for sink, table in zip(sinks, tables, strict=True):
                    sink.write(table)
        first += episodes


class Sink:
    """A Parquet file that tables are written to, in row groups of `GROUP_ROWS`."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._held: list[pa.Table] = []

    def write(self, table: pa.Table) -> None:
        self._held.append(table)
        if sum(t.num_rows for t in self._held) >= GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.concat_tables(self._held), row_group_size=GROUP_ROWS)
        self._held = []

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        self._writer.close()


def _names(ids: np.ndarray) -> pa.Array:
    return pa.array([f"{int(i):08x}-0f3a-4b1c-9d2e-5a6b7c8d9e0f" for i in ids])


def _speakers(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two agents an episode, the lower id first (which is the order of the rows)."""
    one, other = ids * 7 % 40, (ids * 7 + 1 + ids % 38) % 40
    return np.minimum(one, other), np.maximum(one, other)


def _episodes(ids: np.ndarray, split: str) -> pa.Table:
    rng = np.random.default_rng([1, int(ids[0])])
    each = len(SOTOPIA_EVAL)
    low, high = (np.tile([end for d in SOTOPIA_EVAL for end in (d.low, d.high)][k::2], 2 * len(ids)) for k in (0, 1))
    scores = {
        "agent": _coded(np.repeat(np.stack(_speakers(ids), axis=1).reshape(-1), each), AGENTS),
        "dimension": _coded(np.tile(np.arange(each), 2 * len(ids)), [d.name for d in SOTOPIA_EVAL]),
        "score": pa.array(np.round(rng.uniform(low, high))),
        "evaluator": _coded(np.zeros(2 * each * len(ids), np.int32), ["gpt-4"]),
    }
    columns = {f.name: pa.array([[] if pa.types.is_list(f.type) else ""] * len(ids), f.type) for f in EPISODES}
    columns |= {"episode_id": _names(ids), "environment_id": pa.array([f"{split}-env"] * len(ids))}
    columns["scores"] = _lists(scores, 2 * each)
    return pa.table(columns).cast(EPISODES)


def _lists(fields: dict[str, pa.Array], each: int) -> pa.Array:
    """A list of `each` structs a row."""
    plain = [a.dictionary_decode() if pa.types.is_dictionary(a.type) else a for a in fields.values()]
    items = pa.StructArray.from_arrays(plain, list(fields))
    return pa.ListArray.from_arrays(pa.array(np.arange(0, len(items) + 1, each, dtype=np.int32)), items)


def _attributions(ids: np.ndarray, dimensions: list[str]) -> pa.Table:
    rng = np.random.default_rng([2, int(ids[0])])
    each, half = len(dimensions), TURNS // 2
    rows = len(ids) * TURNS * each
    episode = np.repeat(np.arange(len(ids), dtype=np.int32), TURNS * each)
    speakers = np.stack(_speakers(ids), axis=1).reshape(-1).astype(np.int32)
    turn = np.tile(np.concatenate([np.arange(0, TURNS, 2), np.arange(1, TURNS, 2)]).astype(np.int32), len(ids))
    columns = {
        "episode_id": _coded(episode, _names(ids)),
        "agent": _coded(np.repeat(speakers, half * each), AGENTS),
        "turn": pa.array(np.repeat(turn, each)),
        "dimension": _coded(np.tile(np.arange(each, dtype=np.int32), len(ids) * TURNS), dimensions),
        "schema": _coded(np.zeros(rows, np.int32), ["direct"]),
        "measure": _coded(np.zeros(rows, np.int32), ["importance"]),
        "judge": _coded(np.zeros(rows, np.int32), ["gpt-4o"]),
        "sample": pa.array(np.zeros(rows, np.int32)),
        "raw": pa.array(rng.integers(0, 4, rows).astype(np.float64)),
        "scale_min": pa.array(np.zeros(rows)),
        "scale_max": pa.array(np.full(rows, 3.0)),
        "call_id": _coded(episode, [f"{int(i):064x}" for i in ids * 2654435761]),
        "reasoning": pa.nulls(rows, pa.string()),
    }
    answered = np.repeat(rng.integers(0, UNLABELLED, len(ids) * TURNS) > 0, each)
    return pa.table(columns).filter(pa.array(answered)).cast(ATTRIBUTIONS)


def _coded(codes: np.ndarray, values: list[str] | pa.Array) -> pa.Array:
    return pa.DictionaryArray.from_arrays(
        pa.array(codes, pa.int32()), values if isinstance(values, pa.Array) else pa.array(values)
    )


def _text_schema() -> pa.Schema:
    schema = rewards_schema(())
    return pa.schema(
        [schema.field(c) for c in ("episode_id", "environment_id", "agent", "turn", "prompt", "completion")]
    )


def _texts(ids: np.ndarray, split: str) -> pa.Table:
    turns = np.concatenate([np.arange(0, TURNS, 2), np.arange(1, TURNS, 2)])
    turn = pa.array(np.tile(turns, len(ids)).astype(np.int32))
    episode = _coded(np.repeat(np.arange(len(ids)), TURNS), _names(ids)).dictionary_decode()
    agent = _coded(np.repeat(np.stack(_speakers(ids), axis=1).reshape(-1), TURNS // 2), AGENTS).dictionary_decode()
    number = turn.cast(pa.string())
    asked = _joined("You are ", agent, " in ", episode, ". Turn #", number, ": what do you say to the other one now?")
    said = _joined('{"action_type": "speak", "argument": "Turn ', number, " of ", episode, '"}')
    columns = {
        "episode_id": episode,
        "environment_id": _joined(f"{split}-env", rows=len(turn)),
        "agent": agent,
        "turn": turn,
        "prompt": _lists({"role": _joined("user", rows=len(turn)), "content": asked}, 1),
        "completion": _lists({"role": _joined("assistant", rows=len(turn)), "content": said}, 1),
    }
    return pa.table(columns).cast(_text_schema())


def _joined(*parts: str | pa.Array, rows: int = 0) -> pa.Array:
    rows = rows or next(len(part) for part in parts if isinstance(part, pa.Array))
    arrays = [part if isinstance(part, pa.Array) else pa.repeat(part, rows) for part in parts]
    return pc.binary_join_element_wise(*arrays, "")


# --- the steps, each run in its own process -----------------------------------------------------------------------


class Bench:
    """The files of one generated version, and the recipe that its rewards are built by."""

    def __init__(self, work: Path, dimensions: list[str]) -> None:
        self.work, self.dimensions = work, dimensions
        self.recipe: Recipe = preset("sotopia-rl")
        self.episodes, self.attributions, self.texts = (
            self._files("episodes"),
            self._files("attributions"),
            self._files("texts"),
        )
        self.sources = Sources(self.episodes, self.attributions, StoredTexts(self.texts))
        self.resolved = resolve(self.recipe, self.episodes, self.attributions, dimensions)

    def _files(self, config: str) -> Files:
        return {split: [self.work / f"{config}-{split}.parquet"] for split in FRACTIONS}

    def write(self, folder: str) -> Callable[[str, Iterable[pa.Table]], None]:
        (self.work / folder).mkdir(exist_ok=True)

        def write(split: str, tables: Iterable[pa.Table]) -> None:
            with Sink(self.work / folder / f"{split}.parquet", rewards_schema(self.dimensions)) as sink:
                for table in tables:
                    sink.write(table)

        return write

    def build(self) -> None:
        """The function that `rewards` and `label` call: long attributions, scores and text to the finished config."""
        scratch = self.work / "scratch"
        scratch.mkdir(exist_ok=True)
        build(self.recipe, self.sources, write=self.write("built"), scratch=scratch, dimensions=self.dimensions)

    def copy(self) -> None:
        """Read the same columns of the same files and write the same result (numbers held, not computed)."""
        held = self._numbers()
        write = self.write("copied")
        for split in FRACTIONS:
            for batch in read(self.attributions[split], self.resolved.columns, READ_ROWS):
                assert batch.num_rows
            for batch in read(self.episodes[split], ["episode_id", "scores"], READ_ROWS // 16):
                assert batch.num_rows
            write(split, (_beside(text, held, self.dimensions) for text in StoredTexts(self.texts).rows(split)))

    def _numbers(self) -> pa.Table:
        with pq.ParquetFile(self.work / "built" / "train.parquet") as file:
            names = [f.name for f in rewards_schema(self.dimensions) if f.name not in _text_schema().names]
            return file.read_row_group(0, columns=names).combine_chunks()

    def widen(self) -> None:
        """The first of its three steps alone: long to wide, the rule applied."""
        for split in FRACTIONS:
            r = widened(self.resolved, split, self.sources)
            Wide(self._wide(split), self.resolved).write(r)

    def _wide(self, split: str) -> Path:
        return self.work / f"wide-{split}.arrow"

    def arithmetic(self) -> None:
        """The other two on the wide intermediate: fit, normalise, aggregate; write the numbers."""
        wide = {split: Wide(self._wide(split), self.resolved) for split in FRACTIONS}
        fits, _ = fitted(self.recipe, self.dimensions, wide["train"].read())
        finish = Finish(self.recipe, self.resolved, fits, list(wide))
        for split, kept in wide.items():
            self._write_numbers("numbers", split, (finish.numbers(split, r) for r in kept.read()))

    def wide_copy(self) -> None:
        """Read the wide intermediate and write the same numbers."""
        held = self._numbers()
        for split in FRACTIONS:
            chunks = Wide(self._wide(split), self.resolved).read()
            self._write_numbers("numbers", split, (held.slice(0, r.shape[2]) for r in chunks))

    def _write_numbers(self, folder: str, split: str, tables: Iterator[pa.Table]) -> None:
        (self.work / folder).mkdir(exist_ok=True)
        names = [f for f in rewards_schema(self.dimensions) if f.name not in _text_schema().names]
        with Sink(self.work / folder / f"{split}.parquet", pa.schema(names)) as sink:
            for table in tables:
                sink.write(table)

    def dicts(self) -> None:
        """The same by Python dicts: every row a dict from reading to writing, a loop a step."""
        opinions = {split: self._opinions_by_dicts(split) for split in FRACTIONS}
        raw = {split: {key: _averages(one) for key, one in of.items()} for split, of in opinions.items()}
        values = {d: [one[d] for one in raw["train"].values() if d in one] for d in self.dimensions}
        ends = {d: (min(of), max(of)) for d, of in values.items()}
        write = self.write("by-dicts")
        for split in FRACTIONS:
            rows = pq.read_table(self.texts[split][0]).to_pylist()
            outside = dict.fromkeys(self.dimensions, 0)
            for row in rows:
                key = row["episode_id"], row["agent"], row["turn"]
                one = raw[split].get(key, {})
                for d in self.dimensions:
                    row[f"raw_{d}"], row[f"norm_{d}"] = one.get(d), _normalised(one.get(d), ends[d])
                    outside[d] += d in one and not ends[d][0] <= one[d] <= ends[d][1]
                row["reward"] = self._weighed({d: row[f"norm_{d}"] for d in self.dimensions})
                alone = opinions[split].get(key, {}).values()
                alone = [self._weighed({d: _normalised(v, ends[d]) for d, v in opinion.items()}) for opinion in alone]
                alone = [value for value in alone if value is not None]
                row["n_opinions"] = len(alone)
                row["spread"] = statistics.stdev(alone) if len(alone) > 1 else None
            write(split, [pa.Table.from_pylist(rows, schema=rewards_schema(self.dimensions))])

    def _opinions_by_dicts(self, split: str) -> dict[Utterance, dict[Opinion, dict[str, float]]]:
        scores = {}
        for episode in pq.read_table(self.episodes[split][0], columns=["episode_id", "scores"]).to_pylist():
            for s in episode["scores"]:
                if s["evaluator"] == "gpt-4":
                    scores[episode["episode_id"], s["agent"], s["dimension"]] = s["score"]
        found: dict[Utterance, dict[Opinion, dict[str, float]]] = {}
        columns = [*self.resolved.columns, "judge", "sample"]
        for row in pq.read_table(self.attributions[split][0], columns=columns).to_pylist():
            g = scores.get((row["episode_id"], row["agent"], row["dimension"]))
            if g is not None:
                a = (row["raw"] - row["scale_min"]) / (row["scale_max"] - row["scale_min"])
                one = found.setdefault((row["episode_id"], row["agent"], row["turn"]), {})
                one.setdefault((row["judge"], row["sample"]), {})[row["dimension"]] = g * a
        return found

    def _weighed(self, norm: dict[str, float | None]) -> float | None:
        parts = [(weight, norm.get(d)) for d, weight in self.recipe.weights.items()]
        if any(value is None for _, value in parts):
            return None
        return sum(w * v for w, v in parts if v is not None) / sum(w for w, _ in parts)


Utterance = tuple[str, str, int]


def _averages(opinions: dict[Opinion, dict[str, float]]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for one in opinions.values():
        for d, value in one.items():
            values.setdefault(d, []).append(value)
    return {d: sum(of) / len(of) for d, of in values.items()}


def _normalised(value: float | None, ends: tuple[float, float]) -> float | None:
    return None if value is None else (value - ends[0]) / (ends[1] - ends[0])


def _beside(text: pa.RecordBatch | pa.Table, numbers: pa.Table, dimensions: list[str]) -> pa.Table:
    schema = rewards_schema(dimensions)
    numbers = numbers.slice(0, text.num_rows)
    return pa.table(
        [(text if name in text.schema.names else numbers).column(name) for name in schema.names], schema=schema
    )


# --- measuring ------------------------------------------------------------------------------------------------------


def measured(step: str, work: Path, dimensions: list[str]) -> dict[str, float]:
    """CPU seconds, wall seconds and peak MB of one step in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--work", str(work), "--dimensions", str(len(dimensions))]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


def run_step(step: str, work: Path, dimensions: list[str]) -> None:
    bench = Bench(work, dimensions)
    pa.array([0])  # imports pandas, if it is there
    before, start = _cpu(), time.perf_counter()
    getattr(bench, step)()
    after = {"cpu": _cpu() - before, "wall": time.perf_counter() - start, "mb": _peak_mb()}
    print(json.dumps(after))


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def _peak_mb() -> float:
    """Of this process since it began (ru_maxrss would remember its parent's)."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=7, choices=range(3, 8))
    parser.add_argument(
        "--against-dicts", type=int, default=143_000, help="utterances for the comparison with dicts; 0: none"
    )
    parser.add_argument(
        "--dir", type=Path, help="where the tables go (several GB); default: the system's temporary folder"
    )
    parser.add_argument("--steps", default="build,copy,widen,arithmetic,wide_copy", help="which to run [%(default)s]")
    parser.add_argument("--times", type=int, default=9, help="how often the comparison with dicts is run [%(default)s]")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    asked = [
        "goal",
        "relationship",
        "knowledge",
        *(d.name for d in SOTOPIA_EVAL if d.name not in ("goal", "relationship", "knowledge")),
    ]
    dimensions = asked[: args.dimensions]
    if args.step:
        return run_step(args.step, args.work, dimensions)
    report(args.utterances, dimensions, args.dir, tuple(args.steps.split(",")))
    if args.against_dicts:
        report(args.against_dicts, dimensions, args.dir, ("build", "dicts"), args.times)
    return None


def agree(work: Path) -> None:
    """The two ways give the same numbers."""
    for split in FRACTIONS:
        one, other = (pq.read_table(work / way / f"{split}.parquet") for way in ("built", "by-dicts"))
        for name in one.column_names[6:]:
            mine, theirs = (np.array(t.column(name).to_pandas(), float) for t in (one, other))
            if not np.allclose(mine, theirs, rtol=0, atol=1e-12, equal_nan=True):
                raise SystemExit(f"{split}: {name} differs")


RATIOS = (("build", "copy", "≤ 4"), ("arithmetic", "wide_copy", "≤ 1.5"), ("dicts", "build", "≥ 20"))


def report(utterances: int, dimensions: list[str], folder: Path | None, steps: tuple[str, ...], times: int = 1) -> None:
    """Print what each step took: of several times the one with the least CPU, for what others do can only add to it."""
    work = Path(tempfile.mkdtemp(dir=folder))
    try:
        generate(work, utterances, dimensions)
        runs = [{step: measured(step, work, dimensions) for step in steps} for _ in range(times)]
        if "dicts" in steps:
            agree(work)
    finally:
        shutil.rmtree(work)
    took = {step: min((run[step] for run in runs), key=lambda m: m["cpu"]) for step in steps}
    print(
        f"\n{utterances:,} utterances × {len(dimensions)} dimensions ({utterances * len(dimensions):,} attributions)\n"
    )
    print("| step | what | CPU s | wall s | peak MB |\n|---|---|--:|--:|--:|")
    for step, m in took.items():
        what = (getattr(Bench, step).__doc__ or "").splitlines()[0].rstrip(".")
        print(f"| `{step}` | {what} | {m['cpu']:.2f} | {m['wall']:.2f} | {m['mb']:.0f} |")
    for one, other, wanted in RATIOS:
        if one in took and other in took:
            print(f"\n`{one}` / `{other}`: {took[one]['cpu'] / took[other]['cpu']:.2f} × CPU (wanted: {wanted})")


if __name__ == "__main__":
    main()
