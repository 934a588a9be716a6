"""The chat template with which a run reads dialogues: tried before anything is trained, corrected where that is safe.

A template is somebody else's program, and what it leaves out is not noticed: one drops the system's message (rules,
goal, secret) without a word, one adds an empty thought before the last answer only. So dialogues of marked messages are
rendered, of each sequence of roles that the data has. The text of every message must be there. Cloning and DPO also
need the prompt's tokens to begin those of prompt and answer, and nothing to be learned but the answer and its end. None
of it may hang on today's date.

Two faults can be corrected, by Jinja in front of the template or after it: the system's message goes to the head of the
first user's, and what the template writes before an answer ends the prompt. The corrected template is the tokenizer's
own from then on. It is saved with the model, so whoever serves the model renders what it was trained on; settings
(`template_kwargs`) are kept in the same way. What cannot be corrected is refused, where the data needs it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sotopia_rl_data.errors import BadAnswer, InputError, UsageError
from sotopia_rl_data.schema import Message
from sotopia_rl_data.thoughts import without_thought
from sotopia_rl_data.trainers.modeling import first_line

log = logging.getLogger(__name__)

Use = Literal["rm", "sft", "grpo", "dpo"]
HINT = "use an instruct model, or name a template with --set chat_template=FILE.jinja"
DATE = "strftime_now"  # what transformers lets a template call for today's date
SOME_DAY = "26 Jul 2024"
GIVEN = {"messages", "add_generation_prompt", "raise_exception"}  # what every template is given with a dialogue
PAIR = ("user", "assistant")
COMMON = (PAIR, PAIR * 2, ("system", *PAIR), ("system", *PAIR * 2), ("system", *PAIR * 3))  # the roles of our layouts

FOLDED = (
    "{%- if messages and messages[0]['role'] == 'system' %}"
    "{%- if messages[1:] and messages[1]['role'] == 'user' %}"
    "{%- set messages = [{'role': 'user', 'content': messages[0]['content'] + '\\n\\n' + messages[1]['content']}]"
    " + messages[2:] %}"
    "{%- else %}{%- set messages = [{'role': 'user', 'content': messages[0]['content']}] + messages[1:] %}"
    "{%- endif %}{%- endif %}"
)
ASKED = "{%- set asked = add_generation_prompt %}{%- set add_generation_prompt = false %}"


@dataclass(frozen=True, slots=True)
class RenderedDialogue:
    """A dialogue of marked messages as a template renders it: its prompt, and prompt and answer; as text and as ids."""

    messages: tuple[Mapping[str, str], ...]
    prompt: str
    whole: str
    prompt_ids: list[int]
    whole_ids: list[int]

    @property
    def rest(self) -> str | None:
        """What follows the prompt; None where the prompt does not begin prompt and answer."""
        return self.whole[len(self.prompt) :] if self.whole.startswith(self.prompt) else None

    @property
    def opening(self) -> str:
        """What the template writes before the answer and not at the end of a prompt."""
        before, found, _ = (self.rest or "").partition(self.messages[-1]["content"])
        return before if found else ""


def probe(tokenizer: Any, roles: Sequence[str]) -> RenderedDialogue:
    """Render a dialogue of these roles, of which the last is the answer's. Raises what the template raises."""
    messages = [_marked(role, place) for place, role in enumerate(roles)]

    def rendered(messages: Sequence[Mapping[str, str]], asking: bool) -> tuple[str, list[int]]:
        chat = {"conversation": list(messages), "add_generation_prompt": asking}
        ids = tokenizer.apply_chat_template(**chat, return_dict=True)["input_ids"]
        return str(tokenizer.apply_chat_template(**chat, tokenize=False)), list(ids)

    (prompt, prompt_ids), (whole, whole_ids) = rendered(messages[:-1], True), rendered(messages, False)
    return RenderedDialogue(tuple(messages), prompt, whole, prompt_ids, whole_ids)


def _marked(role: str, place: int) -> Mapping[str, str]:
    text = f'message {place}, with "quotes" & a mark <b{place}>'
    return {"role": role, "content": json.dumps({"argument": text}) if role == "assistant" else text}


def fault(tokenizer: Any, roles: Sequence[str], use: Use) -> str | None:
    """What is wrong with how the template renders a dialogue of these roles (of which the last is the answer's), as the
    end of a sentence; None where nothing is. `use` says what the dialogue is for: a policy by GRPO reads prompts only.
    """
    try:
        seen = probe(tokenizer, roles)
    except Exception as error:  # noqa: BLE001  # a template is a program, which may raise anything
        return f"refuses a dialogue of the roles {', '.join(roles)}: {first_line(error)}"
    texts = {"rm": [seen.whole], "grpo": [seen.prompt]}.get(use, [seen.prompt, seen.whole])
    read = seen.messages[:-1] if use == "grpo" else seen.messages
    for message in read:
        asked = texts if message is not seen.messages[-1] else texts[-1:]
        if any(message["content"] not in text for text in asked):
            return f"loses the text of the {message['role']}'s message in a dialogue of the roles {', '.join(roles)}"
    if use == "rm" or (use == "grpo" and seen.prompt != _unprompted(tokenizer, seen) and _can_be_read(tokenizer, seen)):
        return None
    if seen.opening.strip():
        return f"writes {seen.opening!r} before an answer, and not at the end of a prompt"
    if use == "grpo":
        return None
    if seen.rest is None or seen.whole_ids[: len(seen.prompt_ids)] != seen.prompt_ids:
        return "renders a prompt otherwise once an answer follows it, so the answer cannot be learned alone"
    after = seen.rest.partition(seen.messages[-1]["content"])[2]
    for token in sorted(map(str, tokenizer.added_tokens_decoder.values()), key=len, reverse=True):
        after = after.replace(token, "")
    return f"writes {after.strip()!r} after an answer, which would be learned with it" if after.strip() else None


def _unprompted(tokenizer: Any, seen: RenderedDialogue) -> str:
    """The prompt of a probe without what asks for an answer."""
    return str(tokenizer.apply_chat_template(list(seen.messages[:-1]), tokenize=False))


def _can_be_read(tokenizer: Any, seen: RenderedDialogue) -> bool:
    """Whether a policy that writes what the template does after the prompt is read as having said the answer: without
    control tokens and without its thought. The name of a channel, say, stays before it."""
    written = tokenizer(seen.rest or "", add_special_tokens=False)["input_ids"]
    try:
        said = without_thought(tokenizer.decode(written, skip_special_tokens=True))
    except BadAnswer:
        return False
    return seen.rest is None or said.strip().startswith(seen.messages[-1]["content"])


def check_roles(tokenizer: Any, roles: Sequence[str], use: Use) -> None:
    """Raises InputError where the template cannot be used for dialogues of these roles."""
    wrong = fault(tokenizer, roles, use)
    if wrong is not None:
        raise InputError(f"The chat template {wrong}.", HINT)


def check_texts(tokenizer: Any, messages: Sequence[Message], asking: bool) -> None:
    """Raises InputError where the template changes what a real message says, as one that shortens long texts does.
    Thoughts, which many templates leave out, are not looked at. `asking`: the messages are a prompt."""
    try:
        text = str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=asking))
    except Exception as error:
        raise InputError(
            f"The chat template cannot render a dialogue: {first_line(error).rstrip('.')}.", HINT
        ) from error
    for message in messages:
        try:
            said = without_thought(message["content"]).strip()
        except BadAnswer:
            continue
        if said not in text:
            told = f"The chat template changes the text of the {message['role']}'s message {said[:60]!r}"
            raise InputError(f"{told} of {len(said):,} characters.", HINT)


def prepare_template(tokenizer: Any, use: Use, settings: Mapping[str, Any] | None = None) -> None:
    """Give the tokenizer the template that this run uses: with `settings` (template_kwargs), and corrected where its
    own has a fault for dialogues as they commonly are. What is still wrong is refused when the data is rendered.

    Raises UsageError for a setting that the template does not read, InputError where it cannot be parsed or hangs on
    today's date.
    """
    if not getattr(tokenizer, "chat_template", None):
        return
    tokenizer.chat_template = str(tokenizer.get_chat_template())
    variables = _variables(tokenizer.chat_template)
    if settings:
        check_settings(settings, variables)
        tokenizer.chat_template = _settings(settings) + tokenizer.chat_template
    _check_date(tokenizer, variables - set(settings or {}))
    if len({_whole(tokenizer, PAIR) for _ in range(8)}) > 1:
        raise InputError("The chat template renders one dialogue in several ways, as if by chance.", HINT)
    correct(tokenizer, use)


def _variables(template: str) -> set[str]:
    """The names that a template reads and does not set itself. Raises InputError where it cannot be parsed."""
    from jinja2 import Environment, TemplateError, meta

    plain = re.sub(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}", "", template)  # a tag of transformers' own
    try:
        return set(meta.find_undeclared_variables(Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)))
    except (TemplateError, RecursionError) as error:
        raise InputError(f"The chat template cannot be parsed: {first_line(error).rstrip('.')}.", HINT) from error


def check_settings(settings: Mapping[str, Any], variables: set[str]) -> None:
    """Raises UsageError for a setting that is not one of the `variables` that the template reads."""
    known = sorted(variables - GIVEN)
    for name in settings:
        if name not in known:
            hint = f"it reads {', '.join(known)}" if known else "leave template_kwargs out"
            raise UsageError(f"The chat template does not read {name!r}, which template_kwargs sets.", hint)


def _settings(settings: Mapping[str, Any]) -> str:
    """Jinja that sets these variables. Today's date is a function, which then says the same each day."""
    return "".join(
        f"{{%- macro {DATE}(format) %}}{{{{ {_literal(str(value))} }}}}{{% endmacro %}}"
        if name == DATE
        else f"{{%- set {name} = {_literal(value)} %}}"
        for name, value in settings.items()
    )


def _literal(value: Any) -> str:
    """A value of YAML as Jinja writes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(str(key))}: {_literal(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _check_date(tokenizer: Any, variables: set[str]) -> None:
    """Raises InputError where the template writes today's date; the hint names the setting that fixes it."""
    template = tokenizer.chat_template
    if DATE not in variables or len(_texts_on_two_days(tokenizer, template)) < 2:
        return
    names = sorted(variables - {DATE, *GIVEN})
    fixes = ((name, _texts_on_two_days(tokenizer, _settings({name: SOME_DAY}) + template)) for name in names)
    name = next((name for name, texts in fixes if len(texts) == 1 and SOME_DAY in min(texts)), DATE)
    raise InputError(
        "The chat template writes today's date, so the model would be read with other tokens tomorrow.",
        f"fix the date: --set template_kwargs='{{{name}: {SOME_DAY}}}'",
    )


def _texts_on_two_days(tokenizer: Any, template: str) -> set[str]:
    """Dialogues with and without a system's message, as the template renders them on two days."""
    own, texts = tokenizer.chat_template, set()
    for day in ("one day", "another day"):
        tokenizer.chat_template = _settings({DATE: day}) + template
        texts.add("\n".join(_whole(tokenizer, roles) for roles in (PAIR, ("system", *PAIR))))
    tokenizer.chat_template = own
    return texts


def _whole(tokenizer: Any, roles: Sequence[str]) -> str:
    """A dialogue of these roles; nothing where the template refuses it."""
    try:
        return probe(tokenizer, roles).whole
    except Exception:  # noqa: BLE001  # a template is a program, which may raise anything
        return ""


def correct(tokenizer: Any, use: Use) -> None:
    """Give the tokenizer the form of its template with the fewest faults over common dialogues: its own, or one that is
    corrected, which is said."""
    own = str(tokenizer.get_chat_template())
    found = {own: "", FOLDED + own: "puts the system's text at the head of the first user's message"}
    if use != "rm":
        for template, what in list(found.items()):
            for opened, opening in _opened(tokenizer, template):
                found[opened] = f"{what}{' and ' if what else ''}ends each prompt with {opening!r}"
    faults = {template: _faults(tokenizer, template, use) for template in found}
    tokenizer.chat_template = best = min(found, key=lambda template: len(faults[template]))
    if best != own:
        log.warning(
            "The chat template %s. It is used, and saved with the model, in a form that %s.",
            faults[own][0],
            found[best],
        )


def _faults(tokenizer: Any, template: str, use: Use) -> list[str]:
    tokenizer.chat_template = template
    return [wrong for roles in COMMON if (wrong := fault(tokenizer, roles, use)) is not None]


def _opened(tokenizer: Any, template: str) -> Iterator[tuple[str, str]]:
    """Forms of this template whose prompts end as its answers begin, and with what: more is added to the end that it
    writes itself, or else that end is replaced."""
    for silenced in ("", ASKED):
        tokenizer.chat_template = silenced + template
        opening = next((text for roles in COMMON if (text := _opening(tokenizer, roles)).strip()), "")
        if opening:
            asked = "asked" if silenced else "add_generation_prompt"
            end = f"{{%- if {asked} %}}{{{{ {_literal(opening)} }}}}{{%- endif %}}"
            yield silenced + template.removesuffix("\n") + end, opening


def _opening(tokenizer: Any, roles: Sequence[str]) -> str:
    """What the template writes between a prompt of these roles and its answer; nothing where it refuses them."""
    try:
        return probe(tokenizer, roles).opening
    except Exception:  # noqa: BLE001  # a template is a program, which may raise anything
        return ""
