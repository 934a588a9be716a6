"""remake(): the next version of a dataset with its rewards built anew from what is stored. It calls no model.

Episodes, attributions and failures are taken over as they are (hard links); only `rewards` is written. Where the layout
stays, prompts and completions are passed through untouched.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sotopia_rl_data.code import code
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.prompts import Layout, Template, layout_id, prompts_of
from sotopia_rl_data.rewards.build import Built, Sources, build
from sotopia_rl_data.rewards.recipe import Recipe
from sotopia_rl_data.rewards.texts import RenderedTexts, StoredTexts, Texts
from sotopia_rl_data.store import Store, Version

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Remade:
    """The version that holds the rewards, whether it is new, and what was built."""

    version: Version
    created: bool
    built: Built


def remake(
    store: Store,
    source: Version,
    recipe: Recipe,
    *,
    layout: Layout = "single",
    template: Template | None = None,
    out: str | None = None,
    version: str | None = None,
    progress: Callable[[int], object] | None = None,
) -> Remade:
    """Build the rewards of `source` by `recipe` and commit them as the next version of `out` (default: its own name).

    Raises UsageError where `source` holds no episodes or the recipe weighs what was never asked, and what committing
    raises; the store is then as it was.
    """
    configs = source.manifest.configs
    if "episodes" not in configs:
        raise UsageError(
            f"{source.ref} holds no episodes to make rewards from.", "name a labelled dataset: sotopia-rl-data list"
        )
    text = layout_id(layout, template)
    episodes = source.files("episodes")
    texts: Texts = RenderedTexts(episodes, lambda e: prompts_of(e, layout, template))
    if "rewards" in configs and source.manifest.recipe.get("layout") == text:  # it is laid out so already
        texts = StoredTexts(source.files("rewards"))
    attributions = source.files("attributions") if "attributions" in configs else {}
    with store.stage(out or source.name) as stage:
        with TemporaryDirectory(prefix=".wide-", dir=stage.dir) as scratch:
            built = build(
                recipe,
                Sources(episodes, attributions, texts),
                write=partial(stage.write, "rewards"),
                scratch=Path(scratch),
                on_progress=progress,
            )
        for config in ("episodes", "attributions", "failures"):
            if config in configs:
                stage.link(source, config)
        kept = {name: value for name, value in source.manifest.recipe.items() if name not in ("rewards", "layout")}
        known = {
            **source.manifest.provenance,
            "parents": [{"name": source.name, "version": source.version, "digest": source.digest}],
            "code": code(),
            "rewards": built.provenance(),
        }
        committed = stage.commit(kept | {"rewards": built.recipe.as_dict(), "layout": text}, known, version)
    return Remade(committed.version, committed.created, built)
