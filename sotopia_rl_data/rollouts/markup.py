"""What one agent sees of a text with XML in it, as the sotopia library shows it, byte for byte.

The tags of `root`, `p` and the hints are removed and their content stays. Every other element is removed with its
content, and so is an element with a viewer other than this agent (`agent_0`, `agent_1` … in speaking order). Text that
is not well-formed is read as libxml2 recovers it: a lone "<" is lost, an end tag closes whatever element is open, and
if none is open the rest of the text is lost. In such text an ampersand is kept before the first mistake and lost after.

In some texts the library would show a span to an agent that it is not for: the whole text is one element with a viewer;
a viewer has no quotes or is given twice; another end tag is inside the span. Here such a span is hidden, which
docs/rollouts.md lists.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.parsers import expat

HINTS = ("extra_info", "clarification_hint", "strategy_hint")
_SHOWN = ("root", "p", *HINTS)

_SPECIAL = re.compile("[<&\r\x00-\x08\x0b\x0c\x0e-\x1f]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
_NAME = r"[A-Za-z_:\u0080-\U0010ffff][\w.:·-]*"
_ATTRIBUTE = rf"""\s+{_NAME}\s*=\s*(?:"[^"<]*"|'[^'<]*')"""
_PIECE = re.compile(
    rf"<!--(?:.*?-->|.*)|<\?{_NAME}(?:.*?\?>|.*)|<!\[CDATA\[(?:(?P<data>.*?)]]>|.*)"
    rf"|</(?P<end>{_NAME})?\s*>?"
    rf"|<(?P<start>{_NAME})(?P<attributes>(?:{_ATTRIBUTE})*(?:\s+{_NAME}(?:\s*=)?)?)\s*(?P<close>/?>)?",
    re.DOTALL,
)
_ENTITY = re.compile(r"&(?:lt|gt|amp|quot|apos|#\w+);")
_REST = re.compile("[^<>]*")
_VIEWER = re.compile(r"""\sviewers?\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)


def shown(text: str, place: int) -> str:
    """What the agent at `place` in the speaking order (from 0) sees of `text`."""
    if not _SPECIAL.search(text):
        return text
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _MarkupReader(f"agent_{place}", entities=_well_formed(text)).read(text)


def _well_formed(text: str) -> bool:
    parser = expat.ParserCreate()
    try:
        parser.Parse(f"<root>{text}</root>".encode(errors="replace"), True)
    except expat.ExpatError:
        return False
    return True


class _Element(NamedTuple):
    """An open element. `shown`: its content is seen; `withheld`: it is not, because it is for another viewer."""

    name: str
    shown: bool
    withheld: bool


@dataclass(slots=True)
class _MarkupReader:
    """Reads one text from left to right. `open` has the open elements, of which `hidden` are not shown. `mistaken`: the
    text was not well-formed so far."""

    viewer: str
    entities: bool
    open: list[_Element] = field(default_factory=list)
    hidden: int = 0
    mistaken: bool = False
    pieces: list[str] = field(default_factory=list)

    def read(self, text: str) -> str:
        position = 0
        while position < len(text):
            at = text.find("<", position)
            end = len(text) if at < 0 else at
            self._text(text[position:end])
            position = end
            if at >= 0:
                match = _PIECE.match(text, at)
                position = match.end() if match else at + 1
                if match is None:
                    self.mistaken = True
                elif self._markup(match, text):
                    break
        return "".join(self.pieces)

    def _text(self, text: str) -> None:
        if self.hidden:
            return
        if self.mistaken:
            text = text.replace("&", "")
        self.pieces.append(html.unescape(text) if self.entities else text)

    def _markup(self, match: re.Match[str], text: str) -> bool:
        """Take one piece of markup. True: it closed the root, and nothing more is read."""
        if match["data"] is not None:
            if not self.hidden:
                self.pieces.append(match["data"])
        elif match["start"]:
            self._start(match, text)
        elif match.group().startswith("</"):
            if not self.open:
                return True
            self._end(match["end"])
        return False

    def _end(self, name: str | None) -> None:
        if self.open[-1].name != name:
            self.mistaken = True
            if self.open[-1].withheld:
                return
        if not self.open.pop().shown:
            self.hidden -= 1

    def _start(self, match: re.Match[str], text: str) -> None:
        attributes = match["attributes"]
        if match["close"] is None:
            self.mistaken = True
            if "viewer" in (attributes + _REST.match(text, match.end())[0]).lower():  # type: ignore[index]  # always matches
                self._opened(_Element(match["start"], shown=False, withheld=True))
        elif match["close"] == ">":
            viewers = [double or single for double, single in _VIEWER.findall(attributes)]
            withheld = "viewer" in attributes.lower() and viewers != [self.viewer]
            self._opened(_Element(match["start"], match["start"] in _SHOWN and not withheld, withheld))

    def _opened(self, element: _Element) -> None:
        self.open.append(element)
        if not element.shown:
            self.hidden += 1


def fault(text: str, agents: int) -> str | None:
    """What is wrong with a text written for `agents` agents, in the form "has …"; None if nothing is.

    Wrong is only what would be lost in play or shown to the wrong agent: `shown` itself takes any text.
    """
    if not _SPECIAL.search(text):
        return None
    if _ENTITY.search(text) and not _well_formed(text) and _well_formed(text.replace("&", "&amp;")):
        return 'has a plain "&" beside entities, which would then be read as they stand (it is written &amp;)'
    if not _well_formed(text.replace("&", "&amp;")):
        return 'has markup that is not well-formed XML (a plain "<" is written &lt;)'
    viewers = (*(f"agent_{place}" for place in range(agents)), "environment")
    for match in _PIECE.finditer(text):
        if match["start"] and match["start"] not in _SHOWN:
            return f"has the element <{match['start']}>, which nobody would see; there are {', '.join(_SHOWN)}"
        for double, single in _VIEWER.findall(match["attributes"] or ""):
            viewer = double or single
            if viewer and viewer not in viewers:
                return f"is for the viewer {viewer!r}; there are {', '.join(viewers)}"
    return None
