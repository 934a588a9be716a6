"""What an error of a provider means: asked again, given up, or the end of the run; and how it is told.

Limits and an empty account are told apart by the status, by the identifiers in `code` and `type`, and by Retry-After,
never by the words of a message: these differ from provider to provider and from month to month. What neither of them
tells is found out by trying (`negotiation.py`, `stopping.py`).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from sotopia_rl_data.asking.keys import key_for, name_the_key
from sotopia_rl_data.errors import AskingError, Filtered, Rejected, Unavailable
from sotopia_rl_data.request import Reply, Target, Usage
from sotopia_rl_data.secrets import redact

# The identifiers of an empty account that the documentation of OpenAI, Anthropic and Moonshot names.
_NO_MONEY = frozenset(
    {
        "insufficient_quota",
        "billing_hard_limit_reached",
        "billing_not_active",
        "billing_error",
        "exceeded_current_quota_error",
    }
)
_RATE = frozenset({"rate_limit_exceeded", "rate_limit_error"})  # identifiers of a limit, whatever the status
# in the names and identifiers of an error, never in its sentences
_FILTER = re.compile(r"content_?(filter|policy)|moderation|flagged|prohibited|responsible_?ai|^safety$", re.IGNORECASE)
# reasons why an answer ended, in the words of Anthropic, Google, Zhipu and Amazon, that name no filter
_REFUSED = frozenset({"refusal", "recitation", "sensitive", "guardrail_intervened"})
_STATUSES = ("code", "status", "status_code", "statusCode")  # members that may hold the HTTP status of an error
_AGAIN = (408, 409, 425, 429)
_NOT_IMPLEMENTED = 501
_LONGEST_TEXT = 500  # characters of a provider's error that are shown
_LONGEST_PART = 300  # characters of each message in it, so that a router's words leave room for the upstream's
_MOST_PARTS = 10  # messages in an error that are looked at
_LOOKED_AT = 200_000  # characters of each text that are put on one line
_READ = 2_000  # characters of that line that are searched for secrets, which takes far longer than reading
_SPARE = 2_000  # characters behind these, which are searched too and never shown: the last secret may be halved
_DEEPEST = 8  # levels of an error body that are read
_LONGEST_WAIT_S = 7 * 86_400.0  # a Retry-After beyond a week says nothing
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)s?")

_TOP_UP = "top up the account or use another key, then run the same command again"
_HINTS = {
    401: "check the key in {variable}",
    403: "check what the key in {variable} may do",
    404: "check the model's name and the base URL",
}


def status_error(target: Target, status: int, body: object, headers: Mapping[str, str]) -> AskingError:
    """The error that an HTTP status and its body mean.

    Unavailable: 408, 409, 425, 429, 5xx but 501, and what names a limit or a time to wait. Rejected: the rest, with
    status 402 where the account is empty. Filtered: what names a content filter.
    """
    text = f"{target.model} at {target.base_url}: {status} {provider_text(body, key_for(target).value)}".rstrip()
    wait, names = retry_after(headers, body), _identifiers(body)
    is_limit = wait is not None or names & _RATE
    if (status == 402 and not is_limit) or (400 <= status < 500 and names & _NO_MONEY and not is_limit):
        return Rejected(text, _TOP_UP, status=402)
    if not is_limit and status not in (401, 402, 404, 413) and any(map(_FILTER.search, _names_in(body))):
        return Filtered(text, status=status)
    if (
        status in _AGAIN
        or (status >= 500 and status != _NOT_IMPLEMENTED)
        or (is_limit and status not in (401, 413) and status >= 400)
    ):
        limited = 429 if names & _RATE or (is_limit and status < 500) else status
        return Unavailable(text, "run the same command again later", status=limited, retry_after=wait)
    if status < 400:
        where = _short(headers.get("location", "another URL").partition("?")[0], key_for(target).value)
        return Rejected(f"{text}: it redirects to {where}", "write the URL that it redirects to", status=status)
    hint = _HINTS.get(status, "")
    if status in (401, 403):
        variable = key_for(target).variable
        hint = hint.format(variable=variable) if variable else name_the_key(target)
    elif status == 404 and target.provider == "openai" and not urlsplit(target.base_url).path.strip("/"):
        hint = f"most servers answer below /v1: write {target.base_url}/v1 as the base URL"
    return Rejected(text, hint, status=status, param=refused_parameter(body))


def unreachable(target: Target, reason: str, sent: bool = True) -> Unavailable:
    """The error for a request that got no response at all; `sent` is False where it was never sent. The reason may
    quote whatever was sent in a response's place."""
    told = _short(reason, key_for(target).value)
    return Unavailable(
        redact(f"{target.model} at {target.base_url} cannot be reached: {told}", key_for(target).value),
        "check the URL and that the server runs, then run the same command again",
        sent=sent,
    )


def error_inside(target: Target, body: object) -> AskingError:
    """The error for a 200 whose body tells of one in place of a completion: by the status or the limit that it names,
    else a fault."""
    return status_error(target, _status_inside(body) or 502, body, {})


def not_an_answer(target: Target, body: object, usage: Usage | None = None) -> AskingError:
    """The error for a 200 whose body is not a completion, with the tokens that it tells."""
    if usage is None and _status_inside(body):
        return error_inside(target, body)
    text = provider_text(body, key_for(target).value) or "(empty)"
    return Unavailable(
        f"{target.model} at {target.base_url} sent something that is not a completion: {text}",
        "check the base URL",
        status=200,
        tokens=tokens_of(usage),
    )


def _status_inside(body: object) -> int | None:
    """The HTTP status of an error that a body names, as a number or as the name of a limit; None where it names
    none."""
    places = [place for place in (_error_of(body), body) if isinstance(place, dict)]
    told = (str(place.get(name)) for place in places for name in _STATUSES)
    named = 429 if _identifiers(body) & _RATE else None
    return next((int(status) for status in told if re.fullmatch("[45][0-9][0-9]", status)), named)


def says_something(error: object) -> bool:
    """Whether a member for an error holds one: some servers send it empty beside each answer."""
    if isinstance(error, dict | list):
        return any(map(says_something, error.values() if isinstance(error, dict) else error))
    return bool(error)


def is_refusal(reason: str) -> bool:
    """Whether the reason why an answer ended, in small letters, is a refusal's or names a content filter."""
    return reason in _REFUSED or bool(_FILTER.search(reason))


def refusal_of(error: Filtered) -> Reply:
    """A content filter's error as the refusal that it is."""
    return Reply(error.message, "refusal")


def fault_inside(target: Target, fault: object, usage: Usage) -> Unavailable:
    """The error for a fault that a server tells inside a 200, beside or in place of the answer, with the tokens that it
    bills for it."""
    return Unavailable(
        f"{target.model} at {target.base_url} gave no whole answer: {provider_text(fault, key_for(target).value)}",
        "run the same command again later",
        status=429 if _status_inside(fault) == 429 else 502,
        tokens=tokens_of(usage),
    )


def tokens_of(usage: Usage | None) -> tuple[int, int, int, int] | None:
    """The tokens that are told; None where nothing is."""
    if usage is None or usage == Usage():
        return None
    return (usage.input, usage.cached, usage.written, usage.output)


def provider_text(body: object, *secrets: str) -> str:
    """What a provider's error body says, shortened and without secrets: its message, then the messages inside it, such
    as the reason that a router got from the server behind it."""
    told: list[str] = []
    for words in islice(_messages(_error_of(body), 0), _MOST_PARTS):
        part = _redacted(words, *secrets, loosely=False)
        part = part if len(part) <= _LONGEST_PART else f"{part[: _LONGEST_PART - 1]}…"
        if part and not any(part in before for before in told):
            told.append(part)
    text = " ".join(part if part[-1] in ".!?:" or part is told[-1] else f"{part}:" for part in told)
    if not text and body:
        text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, default=str)
    return _short(text, *secrets)


def _short(text: str, *secrets: str) -> str:
    """The beginning of what a server told, without secrets and without halves of surrogates, which no file and no
    terminal takes."""
    return _redacted(text, *secrets)[:_LONGEST_TEXT].encode(errors="replace").decode()


def _redacted(text: str, *secrets: str, loosely: bool = True) -> str:
    """The first characters of a text, on one line and without secrets, also without a half of one."""
    spare = max(_SPARE, 8 * max(map(len, secrets), default=0))  # a secret may come escaped, and broken by blanks
    line = " ".join(text[:_LOOKED_AT].split())
    told = redact(line[: _READ + spare], *secrets, loosely=loosely)
    return told if len(line) <= _READ + spare and len(text) <= _LOOKED_AT else told[:-spare]


def page_text(page: str) -> str:
    """The words of an error that is a page or a plain text."""
    return " ".join(re.sub(r"<(script|style)\b.*?</\1>|<[^<>]*>", " ", page, flags=re.DOTALL | re.IGNORECASE).split())


def retry_after(headers: Mapping[str, str], body: object = None) -> float | None:
    """Seconds that the provider asks us to wait, from `retry-after-ms` or `retry-after` (a number or a date), else from
    the `retryDelay` of the body; None where none of them is a time that can be waited for."""
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return _waitable(float(headers.get(name, "")) / divisor)
        except ValueError:
            continue
    from email.utils import parsedate_to_datetime

    try:
        return _waitable(max(parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time(), 0.0))
    except (ValueError, TypeError, OverflowError):
        return _waitable(_retry_delay(_error_of(body)))


def _waitable(seconds: float | None) -> float | None:
    return seconds if seconds is not None and 0 <= seconds <= _LONGEST_WAIT_S else None


def _retry_delay(error: object) -> float | None:
    """The delay in the `details` of an error of Google's (`google.rpc.RetryInfo`)."""
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else []:
        told = _SECONDS.fullmatch(str(detail.get("retryDelay"))) if isinstance(detail, dict) else None
        if told is not None:
            return float(told[1])
    return None


def refused_parameter(body: object) -> str:
    """The parameter that an error names as its cause (`param`); empty where it names none."""
    error = _error_of(body)
    param = error.get("param") if isinstance(error, dict) else None
    return param if isinstance(param, str) else ""


def _error_of(body: object) -> Any:
    """The error inside a body: `error`, or the body itself. Google's servers wrap the body in a list."""
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    return body.get("error") or body if isinstance(body, dict) else body


def _identifiers(body: object) -> frozenset[str]:
    """`code` and `type` of an error, in small letters."""
    error = _error_of(body)
    if not isinstance(error, dict):
        return frozenset()
    return frozenset(str(error.get(name)).lower() for name in ("code", "type"))


def _names_in(value: object, depth: int = 0) -> Iterator[str]:
    """The keys of an error body, and its texts of one word."""
    if isinstance(value, str) and len(value.split(None, 1)) == 1:
        yield value
    elif depth < _DEEPEST and isinstance(value, list):
        for part in value:
            yield from _names_in(part, depth + 1)
    elif depth < _DEEPEST and isinstance(value, dict):
        for name, part in value.items():
            yield name
            yield from _names_in(part, depth + 1)


def _messages(value: object, depth: int) -> Iterator[str]:
    """The sentences in an error: a `message` first, then every text of several words, also inside texts that are
    JSON."""
    if depth > _DEEPEST:
        return
    if isinstance(value, str):
        inner = _json_in(value)
        if inner is not None:
            yield from _messages(_error_of(inner), depth + 1)
        elif depth == 0 or len(value.split(None, 1)) > 1:
            yield value
    elif isinstance(value, list):
        for part in value:
            yield from _messages(part, depth + 1)
    elif isinstance(value, dict):
        if isinstance(value.get("message"), str) and _json_in(value["message"]) is None:
            yield value["message"]
        for part in value.values():
            yield from _messages(part, depth + 1)


def _json_in(text: str) -> Any:
    """The object or list that a text is the JSON of; None where it is plain text."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
