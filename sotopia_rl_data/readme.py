"""The part of a version's README.md that the store owns: which Parquet is which config, and a few facts.

`load_dataset` finds the configs only by this front matter. Everything else in the file (license, tags, a person's
prose, what `cards/` writes outside the marked block) is carried over from the version before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sotopia_rl_data.schema import Manifest, Split

BEGIN, END = "<!-- sotopia-rl-data:begin -->", "<!-- sotopia-rl-data:end -->"
_FRONT = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n?", re.DOTALL)
_BLOCK = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)


def render(manifest: Manifest, previous: str | None = None) -> str:
    """README.md for `manifest`, keeping what people wrote in `previous` (the README of the version before)."""
    import yaml

    front, body = split_front(previous or "")
    owned = {**front, "configs": data_files(manifest.configs)}
    block = f"{BEGIN}\n{_facts(manifest)}\n{END}"
    if _BLOCK.search(body):
        body = _BLOCK.sub(lambda _: block, body, count=1)
    else:
        body = (body.rstrip() or f"# {manifest.name}") + f"\n\n{block}\n"
    text = yaml.safe_dump(owned, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n{body if body.startswith(chr(10)) else chr(10) + body}"


def split_front(text: str) -> tuple[dict[str, Any], str]:
    """A README's YAML front matter and what follows it; ({}, text) where it has none."""
    import yaml

    found = _FRONT.match(text)
    if not found:
        return {}, text
    try:
        front = yaml.safe_load(found.group(1))
    except yaml.YAMLError:
        return {}, text[found.end() :]  # unreadable front matter cannot be carried over; the prose can
    return (front if isinstance(front, dict) else {}), text[found.end() :]


def data_files(configs: Mapping[str, Mapping[str, Split]]) -> list[dict[str, Any]]:
    """The `configs` of the front matter: explicit always, else manifest.json would be read as data.

    A config without rows is left out: `datasets` (5.2) refuses to load a split of zero rows.
    """
    loadable = {c: splits for c, splits in configs.items() if any(one.rows for one in splits.values())} or configs
    default = next((c for c in ("rewards", "episodes") if c in loadable), next(iter(loadable), ""))
    return [
        {
            "config_name": config,
            **({"default": True} if config == default else {}),
            "data_files": [{"split": split, "path": f"{config}/{split}-*.parquet"} for split in splits],
        }
        for config, splits in loadable.items()
    ]


def _facts(manifest: Manifest) -> str:
    splits = list(dict.fromkeys(split for config in manifest.configs.values() for split in config))
    rows = [
        f"| `{config}` | " + " | ".join(f"{of[split].rows:,}" if split in of else "" for split in splits) + " |"
        for config, of in manifest.configs.items()
    ]
    head = [f"| config | {' | '.join(splits)} |", f"|---|{'---:|' * len(splits)}"]
    return "\n".join([f"**{manifest.name} {manifest.version}** · digest `{manifest.digest[:16]}`", "", *head, *rows])
