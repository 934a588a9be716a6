"""Who may read which span of a text: the XML that SOTOPIA's scenarios, goals and utterances carry.

`<p viewer="agent_0">…</p>` is for the first agent alone (positions count from 0; an agent's own id or name works too;
`environment` is nobody), whatever the tag is called. `<extra_info>`, `<strategy_hint>` … are for the agent that the
text is about. Anything unclear is hidden: a tag that is never closed hides to the end, a viewer that cannot be read is
nobody.
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

    Spans with a viewer are cut unless it is this agent. The tags named in `tags` vanish and leave their content, those
    in `hidden` vanish with it; all others are plain text.
    """
    if "<" not in text:
        return text
    shown: list[str] = []
    open_spans: list[tuple[str, bool]] = []
    last = 0
    for match in _TAG.finditer(text):
        if all(may for _, may in open_spans):
            shown.append(text[last : match.start()])
        last = match.end()
        if not _take(match, open_spans, episode, agent, tags, hidden) and all(may for _, may in open_spans):
            shown.append(match.group())
    if all(may for _, may in open_spans):
        shown.append(text[last:])
    return "".join(shown)


def without_tags(text: str) -> str:
    """The text as a person who may know all reads it: the tags of `FIELD_TAGS` vanish, what they hold stays."""
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
        may = name not in hidden and (not restricted or _is_viewer(attributes, episode, agent))
        open_spans.append((name, may))
    return True


def _is_viewer(attributes: str, episode: Episode, agent: str) -> bool:
    match = _VIEWER.search(attributes)
    if match is None:
        return False
    named = next(group for group in match.groups() if group is not None).strip()
    whole = _who(named, episode)
    if whole is not None:
        return whole == agent
    return any(_who(one.strip(), episode) == agent for one in re.split(r"[,;]|\s+(?=agent_\d)", named))


def _who(named: str, episode: Episode) -> str | None:
    """The id of the agent that a viewer's name stands for; ids and names go before positions."""
    ids = [a.agent for a in episode.agents]
    if named in ids:
        return named
    called = [a.agent for a in episode.agents if a.name == named]
    if len(called) == 1:
        return called[0]
    position = re.fullmatch(r"agent_(\d{1,4})", named)
    return ids[int(position.group(1))] if position and int(position.group(1)) < len(ids) else None
