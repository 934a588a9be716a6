"""What the page shows, as one JSON value: facts, totals, failures, the bill, agreement, and the dialogues.

Everything is read from the version's own rows and manifest. What is drawn from the shown utterances (distributions,
correlations, curves) is computed by the page itself, so that it follows the filters; what needs all rows (agreement,
failures, totals) is computed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sotopia_rl_data.agreement import MEASURES, OVERALL, Agreement, opinions_of
from sotopia_rl_data.agreement.measure import Figure, agreement_of
from sotopia_rl_data.agreement.opinions import Opinions
from sotopia_rl_data.agreement.plot import TITLES
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.query import connect
from sotopia_rl_data.report.dialogues import UTTERANCES, dialogues, is_keyed, rounded
from sotopia_rl_data.store import Version

_REASONS = 50
_RESAMPLES = 500
_MOST_OPINIONS = 12  # a matrix of more opinions is too large to be read
_LABELS = ("schema", "ask", "samples", "evaluator")
_REWARDS = ("rule", "normaliser", "average", "weights")


def contents(version: Version, *, utterances: int = UTTERANCES, seed: int = 0) -> dict[str, Any]:
    """The page's data. Raises UsageError where the version holds no rewards."""
    if "rewards" not in version.manifest.configs:
        raise UsageError(
            f"{version.ref} holds no rewards to report on.",
            f"make them of its labels: sotopia-rl-data rewards {version.name}"
            if "attributions" in version.manifest.configs
            else f"label it first: sotopia-rl-data label {version.name} --judge gpt-4o",
        )
    opinions = opinions_of([version]) if "attributions" in version.manifest.configs else None
    shown = dialogues(version, opinions, utterances, seed)
    return {
        "title": version.name,
        "version": version.version,
        "digest": version.digest[:12],
        "created": version.manifest.created[:10],
        "facts": list(_facts(version)),
        "tiles": _tiles(version, shown),
        "failures": _failures(version),
        "bill": _bill(version.manifest.provenance),
        "agreement": _agreement(opinions),
        **shown,
    }


def _facts(version: Version) -> Iterator[tuple[str, str]]:
    """(name, value) of the settings that determined the rows, such as the judge and the rule."""
    recipe = version.manifest.recipe
    labels, rewards = (recipe[part] if isinstance(recipe.get(part), Mapping) else {} for part in ("labels", "rewards"))
    judges = [str(one.get("judge")) for one in labels.get("judges", [])]
    if judges:
        yield "judges" if len(judges) > 1 else "judge", ", ".join(judges)
    yield from ((name, _text(labels[name])) for name in _LABELS if labels.get(name) not in (None, [], ""))
    if recipe.get("scale"):
        yield "scale", f"0 to {_text(recipe['scale'])}"
    yield from ((name, _text(rewards[name])) for name in _REWARDS if rewards.get(name))
    if isinstance(recipe.get("layout"), Mapping):
        yield "prompts", _text(recipe["layout"].get("template", recipe["layout"].get("layout")))
    parents = version.manifest.provenance.get("parents", [])
    if parents:
        yield "made from", ", ".join(f"{parent.get('name')}@{parent.get('version')}" for parent in parents)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _tiles(version: Version, shown: Mapping[str, Any]) -> list[tuple[str, int]]:
    """(name, count) of what the whole version holds, not only of what the page shows."""
    rows = {name: sum(split.rows for split in splits.values()) for name, splits in version.manifest.configs.items()}
    with connect(version, threads=1) as connection:
        query = "SELECT count(DISTINCT environment_id), count(reward) FROM rewards"
        environments, rewarded = connection.execute(query).fetchone() or (0, 0)
    episodes = [("episodes", rows.get("episodes", len(shown["episodes"]["id"])))] if is_keyed(version) else []
    return [
        *episodes,
        ("environments", environments),
        ("utterances", rows["rewards"]),
        ("with a reward", rewarded),
        ("labels", rows.get("attributions", 0)),
        ("failures", rows.get("failures", 0)),
    ]


def _failures(version: Version) -> list[tuple[str, int]]:
    """(reason, how often it occurs) of the failures, the most frequent first."""
    if "failures" not in version.manifest.configs:
        return []
    with connect(version, threads=1) as connection:
        query = f"SELECT reason, count(*) AS n FROM failures GROUP BY 1 ORDER BY n DESC, reason LIMIT {_REASONS}"
        return [(str(reason), int(n)) for reason, n in connection.execute(query).fetchall()]


def _bill(provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The calls, tokens and cost of each judge, as far as the manifest holds them."""
    found = []
    for one in provenance.get("judges", []):
        usage = one.get("usage") or {}
        usage = usage if any(usage.values()) else {}  # counts that are all 0 mean that nobody counted the tokens
        found.append(
            {
                "judge": str(one.get("judge", "")),
                "calls": one.get("calls"),
                "models": ", ".join(name for name in (one.get("returned_models") or {}) if name),
                **{name: usage.get(name) for name in ("input", "cached", "written", "output")},
                "usd": next((one[key] for key in ("usd", "cost", "cost_usd") if isinstance(one.get(key), float)), None),
            }
        )
    return found


def _agreement(opinions: Opinions | None) -> dict[str, Any] | None:
    """The matrices and intervals; None where opinions cannot be compared, or are too many for a matrix."""
    if opinions is None or not 2 <= len(opinions.names) <= _MOST_OPINIONS:
        return None
    try:
        agreement = agreement_of(opinions, resamples=_RESAMPLES)
    except UsageError:  # no two opinions are about the same utterance
        return None
    dimensions = [OVERALL, *(agreement.dimensions if len(agreement.dimensions) > 1 else ())]
    return {
        "names": [opinion.name for opinion in agreement.opinions],
        "dimensions": dimensions,
        "measures": [(name, TITLES[name]) for name in MEASURES],
        "cells": {d: _cells(agreement, d) for d in dimensions},
        "together": {one.dimension: _rounded_figure(one.alpha) for one in agreement.together},
    }


def _cells(agreement: Agreement, dimension: str) -> list[dict[str, Any]]:
    place = {one.name: i for i, one in enumerate(agreement.opinions)}
    return [
        {
            "a": place[pair.a],
            "b": place[pair.b],
            "n": pair.units,
            **{name: _rounded_figure(figure) for name, figure in pair.figures.items()},
        }
        for pair in agreement.pairs
        if pair.dimension == dimension
    ]


def _rounded_figure(figure: Figure) -> list[float | None]:
    return [rounded(value) for value in (figure.value, figure.low, figure.high)]
