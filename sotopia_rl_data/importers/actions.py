"""What one rendered action says; whose actions a turn holds is in `messages.py`.

The five forms, the same in every version of the sotopia library (git after January 2026 puts a space in front and may
name the only ones who see it):

    did nothing | left the conversation | said: "…" | [non-verbal communication] … | [action] …
    [private to ['Ann Lee']]  said: "…"

A form is recognised by how it begins, never searched for inside the text: speech may quote any of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.literals import nested
from sotopia_rl_data.schema import ActionType

_PRIVATE = "[private to "
_SPEECH = 'said: "'
_WORDLESS: dict[str, ActionType] = {"did nothing": "none", "left the conversation": "leave"}
_TAGGED: dict[str, ActionType] = {"[non-verbal communication] ": "non-verbal communication", "[action] ": "action"}
_DONE: dict[ActionType, str] = {action_type: said for said, action_type in (_WORDLESS | _TAGGED).items()}


@dataclass(frozen=True, slots=True)
class LoggedAction:
    """A parsed action. `to` holds the names of the only ones who may see it."""

    action_type: ActionType
    text: str = ""
    to: tuple[str, ...] = ()

    @property
    def visible(self) -> bool:
        """False for the plain "did nothing", which is chosen and forced alike. One that names recipients is chosen."""
        return self.action_type != "none" or bool(self.to)


_FORCED = ("did nothing", " did nothing")
_NOTHING = LoggedAction("none")


def parse_action(rendered: str, *, cut: bool = False) -> LoggedAction:
    """The action that `rendered` stands for. `cut` lets speech end without its closing quote (text that was split at
    blank lines). Raises InputError where it has none of the five forms."""
    if rendered in _FORCED:  # most actions of a log
        return _NOTHING
    to, said = _recipients(rendered)
    said = said.lstrip(" ")
    if said in _WORDLESS:
        return LoggedAction(_WORDLESS[said], to=to)
    if said.startswith(_SPEECH):
        return LoggedAction("speak", _unquote(said, rendered, cut), to)
    for tag, action_type in _TAGGED.items():
        if said.startswith(tag) or said == tag.rstrip():
            return LoggedAction(action_type, said[len(tag) :], to)
    raise InputError(f"the action {_short(rendered)} has none of the library's five forms.")


def render_action(action: LoggedAction, *, spaced: bool = False) -> str:
    """The text that stands for `action` in a log, which `parse_action` reads; `spaced` as git after January 2026."""
    if action.action_type == "speak":
        done = f'{_SPEECH}{action.text}"'
    else:
        done = _DONE[action.action_type] + (action.text if action.action_type in _TAGGED.values() else "")
    to = f"{_PRIVATE}{list(action.to)}] " if action.to else ""
    return f"{to} {done}" if spaced else f"{to}{done}"


def _unquote(said: str, rendered: str, cut: bool) -> str:
    inner = said[len(_SPEECH) :]
    if inner.endswith('"'):
        return inner[:-1]
    if cut:
        return inner
    raise InputError(f"the speech {_short(rendered)} has no closing quote.")


def _recipients(rendered: str) -> tuple[tuple[str, ...], str]:
    """The names in `[private to ['A', "B"]] `, and what follows. Names may hold brackets and quotes."""
    if not rendered.startswith(_PRIVATE + "["):
        return (), rendered
    end = rendered.find("]]")
    while end != -1:
        try:
            names = nested(rendered[len(_PRIVATE) : end + 1], "the list of recipients")
        except InputError:  # this "]]" lies inside a name
            end = rendered.find("]]", end + 1)
            continue
        if isinstance(names, list) and names and all(isinstance(n, str) for n in names):
            return tuple(names), rendered[end + 2 :]
        break
    raise InputError(f"the recipients of {_short(rendered)} cannot be read.")


def _short(rendered: str) -> str:
    return repr(rendered if len(rendered) <= 80 else rendered[:79] + "…")
