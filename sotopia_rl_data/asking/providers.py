"""Models by name: which provider serves `gpt-4o`, what `openai:MODEL@URL` means, and a client for the model.

Leaves out pacing, retries and the ledger (`dispatch.py`), and what the requests say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from sotopia_rl_data.asking import anthropic, openai
from sotopia_rl_data.asking.fleet import SCHEME, Fleet
from sotopia_rl_data.asking.memory import EndpointMemory
from sotopia_rl_data.asking.transport import ApiClient
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.request import Reply, Request

# Models that are known by their name alone; any other model is written with its provider's prefix (`openai:…`).
_MODELS = {
    openai.PROVIDER: re.compile(r"(gpt|chatgpt)-.+|o\d(-.+)?"),
    anthropic.PROVIDER: re.compile(r"claude-.+"),
}
# What follows an "@" and looks like this is an address without http://, not a model's version.
_ADDRESS = re.compile(r"localhost\b|[\w.-]+:\d+|\d+(\.\d+){3}|[\w-]+(\.[\w-]+)+/")


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model behind a provider's API, as a spec or an entry of a judges file names it. `url` is "" for the provider's
    own address. `key` is the environment variable that holds the API key, "" for the one of the host; `sampling`
    overrides the defaults; `id` is its name in the data, "" for the model's. `servers` are the URLs of a fleet, which
    is known by its `id`."""

    provider: str
    model: str
    url: str = ""
    key: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    servers: tuple[str, ...] = ()


def parse_model(spec: str) -> ModelName | None:
    """The model that `spec` names; None where it is neither a known model nor has a provider's prefix. Raises
    UsageError."""
    provider, colon, rest = spec.partition(":")
    if colon and provider in _MODELS:
        model, at, url = rest.partition("@http")
        if not model:
            raise UsageError(f"{spec!r} does not name a model.", f"write {provider}:MODEL or {provider}:MODEL@URL")
        head, _, address = model.rpartition("@")
        if not at and head and ("://" in address or _ADDRESS.match(address)):
            raise UsageError(
                f"The address {address!r} in {spec!r} is not a URL that begins with http:// or https://.",
                f"write {provider}:{head}@http://{address.rpartition('://')[2]}",
            )
        return ModelName(provider, model, at[1:] + url)
    served_by = next((name for name, models in _MODELS.items() if models.fullmatch(spec)), None)
    return None if served_by is None else ModelName(served_by, spec)


def server_of(name: ModelName) -> str:
    """The host and port of the model's server, as in its URL; the name of a fleet. Raises UsageError for an unusable
    URL."""
    if name.servers:
        return name.id
    target = anthropic.target if name.provider == anthropic.PROVIDER else openai.target
    return urlsplit(target(name.model, name.url).base_url).netloc


def takes_temperature(provider: str, model: str) -> bool:
    """False for models that refuse a temperature other than their own."""
    return anthropic.takes_temperature(model) if provider == anthropic.PROVIDER else openai.takes_temperature(model)


def sampling_of(default: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """The default sampling with `overrides`, of which those in a nested object override its members alone; an override
    of None removes a parameter."""
    merged = dict(default)
    for name, value in (overrides or {}).items():
        inner = merged.get(name)
        merged[name] = sampling_of(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return {name: value for name, value in merged.items() if value is not None}


class ApiModel:
    """One model at one URL or at those of a fleet, with its name and how many requests it takes at once."""

    def __init__(self, client: ApiClient | Fleet, concurrency: int = 64, id_: str = "") -> None:
        self.id = id_ or client.target.model
        self.target = client.target
        self.concurrency = concurrency
        self._client = client

    @property
    def send(self) -> Callable[[Request], Coroutine[Any, Any, Reply]]:
        """How one request is sent. Raises what the client raises."""
        return self._client.send

    def use_memory(self, memory: EndpointMemory) -> None:
        """Remember there what the model takes, and go by what an earlier run has found."""
        self._client.use_memory(memory)

    async def close(self) -> None:
        """Close the connections; the next `send`, perhaps in another event loop, opens new ones."""
        await self._client.close()


def api_model(name: ModelName, sampling: Mapping[str, Any]) -> ApiClient | Fleet:
    """As `api_client`; of a fleet, the clients of all its servers as one."""
    if not name.servers:
        return api_client(name, sampling)
    clients = [_client(replace(name, url=url), sampling, name.id) for url in name.servers]
    return Fleet(replace(clients[0].target, base_url=f"{SCHEME}://{name.id}"), clients)


def api_client(name: ModelName, sampling: Mapping[str, Any]) -> ApiClient:
    """The model's client, with exactly this sampling. It is made before anything is asked, so that a missing key is
    found early. Raises KeyMissing, and UsageError, also for a fleet."""
    if name.servers:
        at = f"{name.provider}:{name.model}@{name.servers[0]}"
        raise UsageError(f"{name.id} is a fleet of {len(name.servers)} servers.", f"name one of them: {at}")
    return _client(name, sampling)


def _client(name: ModelName, sampling: Mapping[str, Any], fleet: str = "") -> ApiClient:
    """The client for the server at the model's `url`, which may be one of a fleet."""
    if name.provider == anthropic.PROVIDER:
        return anthropic.AnthropicClient(
            replace(anthropic.target(name.model, name.url, sampling, name.key), fleet=fleet)
        )
    return openai.OpenAIClient(replace(openai.target(name.model, name.url, sampling, name.key), fleet=fleet))
