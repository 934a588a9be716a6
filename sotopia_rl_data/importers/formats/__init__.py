"""The formats that can be imported: one file each, and this table of them.

episode_log.py    the sotopia library's EpisodeLog, as stored, dumped or exported from Redis
export.py         the rows that the library's own export makes of EpisodeLogs, JSONL or CSV
annotated.py      sotopia-rl's annotated JSONL: two rows for each episode, with labels; methods.py: how they were made
plain.py          our own format, for people with their own simulator, and what `query` writes of episodes
simulation.py     simulations of τ-bench and τ²-bench
convokit.py       ConvoKit corpora
trl.py            TRL's rows of completions and preferences, and what `query` writes of rewards
training.py       training rows: a prompt, a completion, perhaps a reward
chat.py           chats with messages: OpenAI's, ShareGPT's
utterances.py     one utterance a row
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.importers.formats import (
    annotated,
    chat,
    convokit,
    episode_log,
    export,
    plain,
    simulation,
    training,
    trl,
    utterances,
)
from sotopia_rl_data.importers.formats.format import Format

FORMATS = (
    export.FORMAT,
    annotated.FORMAT,
    episode_log.FORMAT,
    plain.FORMAT,
    simulation.FORMAT,
    convokit.FORMAT,
    trl.PREFERENCES,
    trl.COMPLETIONS,
    training.FORMAT,
    utterances.FORMAT,
    chat.FORMAT,
)
"""In the order in which they are tried: a record is of the first format whose keys it has."""

EXAMPLES = frozenset({training.FORMAT, trl.COMPLETIONS, trl.PREFERENCES})
"""The formats whose records become training rows, and not episodes."""

PEOPLES = frozenset({chat.FORMAT, utterances.FORMAT, convokit.FORMAT})
"""The formats in which people's own words come: whoever publishes them is warned."""


def format_of(record: Any) -> Format | None:
    """The format of a record, by its keys; None if it is of no format."""
    if not isinstance(record, Mapping):
        return chat.FORMAT if chat.is_bare(record) else None
    return next((form for form in FORMATS if form.tells(record)), None)


def format_named(name: str) -> Format:
    """The format with this name. Raises UsageError with the names."""
    known = {form.name: form for form in FORMATS}
    if name not in known:
        raise UsageError(f"{name!r} is not a format.", f"name one of: {', '.join(known)}")
    return known[name]


def nearest(record: Any) -> tuple[str, str]:
    """What a record of no format lacks for the format that it comes nearest to, and the hint that says how to name it;
    two times "" where it is near none."""
    if not isinstance(record, Mapping):
        return "", ""
    lacking = [(form, form.lacks(set(record))) for form in FORMATS]
    near = [(len(lacks), form, lacks) for form, lacks in lacking if len(lacks) < len(form.keys)]
    if not near:
        return "", ""
    _, form, lacks = min(near, key=lambda one: (one[0], -len(one[1].keys)))
    groups = ", and ".join(_either(group) for group in lacks)
    columns = ",".join(f"COLUMN={_usual(group)}" for group in lacks)
    return (
        f"it comes nearest to {form.name}, for which it lacks {groups}",
        f"say which column is what: --map {columns}; sotopia-rl-data import --help has the formats",
    )


def _either(group: frozenset[str]) -> str:
    """The names of a group, of which one is enough; of many only the usual one and two more."""
    names = sorted(group, key=lambda name: (name != _usual(group), name))
    shown = [f"`{name}`" for name in names]
    return " or ".join(shown) if len(shown) < 4 else f"{shown[0]} (or {shown[1]}, {shown[2]} …)"


def _usual(group: frozenset[str]) -> str:
    return next((name for name in ("conversation", "speaker", "text", "messages") if name in group), min(group))
