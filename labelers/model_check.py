"""One tiny question to one model: whether it answers, in which form, with which parameters, for how many tokens.

Nothing is kept. The question is sent again only where the server refuses it as it is meant (in weaker forms, to find
the strongest one that it takes), and where the limit of the answer was too tight.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

from sotopia_rl_data.asking.answer_limit import AnswerLimits, has_begun
from sotopia_rl_data.asking.forms import body_in
from sotopia_rl_data.asking.keys import key_for
from sotopia_rl_data.asking.providers import ModelName, api_client
from sotopia_rl_data.asking.transport import ApiClient
from sotopia_rl_data.costs.bill import added
from sotopia_rl_data.costs.prices import Prices
from sotopia_rl_data.errors import BadAnswer, Rejected, Unavailable
from sotopia_rl_data.labelers.schemas import answers
from sotopia_rl_data.request import Finish, Reply, Request, Usage

_SCHEMA = answers.of_keys({"rating": answers.one_of([0, 1, 2, 3])})
_QUESTION = (
    'Mia says: "Good morning!" Ben answers: "Good morning, how are you?" How friendly is his answer, from 0 (not at '
    'all) to 3 (very)? Answer in JSON, as {"rating": 2}.'
)
_NOT_PARAMETERS = ("model", "messages", "system", "response_format", "output_config", "prompt_cache_key")


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """What one question has shown. `key` is the variable of the key that was sent, `way` how the answer's schema was
    passed (after stronger ways were refused), `parameters` what was sent besides the question. `usage` and `cost` are
    those of every question that was sent. `fault` says why the answer cannot be used, and is empty where it can. `cost`
    is in USD at the prices of `as_of`, None where no price is known."""

    model: str
    url: str
    key: str
    way: str
    parameters: Mapping[str, Any]
    returned_model: str
    finish: Finish
    answer: str
    fault: str
    usage: Usage
    cost: float | None
    as_of: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The check as JSON holds it."""
        return asdict(self)


def check_model(name: ModelName, sampling: Mapping[str, Any], prices: Prices, timeout_s: float = 90.0) -> ModelCheck:
    """Ask the model. Raises KeyMissing, Rejected, Unavailable, UsageError."""
    return asyncio.run(_check(name, sampling, prices, timeout_s))


async def _check(name: ModelName, sampling: Mapping[str, Any], prices: Prices, timeout_s: float) -> ModelCheck:
    client = api_client(name, sampling)
    target = client.target
    request = Request(target, [{"role": "user", "content": _QUESTION}], _SCHEMA, schema_name="rating")
    began = time.monotonic()
    try:
        async with asyncio.timeout(timeout_s):
            replies = await _replies(client, request)
    except TimeoutError:
        raise Unavailable(
            f"{target.model} at {target.base_url} has not answered within {timeout_s:g} s.",
            "wait longer with --timeout, or see what the server does",
        ) from None
    finally:
        await client.close()
    price = prices.of(target)
    form, api = client.form_for(request), client.api
    sent = body_in(form, request, api.body_of, api.ways)
    reply, usage = replies[-1], reduce(added, (each.usage for each in replies))
    return ModelCheck(
        model=target.model,
        url=target.base_url,
        key=key_for(target).variable,
        way=api.ways[form.way],
        parameters={name: value for name, value in sent.items() if name not in _NOT_PARAMETERS},
        returned_model=reply.model,
        finish=reply.finish,
        answer=reply.text,
        fault=_fault(reply),
        usage=usage,
        cost=None if price is None else sum(price.at(each.usage.input).cost(each.usage) for each in replies),
        as_of=prices.source(target),
        seconds=round(time.monotonic() - began, 3),
    )


async def _replies(client: ApiClient, request: Request) -> list[Reply]:
    """All that came until the strongest form was found, the last of them in that form."""
    limits = AnswerLimits()
    limited = limits.limited(request)
    try:
        replies = [await client.send(limited)]
    except Rejected as error:
        if not limits.is_suspect(limited, error):
            raise
        limited = request
        replies = [await client.send(request)]
    while not client.is_settled(request):  # the strongest form was refused: find out which part has to go
        replies.append(await client.send(limited))
    if limited.limit is not None and replies[-1].finish == "length" and not has_begun(replies[-1]):
        replies.append(await client.send(request))
    return replies


def _fault(reply: Reply) -> str:
    """What is wrong with an answer, read as a judge's is."""
    try:
        answers.check(_SCHEMA, answers.parse(reply.answer))
    except BadAnswer as error:
        return error.message
    return ""
