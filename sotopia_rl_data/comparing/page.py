"""A comparison as one self-contained page: plots, tables, and the dialogues of each pair side by side.

The machinery (policy, embedding, elements that cannot be escaped) is the report's, `report/page.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sotopia_rl_data.comparing import tables
from sotopia_rl_data.comparing.methods import SEVEN, Unit, by_partner, key_of, one_conversation, read_methods
from sotopia_rl_data.comparing.results import Comparison
from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.report.page import asset, document, write_page
from sotopia_rl_data.spans import without_tags
from sotopia_rl_data.store import Version
from sotopia_rl_data.streams import read

PAIRS = 200
"""The most pairs whose dialogues a page shows."""

_SCRIPTS = ("tools.js", "charts.js", "comparison.js", "pairs.js")
_EPISODE = ("episode_id", "scenario", "agents", "turns", "scores")
_WHY = ("episode_id", "agent", "turn", "dimension", "schema", "judge", "reasoning")


def write_comparison(
    comparison: Comparison,
    versions: Sequence[Version],
    path: Path,
    *,
    agents: Sequence[str] = (),
    partners: Sequence[str] = (),
    any_partner: bool = False,
    pairs: int = PAIRS,
) -> dict[str, int]:
    """Write the page of `compare(versions, …)` to `path`, whole or not at all; returns the counts of what it shows.

    `agents`, `partners` and `any_partner` are those of that call. Where there are more than `pairs` pairs, so many are
    drawn, always the same ones. Raises StoreError.
    """
    _, compared = read_methods(versions, agents, partners)
    data = contents(comparison, versions, compared, any_partner, pairs)
    styles = [asset("style.css"), asset("comparison.css")]
    text = document(" · ".join(comparison.methods), data, styles=styles, scripts=map(asset, _SCRIPTS))
    return {"pairs": len(data["pairs"]), "episodes": len(data["episodes"]), "bytes": write_page(text, path)}


def contents(
    comparison: Comparison,
    versions: Sequence[Version],
    compared: Mapping[str, Sequence[Unit]],
    any_partner: bool = False,
    pairs: int = PAIRS,
) -> dict[str, Any]:
    """The page's data; `compared` are the units of each method (see `methods.read_methods`)."""
    shown, total = _shown(compared, any_partner, pairs)
    wanted = dict.fromkeys((unit.run, unit.episode_id) for one in shown for unit in one["sides"].values())
    place = {key: i for i, key in enumerate(wanted)}
    ranges = {one.name: (one.low, one.high) for one in SOTOPIA_EVAL}
    average = [sum(ends) / len(SEVEN) for ends in zip(*ranges.values(), strict=True)]
    return {
        "refs": list(comparison.refs),
        "methods": list(comparison.methods),
        "level": comparison.level,
        "alpha": comparison.alpha,
        "resample": comparison.resample,
        "resamples": comparison.resamples,
        "remarks": list(comparison.remarks),
        "dimensions": [
            {"name": name, "short": tables.short(name), "range": ranges.get(name, average)}
            for name in comparison.dimensions
        ],
        "conditions": [asdict(condition) | {"title": tables.title(condition)} for condition in comparison.conditions],
        "grids": [
            asdict(grid)
            for grid in (tables.ablation(comparison), tables.talk(comparison), tables.agreement(comparison))
            if grid is not None
        ],
        "of": total,
        "pairs": [_pair(one, comparison.methods, place) for one in shown],
        "episodes": _episodes(versions, wanted),
    }


def _shown(compared: Mapping[str, Sequence[Unit]], any_partner: bool, pairs: int) -> tuple[list[dict[str, Any]], int]:
    """The pairs to show, each with its sides by method, and the number of all pairs. Pairs of most methods come
    first."""
    by_key: dict[tuple[Any, ...], dict[str, Any]] = {}
    for partner, sides in by_partner(compared, any_partner).items():
        together = any(one_conversation(units) for units in sides.values())
        for method, units in sides.items():
            for unit in units:
                key = (partner, *key_of(unit, together))
                pair = by_key.setdefault(key, {"partner": partner, "position": key[-1], "sides": {}, "key": key})
                pair["sides"].setdefault(method, unit)
    drawn = sorted(
        by_key.values(), key=lambda pair: (-len(pair["sides"]), hashlib.sha256(repr(pair["key"]).encode()).digest())
    )
    drawn = drawn[:pairs]
    drawn.sort(key=lambda pair: (-len(pair["sides"]), pair["key"]))
    return drawn, len(by_key)


def _pair(pair: Mapping[str, Any], names: Sequence[str], place: Mapping[tuple[int, str], int]) -> dict[str, Any]:
    first: Unit = next(iter(pair["sides"].values()))
    sides = {
        names.index(method): [place[unit.run, unit.episode_id], unit.position] for method, unit in pair["sides"].items()
    }
    return {"title": first.codename, "partner": pair["partner"], "position": pair["position"], "sides": sides}


def _episodes(versions: Sequence[Version], wanted: Mapping[tuple[int, str], None]) -> list[dict[str, Any]]:
    """The dialogues, in the order of `wanted`, each score with its reason where there is one."""
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for run, version in enumerate(versions):
        mine = {episode for of, episode in wanted if of == run}
        why = _reasons(version, mine)
        for row in _rows(version, "episodes", _EPISODE):
            if row["episode_id"] in mine:
                rows[run, row["episode_id"]] = _dialogue(row, why)
    return [rows[key] for key in wanted]


def _dialogue(row: Mapping[str, Any], why: Mapping[tuple[str, ...], str]) -> dict[str, Any]:
    agents = [one["agent"] for one in row["agents"]]
    return {
        "id": row["episode_id"],
        "scenario": without_tags(row["scenario"] or ""),
        "agents": [
            {"name": one["name"] or "", "goal": without_tags(one["goal"] or ""), "model": one["model"] or ""}
            for one in row["agents"]
        ],
        "turns": [
            [agents.index(turn["agent"]), turn["turn"], turn["action_type"], turn["text"]]
            for turn in sorted(row["turns"], key=lambda turn: turn["turn"])
        ],
        "scores": [
            [
                agents.index(one["agent"]),
                one["dimension"],
                round(one["score"], 4),
                one["evaluator"],
                why.get((row["episode_id"], one["agent"], one["dimension"], one["evaluator"]), ""),
            ]
            for one in row["scores"]
        ],
    }


def _reasons(version: Version, episodes: set[str]) -> dict[tuple[str, ...], str]:
    """(episode, agent, dimension, evaluator) -> the reasoning of the first sample that has one."""
    if "reasoning" not in version.manifest.columns.get("attributions", {}):
        return {}
    reasons: dict[tuple[str, ...], str] = {}
    for row in _rows(version, "attributions", _WHY):
        if row["turn"] < 0 and row["reasoning"] and row["episode_id"] in episodes:
            reasons.setdefault((row["episode_id"], row["agent"], row["dimension"], row["judge"]), row["reasoning"])
    return reasons


def _rows(version: Version, config: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    for files in version.files(config).values():
        for batch in read(files, columns, 1 << 10, encoded=False):
            yield from batch.to_pylist()
