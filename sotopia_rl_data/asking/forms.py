"""The form in which a request is put: as it is meant, or in a weaker one that its server takes.

A server may know no JSON schemas, or a model no temperature, no system message, or the limit of its answer under
another name. Leaves out which form is chosen: that is found out by trying (`negotiation.py`). The key of a request is
that of the question as it is meant, in whatever form it is put.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sotopia_rl_data.request import Request
from sotopia_rl_data.schema import Message

_LIMITS = ("max_tokens", "max_completion_tokens")  # the two names of the same limit
BodyOf = Callable[[Request, str], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class RequestForm:
    """How a request is put. `way` is the index of the way in which the answer's schema is passed, 0 the strictest;
    `no_temperature`: the temperature is left out; `folded`: the system text stands in front of the first user message;
    `limit`: the name under which the token limit is sent, where that is another one than meant."""

    way: int = 0
    no_temperature: bool = False
    folded: bool = False
    limit: str = ""

    def words(self, ways: Sequence[str]) -> str:
        """What is weaker than meant, for people and for the ledger; empty where nothing is."""
        told = []
        if self.way:
            told.append("the schema in words" if ways[self.way] == "text" else f"{ways[self.way]} in place of a schema")
        if self.no_temperature:
            told.append("no temperature")
        if self.folded:
            told.append("the system text in the first user message")
        if self.limit:
            told.append(f"the token limit as {self.limit}")
        return ", ".join(told)

    def as_dict(self) -> dict[str, Any]:
        """The form as JSON holds it."""
        return asdict(self)

    @classmethod
    def of(cls, told: object, ways: Sequence[str]) -> RequestForm | None:
        """The form that JSON holds; None where it holds none."""
        if not isinstance(told, Mapping) or told.keys() != asdict(MEANT).keys():
            return None
        types = all(type(told[name]) is type(value) for name, value in asdict(MEANT).items())
        known = types and 0 <= told["way"] < len(ways) and told["limit"] in ("", *_LIMITS)
        return cls(**told) if known else None


MEANT = RequestForm()


def body_in(form: RequestForm, request: Request, body_of: BodyOf, ways: Sequence[str]) -> dict[str, Any]:
    """The JSON that is posted for a request in this form."""
    body = body_of(_folded(request) if form.folded else request, ways[form.way])
    if form.no_temperature:
        body.pop("temperature", None)
    if form.limit:
        for name in set(_LIMITS) & body.keys():
            body[form.limit] = body.pop(name)
    return body


def weaker_forms(request: Request, body_of: BodyOf, ways: Sequence[str]) -> list[RequestForm]:
    """The forms to try for a request that was refused as it was meant, so few that any mixture of faults is found:
    all parameters weaker at once, first with the strictest way; what was not needed is put back afterwards."""
    has_system = any(message["role"] == "system" for message in request.messages)
    body = body_of(request, ways[0])
    weak = RequestForm(no_temperature="temperature" in body, folded=has_system)
    last = len(ways) - 1 if request.answer_schema is not None else 0
    forms = [replace(weak, way=way) for way in range(last + 1)]
    other = _other_limit(body)
    if other:
        forms += [replace(weak, limit=other), replace(weak, limit=other, way=last)]
    return [form for form in dict.fromkeys(forms) if form != MEANT]


def hinted(form: RequestForm, param: str, body: Mapping[str, Any]) -> RequestForm:
    """The form that an error suggests by the parameter that it names; the same form where it suggests none."""
    if param == "temperature" and "temperature" in body:
        return replace(form, no_temperature=True)
    if param in _LIMITS and param in body:
        return replace(form, limit=_other_limit(body))
    if param.startswith("messages") and ("system" in body or any(m["role"] == "system" for m in body["messages"])):
        return replace(form, folded=True)
    return form


def stronger_by_one(form: RequestForm) -> list[RequestForm]:
    """The form with one thing put back as it is meant, for each thing that it weakens."""
    # where the limit needed its other name, the ways between the strictest and words alone have not been tried yet
    way = 1 if form.limit and form.way > 1 else 0
    one_back = [replace(form, way=way), replace(form, no_temperature=False), replace(form, folded=False)]
    return [stronger for stronger in [*one_back, replace(form, limit="")] if stronger != form]


def with_change(form: RequestForm, old: RequestForm, new: RequestForm) -> RequestForm:
    """The form with the one thing changed in which `new` differs from `old`."""
    before = asdict(old)
    return replace(form, **{name: value for name, value in asdict(new).items() if value != before[name]})


def _other_limit(body: Mapping[str, Any]) -> str:
    """The other name of the token limit in a body; empty where it has none."""
    return next((other for name, other in (_LIMITS, _LIMITS[::-1]) if name in body), "")


def _folded(request: Request) -> Request:
    """The request with its system text in front of its first user message."""
    texts = [message["content"] for message in request.messages if message["role"] == "system"]
    rest = [message for message in request.messages if message["role"] != "system"]
    if not texts:
        return request
    first: Message = {"role": "user", "content": "\n\n".join([*texts, *(m["content"] for m in rest[:1])])}
    if rest and rest[0]["role"] != "user":
        first, rest = {"role": "user", "content": "\n\n".join(texts)}, [first, *rest]
    shared = sum(message["role"] != "system" for message in request.messages[: request.cache_until])
    return replace(request, messages=[first, *rest[1:]], cache_until=shared)
