"""A version as one self-contained page: distributions, correlations, agreement, failures, cost, and every dialogue.

    contents.py   what the page shows, as one JSON value: read from the version's own rows and manifest
    dialogues.py  the part of it that grows with the data: episodes, utterances and opinions, in columns
    page.py       the HTML: template, styles and scripts from `assets/`, the JSON embedded so that no text can escape
    assets/       page.html, style.css, and the scripts

The page loads nothing and may load nothing: its Content-Security-Policy allows its own styles and scripts by their
hashes and nothing else. Text of a dialogue only ever becomes a text node.
"""

from __future__ import annotations

from pathlib import Path

from sotopia_rl_data.report.contents import contents
from sotopia_rl_data.report.dialogues import UTTERANCES
from sotopia_rl_data.report.page import page, write_page
from sotopia_rl_data.store import Version

__all__ = ["UTTERANCES", "contents", "page", "write_report"]


def write_report(version: Version, path: Path, *, utterances: int = UTTERANCES, seed: int = 0) -> dict[str, int]:
    """Write the report of `version` to `path`, whole or not at all; returns what it holds, counted.

    Up to `utterances` are shown, in whole episodes that are drawn by `seed` where there are more. Raises UsageError
    where the version holds no rewards, StoreError where the file cannot be written.
    """
    found = contents(version, utterances=utterances, seed=seed)
    size = write_page(page(found), path)
    return {
        "episodes": len(found["episodes"]["id"]),
        "utterances": len(found["utterances"]["text"]),
        "bytes": size,
    }
