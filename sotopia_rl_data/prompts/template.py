"""A template: the text around what an agent saw, as a YAML file with named slots. Our own are in `templates/`.

The file, which is identified by the SHA-256 of its bytes:

    format: sotopia-rl-data template 1
    name: my-simulator                   default: the file's name
    layout: single                       or chat: the last message is repeated, once for each of the agent's own turns
    observations: recorded               byte for byte as logged; or view: as our own layouts show them (the default)
    joiner: "\\n"                         the text between two observations
    separator: " "                       the text between two action types
    strip: false                         true: the white space around each observation is removed
    echoes: {"{word}": schema}           a word in an observation that the simulator itself replaced by a slot's text
    variants:                            the first variant whose `when` holds is used
    - when: {dialect: [legacy]}          any of FEATURES; empty or absent: always
      actions: [[speak, leave, none]]    orders of the action list; the first, the commonest, is rendered
      schema: '{"properties": …}'        the text of {schema}
      messages:
      - {role: user, content: "You are {agent}. {observations} Turn {turn}: {actions} {schema}"}

All SLOTS are filled in one pass, so that a slot inside a value is never filled. Any other brace (a JSON schema is full
of them) is plain text. Plain text that looks like a slot is written with `{lbrace}` for its brace: `{lbrace}agent}`
stands for the text `{agent}`. Exactly one message has {observations}.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast, get_args

import yaml

from sotopia_rl_data import yaml_nodes
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.outputs import aside
from sotopia_rl_data.schema import ACTION_TYPES, Message

Layout = Literal["single", "chat"]
Source = Literal["view", "recorded"]
Feature = str | int | bool

BRACE = "lbrace"
FORMAT = "sotopia-rl-data template 1"
SLOTS = ("agent", "partner", "goal", "observations", "turn", "turn_from_1", "actions", "enum", "schema")
FEATURES = ("dialect", "private", "model", "agents", "position", "first")
_DEFAULTS: dict[str, Any] = {
    "layout": "single",
    "observations": "view",
    "joiner": "\n",
    "separator": " ",
    "strip": False,
    "echoes": {},
    "variants": None,
}
_TOP = ("format", "name", *_DEFAULTS)
_VARIANT = ("when", "actions", "schema", "messages")
_Check = Callable[[bool, str], None]


@dataclass(frozen=True, slots=True)
class Variant:
    """One wrapper: messages whose contents have slots. `when` says for which episodes, agents and turns it is used."""

    messages: tuple[Message, ...]
    when: Mapping[str, tuple[Feature, ...]] = field(default_factory=dict)
    actions: tuple[tuple[str, ...], ...] = (ACTION_TYPES,)
    schema: str = ""

    def holds(self, features: Mapping[str, Feature]) -> bool:
        """True where every feature in `when` has one of the values named there."""
        return all(features.get(name) in values for name, values in self.when.items())


@dataclass(frozen=True, slots=True)
class Template:
    """A template as read. `text` is the file's text, `sha256` its hash; the head of the module describes the rest."""

    name: str
    text: str
    sha256: str
    layout: Layout
    observations: Source
    joiner: str
    separator: str
    strip: bool
    echoes: Mapping[str, str]
    variants: tuple[Variant, ...]

    def variant(self, features: Mapping[str, Feature]) -> Variant:
        """The first variant that holds. Raises InputError where none does."""
        for variant in self.variants:
            if variant.holds(features):
                return variant
        raise InputError(
            f"Template {self.name!r} has no variant for {dict(features)}.",
            "learn it again from a log that has such requests: prompts learn SERVED_LOG",
        )

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the file in one step. Raises StoreError where that fails, InputError where it has other content."""
        target = Path(path)
        with aside(target) as beside:
            if target.exists() and not overwrite and target.read_bytes() != self.text.encode():
                raise InputError(
                    f"{str(target)!r} exists already and is not this template.", "name another file with -o"
                )
            beside.write_bytes(self.text.encode())
        return target


def load_template(path: str | Path) -> Template:
    """The template in a file. Raises InputError with what is wrong with it."""
    try:
        text = yaml_nodes.text_of(Path(path))
    except OSError as error:
        raise InputError(f"Template {str(path)!r} cannot be read: {error.strerror}.", "check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"Template {str(path)!r} is not UTF-8 text.",
            "templates are YAML; `sotopia-rl-data prompts learn` writes one",
        ) from error
    return parse_template(text, Path(path).stem)


@lru_cache
def own_template(layout: Layout) -> Template:
    """The template of one of our own layouts. Raises UsageError for an unknown layout."""
    if layout not in get_args(Layout):
        raise UsageError(f"{layout!r} is not a layout.", f"name one of: {', '.join(get_args(Layout))}")
    return parse_template(own_file(f"{layout}.v1.yaml"), f"{layout}.v1")


def own_file(name: str) -> str:
    """The text of a file in `templates/`."""
    return resources.files("sotopia_rl_data").joinpath("templates", name).read_text("utf-8")


def parse_template(text: str, name: str) -> Template:
    """The template of a file's text; `name` is its name if the text has none. Raises InputError."""
    fields = yaml_nodes.values(text, f"The template {name}", "a template", f"it must begin with `format: {FORMAT}`")
    check = partial(_check, name)
    check(isinstance(fields, dict) and fields.get("format") == FORMAT, f"does not say 'format: {FORMAT}'")
    fields = _DEFAULTS | fields
    unknown = [str(key) for key in fields if key not in _TOP]
    check(not unknown, f"has unknown fields: {', '.join(unknown)}")
    check(fields["layout"] in get_args(Layout), f"has layout {fields['layout']!r}; it is single or chat")
    check(fields["observations"] in get_args(Source), "has observations that are neither view nor recorded")
    check(all(isinstance(fields[key], str) for key in ("joiner", "separator")), "has a joiner that is not text")
    echoes, variants = fields["echoes"], fields["variants"]
    check(
        isinstance(echoes, dict) and all(isinstance(letters, str) and letters for letters in echoes),
        "has echoes that are not a map from texts to slots",
    )
    check(all(slot in SLOTS for slot in echoes.values()), "has echoes that do not name a slot")
    check(isinstance(variants, list) and bool(variants), "has no variants")
    return Template(
        name=str(fields.get("name") or name),
        text=text,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        layout=fields["layout"],
        observations=fields["observations"],
        joiner=fields["joiner"],
        separator=fields["separator"],
        strip=bool(fields["strip"]),
        echoes=dict(echoes),
        variants=tuple(_variant(variant, check, fields["layout"]) for variant in variants),
    )


def _variant(value: Any, check: _Check, layout: Layout) -> Variant:
    fields_known = isinstance(value, dict) and set(value) <= set(_VARIANT)
    check(fields_known, f"has a variant with other fields than {', '.join(_VARIANT)}")
    when = value.get("when") or {}
    when_known = isinstance(when, dict) and set(when) <= set(FEATURES)
    check(when_known, f"has a `when` of other features than {', '.join(FEATURES)}")
    actions = value.get("actions") or [list(ACTION_TYPES)]
    are_lists = isinstance(actions, list) and all(isinstance(order, list) and order for order in actions)
    are_names = are_lists and all(isinstance(one, str) for order in actions for one in order)
    check(are_names, "has actions that are not lists of names")
    schema = value.get("schema", "")
    check(isinstance(schema, str), "has a schema that is not text (put it in quotes)")
    return Variant(
        messages=_messages(value.get("messages"), check, layout),
        when={key: tuple(values) if isinstance(values, list) else (values,) for key, values in when.items()},
        actions=tuple(tuple(order) for order in actions),
        schema=schema,
    )


def _messages(value: Any, check: _Check, layout: Layout) -> tuple[Message, ...]:
    check(isinstance(value, list) and bool(value), "has a variant without messages")
    for one in value:
        check(isinstance(one, dict) and set(one) == {"role", "content"}, "has a message that is not {role, content}")
        check(one["role"] in ("system", "user", "assistant"), f"has the role {one['role']!r}")
        check(isinstance(one["content"], str), "has a message whose content is not text")
    places = [i for i, message in enumerate(value) if "observations" in slots_in(message["content"], SLOTS)]
    check(len(places) == 1, "has a variant where not exactly one message holds {observations}")
    if layout == "chat":
        check(places[0] == len(value) - 1, "is a chat template whose last message lacks {observations}")
        check(value[-1]["role"] == "user", "is a chat template whose last message is not the user's")
    return tuple(cast(Message, dict(message)) for message in value)


def _check(name: str, is_right: bool, what: str) -> None:
    """Raises InputError with what is wrong with the template `name`, unless `is_right`."""
    if not is_right:
        raise _bad_template(name, what)


def _bad_template(name: str, what: str) -> InputError:
    return InputError(
        f"Template {name!r} {what}.", "a file that `sotopia-rl-data prompts learn` wrote shows a template's fields"
    )


def compose(
    *, name: str, joiner: str, separator: str, strip: bool, echoes: Mapping[str, str], variants: tuple[Variant, ...]
) -> Template:
    """A learned template: written as a file's text and read back, so that the file is sure to say what was learned."""
    fields: dict[str, Any] = {"format": FORMAT, "name": name, "layout": "single", "observations": "recorded"}
    fields |= {"joiner": joiner, "separator": separator, "strip": strip, "echoes": dict(echoes)}
    fields["variants"] = [
        {
            "when": {key: list(values) for key, values in variant.when.items()},
            "actions": [list(order) for order in variant.actions],
            "schema": variant.schema,
            "messages": [dict(message) for message in variant.messages],
        }
        for variant in variants
    ]
    text = yaml.dump(fields, Dumper=_BlockDumper, sort_keys=False, allow_unicode=True, width=2**31)
    template = parse_template(text, name)
    if (template.joiner, template.separator, template.variants) != (joiner, separator, variants):
        raise InputError(
            "The wrapper holds characters that YAML cannot keep.", "remove control characters from the log"
        )
    return template


class _BlockDumper(yaml.SafeDumper):
    """Writes long texts as blocks with their line breaks, wherever YAML keeps the text exactly."""


_NOT_IN_BLOCKS = re.compile("[^\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010fffe]")
"""Control characters, tabs, unusual line breaks: YAML keeps them only as escapes between double quotes."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None
    if "\n" in text:
        style = "|" if text.strip() else '"'
    if _NOT_IN_BLOCKS.search(text):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_BlockDumper.add_representer(str, _text)


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` with each slot `{name}` of `values` replaced by its value, in one pass."""
    pieces = _pieces(text, tuple(values))
    filled = {**values, BRACE: "{"}
    return "".join(filled[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def escape(text: str, names: Iterable[str]) -> str:
    """`text`, written so that `fill` with these names gives `text` itself."""
    return re.sub("{(?=" + _any_of((*names,)) + "})", "{" + BRACE + "}", text)


def slots_in(text: str, names: Iterable[str]) -> set[str]:
    """Those of `names` that are slots in `text`."""
    return set(_pieces(text, (*names,))[1::2]) - {BRACE}


def _any_of(names: tuple[str, ...]) -> str:
    return "(" + "|".join(map(re.escape, (*names, BRACE))) + ")"


@lru_cache(maxsize=1024)
def _pieces(text: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """`text` cut at its slots: literal, name, literal, name … literal."""
    return tuple(re.split("{" + _any_of(names) + "}", text))
