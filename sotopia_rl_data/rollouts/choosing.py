"""Which scenes `--scenarios` names: the bundled ones, a file of one's own, or the published benchmark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.rollouts.profiles import HARD, read_profiles
from sotopia_rl_data.rollouts.scenarios import bundled, read_scenarios
from sotopia_rl_data.rollouts.scene import Scene

PUBLISHED = ("hard", "all")


def scenes_of(named: str = "samples", profiles: str | Path | None = None, pairs: int | None = None) -> list[Scene]:
    """The scenes that `named` names, at most `pairs` of each environment, in order.

    samples: those that ship with the package. hard, all: SOTOPIA's benchmark, whose profile files lie in the folder
    `profiles`. Anything else is a file of scenarios. Raises UsageError, InputError, NotFound.
    """
    if pairs is not None and pairs < 1:
        raise UsageError(f"--pairs {pairs} leaves nobody to play.", "give 1 or more, or leave it out")
    if named in PUBLISHED:
        if profiles is None:
            raise UsageError(
                f"The scenarios {named!r} are SOTOPIA's, whose profiles do not ship with this package.",
                "download its agent, environment and pair profiles, and name the folder: --profiles DIR",
            )
        return list(read_profiles(profiles).scenes(HARD if named == "hard" else None, pairs))
    if profiles is not None:
        raise UsageError("--profiles belongs to --scenarios hard or all.", "name one of them, or leave --profiles out")
    if named != "samples" and not Path(named).exists():
        raise UsageError(f"There are no scenarios {named!r}.", "name samples, hard, all, or a file: ./scenarios.yaml")
    return list(_first(bundled() if named == "samples" else read_scenarios(named), pairs))


def _first(scenes: Iterable[Scene], pairs: int | None) -> Iterator[Scene]:
    counted: Counter[str] = Counter()
    for scene in scenes:
        counted[scene.environment.environment_id] += 1
        if pairs is None or counted[scene.environment.environment_id] <= pairs:
            yield scene
