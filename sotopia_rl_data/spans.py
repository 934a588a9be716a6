"""The spans of a text that only some may see.

They are XML in SOTOPIA's scenarios, goals and utterances. `<p viewer="agent_0">…</p>` is for the first agent
alone, whatever the tag is called (positions count from 0; an agent's own id or name works too; `environment` is not an
agent). `<extra_info>`, `<strategy_hint>` … are for the agent that the text is about. Whatever is unclear is hidden: a
tag that is never closed hides everything after it, and a viewer that cannot be read is nobody.
"""

from __future__ import annotations

import re
from collections.abc import Container

from sotopia_rl_data.schema import Episode

HINTS = ("extra_info", "strategy_hint", "clarification_hint", "secret_info")
FIELD_TAGS = ("p", *HINTS)

_TAG = re.compile(r"<(/?)([A-Za-z_][\w.:-]*)((?:\s[^<>]*)?)>")
_VIEWER = re.compile(r"""\bviewers?\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'=]+))""", re.IGNORECASE)


def visible(text: str, episode: Episode, agent: str, *, tags: Container[str] = (), hidden: Container[str] = ()) -> str:
    """What `agent` may read of `text`.

    A span with a viewer is cut unless the viewer is this agent. Tags in `tags` are removed and their content stays;
    tags in `hidden` are removed with their content; all other tags are plain text.
    """
    if "<" not in text:
        return text
    shown: list[str] = []
    open_spans: list[tuple[str, bool]] = []  # tag, whether its content is shown
    last = 0
    for match in _TAG.finditer(text):
        if all(is_shown for _, is_shown in open_spans):
            shown.append(text[last : match.start()])
        last = match.end()
        is_markup = _take(match, open_spans, episode, agent, tags, hidden)
        if not is_markup and all(is_shown for _, is_shown in open_spans):
            shown.append(match.group())
    if all(is_shown for _, is_shown in open_spans):
        shown.append(text[last:])
    return "".join(shown)


def without_tags(text: str) -> str:
    """The text for a reader who may know everything: the tags of `FIELD_TAGS` are removed, their content stays."""
    return _TAG.sub(lambda tag: "" if tag.group(2).lower() in FIELD_TAGS else tag.group(), text)


def _take(
    match: re.Match[str],
    open_spans: list[tuple[str, bool]],
    episode: Episode,
    agent: str,
    tags: Container[str],
    hidden: Container[str],
) -> bool:
    """Open or close a span. False where the tag is plain text."""
    closing, name, attributes = match.group(1), match.group(2).lower(), match.group(3)
    inside = [i for i, (opened, _) in enumerate(open_spans) if opened == name]
    if closing:
        if inside:
            del open_spans[inside[-1]]
        return bool(inside) or name in tags or name in hidden
    restricted = "viewer" in attributes.lower()
    if not (restricted or inside or name in tags or name in hidden):
        return False
    if not attributes.endswith("/"):
        is_shown = name not in hidden and (not restricted or _is_viewer(attributes, episode, agent))
        open_spans.append((name, is_shown))
    return True


def _is_viewer(attributes: str, episode: Episode, agent: str) -> bool:
    match = _VIEWER.search(attributes)
    if match is None:
        return False
    viewers = next(group for group in match.groups() if group is not None).strip()
    viewer = _viewer_id(viewers, episode)
    if viewer is not None:
        return viewer == agent
    parts = re.split(r"[,;]|\s+(?=agent_\d)", viewers)
    return any(_viewer_id(part.strip(), episode) == agent for part in parts)


def _viewer_id(label: str, episode: Episode) -> str | None:
    """The id of the agent that a viewer's label stands for: an id, else a name, else a position ("agent_0")."""
    ids = [a.agent for a in episode.agents]
    if label in ids:
        return label
    namesakes = [a.agent for a in episode.agents if a.name == label]
    if len(namesakes) == 1:
        return namesakes[0]
    match = re.fullmatch(r"agent_(\d{1,4})", label)
    if match is None or int(match[1]) >= len(ids):
        return None
    return ids[int(match[1])]
