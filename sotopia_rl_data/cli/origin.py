"""What a manifest tells of a version: the command that made it, from what, its recipe, judges, models and counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sotopia_rl_data.store import Version


@dataclass(frozen=True, slots=True)
class Origin:
    """The facts as words; None where the manifest has none. `command` is None where an earlier release made it."""

    command: str | None
    parents: str | None
    recipe: str | None
    judges: str | None
    models: str | None
    episodes: int | None
    utterances: int | None
    splits: str


def origin_of(version: Version) -> Origin:
    """Reads nothing but the manifest."""
    known, recipe = version.manifest.provenance, version.manifest.recipe
    counts = {config: sum(one.rows for one in of.values()) for config, of in version.manifest.configs.items()}
    judges = known.get("judges", [])
    played = [recipe["rollout"][place]["model"] for place in ("a", "b")] if recipe.get("rollout") else []
    answered = [model for judge in judges for model in judge.get("returned_models") or {} if model]
    return Origin(
        command=known.get("command"),
        parents=_listed(f"{parent['name']}@{parent['version']}" for parent in known.get("parents", [])),
        recipe=_recipe(recipe),
        judges=_listed(judge["judge"] for judge in judges),
        models=_listed([*played, *answered]),
        episodes=counts.get("episodes"),
        utterances=counts.get("rewards", (known.get("counts") or {}).get("utterances")),
        splits=_splits(version),
    )


def _recipe(recipe: Mapping[str, Any]) -> str | None:
    """The schema and rule, or the rules of the game, in a few words."""
    labels, rewards, played = (recipe.get(name) or {} for name in ("labels", "rewards", "rollout"))
    parts = []
    if labels.get("schema"):
        parts.append(f"schema {labels['schema']}, {labels.get('samples', 1)} × {labels.get('ask', '')}".rstrip())
    if rewards.get("rule"):
        weights = ", ".join(f"{name}={weight:g}" for name, weight in rewards.get("weights", {}).items())
        parts.append(f"rule {rewards['rule']}, {rewards.get('normaliser')}, {weights}")
    if played:
        parts.append(f"{played['dialect']}, at most {played['turns']} turns")
    evaluated = [one.get("evaluator", "") for one in recipe.get("evaluations") or []]
    if evaluated:
        parts.append(f"scored by {', '.join(evaluated)}")
    return "; ".join(parts) or None


def _splits(version: Version) -> str:
    """26 / 4 / 2: the episodes (else the rewards) in train, validation and test."""
    configs = version.manifest.configs
    of = configs.get("episodes") or configs.get("rewards") or next(iter(configs.values()))
    return " / ".join(f"{of[name].rows:,}" if name in of else "0" for name in ("train", "validation", "test"))


def _listed(words: Any) -> str | None:
    return ", ".join(dict.fromkeys(words)) or None
