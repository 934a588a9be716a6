"""Small versions on disk for the rewards tests, and the design's arithmetic once more in plain Python."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sotopia_rl_data.rewards import Recipe
from sotopia_rl_data.rewards.build import Built, Sources, build
from sotopia_rl_data.rewards.rules import declared_range
from sotopia_rl_data.rewards.texts import RenderedTexts
from sotopia_rl_data.schema import Agent, Attribution, Episode, Message, Score, Turn
from sotopia_rl_data.tables import ATTRIBUTIONS, EPISODES, attribution_table, episode_row

Rows = list[dict[str, Any]]


def episode(
    name: str, speakers: str, scores: Mapping[tuple[str, str], float] | None = None, *, evaluator: str = "gpt-4"
) -> Episode:
    """`speakers` is who acts at turn 0, 1, 2 … ("abab"; "." is nobody); `scores` maps (agent, dimension) to G."""
    turns = [Turn(t, who, "speak", f"{name} says {t}") for t, who in enumerate(speakers) if who != "."]
    agents = tuple(Agent(who, who.upper()) for who in sorted(set(speakers) - {"."}))
    given = tuple(Score(who, d, g, evaluator) for (who, d), g in (scores or {}).items())
    return Episode(name, f"env-{name}", agents, tuple(turns), given)


def judged(
    one: Episode,
    agent: str,
    dimension: str,
    raws: Sequence[float | None],
    judge: str = "gpt-4o",
    sample: int = 0,
    **given: Any,
) -> list[Attribution]:
    """The judge's numbers for the agent's utterances in turn order; None: no answer."""
    turns = [t.turn for t in one.turns if t.agent == agent]
    known = {"schema": "direct", "measure": "importance", "scale_min": 0.0, "scale_max": 3.0} | given
    return [
        Attribution(
            one.episode_id, agent, turn, dimension, judge=judge, sample=sample, raw=float(raw), call_id="", **known
        )
        for turn, raw in zip(turns, raws, strict=True)
        if raw is not None
    ]


def prompts(one: Episode) -> Iterator[tuple[str, int, list[Message], list[Message]]]:
    """A stand-in for the policy's prompts: any function of the episode will do."""
    for turn in one.turns:
        asked: Message = {"role": "user", "content": f"turn {turn.turn}?"}
        yield turn.agent, turn.turn, [asked], [{"role": "assistant", "content": turn.text}]


class Toy:
    """A version's files under `folder`: episodes and attributions of each split, sorted as a store lays them out."""

    def __init__(
        self, folder: Path, splits: Mapping[str, Sequence[Episode]], answers: Iterable[Attribution] = ()
    ) -> None:
        self.folder = folder
        answers = list(answers)
        self.episodes: dict[str, list[Path]] = {}
        self.attributions: dict[str, list[Path]] = {}
        for split, episodes in splits.items():
            ids = {e.episode_id for e in episodes}
            ordered = sorted(episodes, key=lambda e: e.episode_id)
            table = pa.Table.from_pylist([episode_row(e) for e in ordered], schema=EPISODES)
            self.episodes[split] = [self.put(f"episodes-{split}", table)]
            mine = sorted((a for a in answers if a.episode_id in ids), key=_key)
            self.attributions[split] = [self.put(f"attributions-{split}", attribution_table(mine))]

    def put(self, name: str, table: pa.Table, rows: int = 3) -> Path:
        """A Parquet file of small row groups, so that chunks begin and end in awkward places."""
        path = self.folder / f"{name}.parquet"
        pq.write_table(table, path, row_group_size=rows)
        return path

    def build(self, recipe: Recipe, **given: Any) -> tuple[dict[str, Rows], Built]:
        """The rewards rows of each split, and what was built."""
        out: dict[str, Rows] = {}
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        sources = Sources(
            episodes=given.pop("episodes", self.episodes),
            attributions=given.pop("attributions", self.attributions),
            texts=given.pop("texts", RenderedTexts(self.episodes, prompts)),
        )

        def write(split: str, tables: Iterator[pa.Table]) -> None:
            out[split] = pa.concat_tables(tables).to_pylist()

        built = build(recipe, sources, scratch=scratch, **{"write": write} | given)
        return out, built


def _key(a: Attribution) -> tuple[Any, ...]:
    return (a.episode_id, a.agent, a.turn, a.dimension, a.schema, a.measure, a.judge, a.sample)


def no_answers(folder: Path) -> dict[str, list[Path]]:
    """Attributions of a run in which every answer failed."""
    path = folder / "none.parquet"
    pq.write_table(ATTRIBUTIONS.empty_table(), path)
    return {"train": [path]}


def by_hand(
    recipe: Recipe, splits: Mapping[str, Sequence[Episode]], answers: Sequence[Attribution], dimensions: Sequence[str]
) -> dict[tuple[str, str, int], dict[str, float | int | None]]:
    """The design's steps, one utterance at a time: the reference that `build` is held against."""
    opinions = sorted({(a.judge, a.sample) for a in answers})
    found = {
        (a.episode_id, a.agent, a.turn, a.dimension, a.judge, a.sample): (a.raw - a.scale_min)
        / (a.scale_max - a.scale_min)
        for a in answers
    }
    r: dict[tuple[str, str, int], dict[str, list[float | None]]] = {}
    for e in (e for episodes in splits.values() for e in episodes):
        for agent in {t.agent for t in e.turns}:
            turns = [t.turn for t in e.turns if t.agent == agent]
            for d in dimensions:
                g = e.score(agent, d, "gpt-4")
                for opinion in opinions or [("", 0)]:
                    a = [found.get((e.episode_id, agent, t, d, *opinion)) for t in turns]
                    for t, value in zip(turns, _rule(recipe, a, g), strict=True):
                        r.setdefault((e.episode_id, agent, t), {}).setdefault(d, []).append(value)
    join = statistics.fmean if recipe.average == "mean" else statistics.median
    raw = {k: {d: _join(join, v) for d, v in of.items()} for k, of in r.items()}
    train = {e.episode_id for e in splits.get("train", ())}
    norm = {}
    for d in dimensions:
        values = [of[d] for k, of in raw.items() if k[0] in train and of[d] is not None]
        low, high = (min(values), max(values)) if len(set(values)) > 1 else declared_range(d)
        norm[d] = (
            (lambda x, lo=low, hi=high: None if x is None else (x - lo) / (hi - lo))
            if recipe.normaliser == "minmax"
            else (lambda x: x)
        )
    rows = {}
    for k, of in raw.items():
        alone = [_weigh(recipe, {d: norm[d](r[k][d][i]) for d in dimensions}) for i in range(len(opinions))]
        alone = [one for one in alone if one is not None]
        row: dict[str, float | int | None] = {f"raw_{d}": of[d] for d in dimensions} | {
            f"norm_{d}": norm[d](of[d]) for d in dimensions
        }
        row |= {"reward": _weigh(recipe, {d: norm[d](of[d]) for d in dimensions}), "n_opinions": len(alone)}
        rows[k] = row | {"spread": statistics.stdev(alone) if len(alone) > 1 else None}
    return rows


def _rule(recipe: Recipe, a: list[float | None], g: float | None) -> list[float | None]:
    count = len(a)
    if g is None:
        return [None] * count
    if recipe.rule == "uniform":
        return [g] * count
    if recipe.rule == "uniform-share":
        return [g / count] * count
    if recipe.rule == "discounted":
        return [g * recipe.gamma ** (count - 1 - t) for t in range(count)]
    if recipe.rule == "direct":
        return [None if x is None else g * x for x in a]
    if recipe.rule == "scaled":
        if None in a:
            return [None] * count
        total = sum(x for x in a if x is not None)
        return [g * x / total if total and x is not None else 0.0 for x in a]
    keys = [t for t, x in enumerate(a) if x == 1]
    known = len(keys) == 1 or (not keys and None not in a)
    return [(g if t in keys else 0.0) if known else None for t in range(count)]


def _join(join: Any, values: list[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return join(there) if there else None


def _weigh(recipe: Recipe, norm: Mapping[str, float | None]) -> float | None:
    parts = [(w, norm[d]) for d, w in recipe.weights.items() if w > 0]
    if any(value is None for _, value in parts):
        return None
    return sum(w * value for w, value in parts if value is not None) / sum(w for w, _ in parts)
