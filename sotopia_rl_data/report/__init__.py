"""A version as one self-contained page: distributions, correlations, agreement, failures, cost, and every dialogue.

    contents.py   what the page shows, as one JSON value: read from the version's own rows and manifest
    dialogues.py  the dialogues, most of the page: episodes, utterances and opinions, in columns
    page.py       the HTML: template, styles and scripts from `assets/`, the JSON embedded so that no text can escape
    assets/       page.html, style.css, and the scripts

The page loads nothing: its Content-Security-Policy allows only the page's own styles and scripts, by their hashes. The
text of a dialogue is only ever put into text nodes, so it cannot become markup.
"""

from __future__ import annotations

from pathlib import Path

from sotopia_rl_data.report.contents import contents
from sotopia_rl_data.report.dialogues import UTTERANCES
from sotopia_rl_data.report.page import page, write_page
from sotopia_rl_data.store import Version

__all__ = ["UTTERANCES", "contents", "page", "write_report"]


def write_report(version: Version, path: Path, *, utterances: int = UTTERANCES, seed: int = 0) -> dict[str, int]:
    """Write the report of `version` to `path`, whole or not at all; returns the counts of what it shows.

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
