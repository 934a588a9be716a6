"""What the clients share: one pool of connections, and the ways to pass a schema.

The SDKs say how a request is addressed and signed; it is sent from here, because an SDK takes three times as much CPU
to build and read a call as everything else together. Nothing is retried here: only `dispatch.py` retries.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from sotopia_rl_data.asking.event_stream import events_of, without_comments
from sotopia_rl_data.asking.forms import MEANT, RequestForm, body_in
from sotopia_rl_data.asking.keys import api_key, is_local, is_own
from sotopia_rl_data.asking.memory import FORMS_KEPT_S, EndpointMemory
from sotopia_rl_data.asking.negotiation import Negotiation
from sotopia_rl_data.asking.reading import MOST_BYTES, json_or_none, unpacked
from sotopia_rl_data.asking.refusals import not_an_answer, page_text, status_error, unreachable
from sotopia_rl_data.errors import Rejected, UsageError
from sotopia_rl_data.request import Reply, Request, Target
from sotopia_rl_data.schema import Message
from sotopia_rl_data.secrets import redact

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger(__name__)

CONNECT_S = 15.0
AZURE_VERSION = "api-version"  # the parameter in URLs of Azure's older API
_LONGEST_PAGE = 20_000  # bytes of a body that is a page or a text that are read
_LONGEST_HEADER = 65_536  # bytes of a header of a response: some hosts send long policies


@dataclass(frozen=True, slots=True)
class Api:
    """How a provider is asked over HTTP.

    `path` follows the base URL, and `sdk_client` (of a key, a URL and an HTTP client) signs requests. `ways` are the
    ways in which an answer's schema can be passed, the strictest first: `body_of` gives a request's JSON in one of
    them. `read` gives the Reply in the JSON that comes back, and `joined` that JSON where it comes as events."""

    path: str
    ways: Sequence[str]
    sdk_client: Callable[[str, str, Any], Any]
    body_of: Callable[[Request, str], dict[str, Any]]
    read: Callable[[Target, Any], Reply]
    joined: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]


class ApiClient:
    """Asks `target` through its provider's `api`, over one pool of connections for the event loop that uses it.

    Raises KeyMissing where there is no key.
    """

    api: ClassVar[Api]

    def __init__(self, target: Target) -> None:
        import httpx2

        self.target = target
        self._url = with_path(target.base_url, self.api.path)
        key = api_key(target)
        sdk = self.api.sdk_client(key, target.base_url, httpx2.AsyncClient(trust_env=False))  # it only signs
        withhold_headers(sdk, target)
        self._headers: dict[str, object] = {**sdk.default_headers, **sdk.auth_headers}
        if has_azure_version(target.base_url):
            self._headers |= {"Authorization": None, "api-key": key}
        self._memory: EndpointMemory | None = None
        self._negotiations: dict[bool, Negotiation] = {}  # by whether a request has an answer schema
        self._session: aiohttp.ClientSession | None = None

    def __reduce__(self) -> tuple[type[ApiClient], tuple[Target]]:
        """A client is made anew where it is unpickled, with the key that is found there."""
        return type(self), (self.target,)

    def use_memory(self, memory: EndpointMemory) -> None:
        """Remember there what the server takes, and go by what an earlier run has found."""
        self._memory = memory

    def form_for(self, request: Request) -> RequestForm:
        """The form in which a request like this one is put now."""
        return self._negotiation_for(request).form

    def is_settled(self, request: Request) -> bool:
        """Whether the form for requests like this one is known, so that nothing stronger is tried any more."""
        return self._negotiation_for(request).is_known

    async def send(self, request: Request) -> Reply:
        """One answer, asked for in the form that the server takes; `negotiation.py` finds that form with the first
        requests. Raises Unavailable or Rejected; never retries faults.

        Once the form is found, a request does not go through `Negotiation.ask`: the way of a plain question stays
        short."""
        negotiation = self._negotiation_for(request)
        form = negotiation.settled
        if form is None:
            return await negotiation.ask(request)
        try:
            with negotiation.counted(request, form):
                return await self._post_in(request, form)
        except Rejected as error:
            return await negotiation.after_refusal(request, form, error)

    def _negotiation_for(self, request: Request) -> Negotiation:
        has_schema = request.answer_schema is not None
        if has_schema not in self._negotiations:
            self._negotiations[has_schema] = self._negotiation("schema" if has_schema else "text")
        return self._negotiations[has_schema]

    def _negotiation(self, name: str) -> Negotiation:
        def found(form: RequestForm) -> None:
            if self._memory is not None:
                self._memory.keep(self.target, f"form for {name}", form.as_dict())
            if form != MEANT:
                log.info("%s is asked with %s from now on", self.target.model, form.words(ways))

        ways, remembered = self.api.ways, None
        if self._memory is not None:
            remembered = RequestForm.of(self._memory.recall(self.target, f"form for {name}", FORMS_KEPT_S), ways)
        return Negotiation(self.api.body_of, ways, self._post_in, found, remembered)

    async def _post_in(self, request: Request, form: RequestForm) -> Reply:
        """Post a request in a form."""
        api = self.api
        reply = api.read(self.target, await self._post(body_in(form, request, api.body_of, api.ways)))
        return reply if form == MEANT else replace(reply, form=form.words(api.ways))

    async def close(self) -> None:
        """Close the connections; the next `send` opens new ones."""
        if self._session is not None:
            await self._session.close()
        self._session = None

    async def _post(self, body: Mapping[str, Any]) -> Any:
        """Post the body; returns the JSON that comes back."""
        import aiohttp

        self._session = self._session or self._opened()
        data = json.dumps(body, separators=(",", ":")).encode()
        try:
            async with self._session.post(self._url, data=data, allow_redirects=False) as response:
                raw = unpacked(await self._read(response))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            sent = not isinstance(error, aiohttp.ClientConnectorError)
            raise unreachable(self.target, reason_of(error), sent) from None
        answer = json_or_none(raw)
        if response.status >= 300:
            told = answer if answer is not None else page_text(raw[:_LONGEST_PAGE].decode(errors="replace"))
            raise status_error(self.target, response.status, told, response.headers)
        if answer is None:
            answer = json_or_none(without_comments(raw))
        if answer is None and (events := events_of(raw)):
            answer = self.api.joined(events)
        if answer is None:
            raise not_an_answer(self.target, raw[:_LONGEST_PAGE].decode(errors="replace"))
        return answer

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The body, unpacked. Raises Unavailable where it does not end within what an answer can take."""
        parts, size = [], 0
        async for part in response.content.iter_any():
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                response.close()
                raise not_an_answer(self.target, f"more than {MOST_BYTES >> 20} MiB")
        return b"".join(parts)

    def _opened(self) -> aiohttp.ClientSession:
        """A session that signs every request. Headers that are not text are an SDK's way to leave them out."""
        import aiohttp

        signed = {}
        for name, value in self._headers.items():
            if isinstance(value, str) and not name.lower().startswith("x-stainless"):
                signed[name] = value
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # no limit here: dispatch.py bounds the requests in flight
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            max_line_size=_LONGEST_HEADER,
            max_field_size=_LONGEST_HEADER,
            headers=signed | {"Content-Type": "application/json", "User-Agent": "sotopia-rl-data"},
            proxy=_proxy_for(self._url),
        )


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for a URL; none for servers on this machine. aiohttp's `trust_env` would
    also sign requests by ~/.netrc, beside the key."""
    parts = urlsplit(url)
    if is_local(url) or proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


def reason_of(error: Exception) -> str:
    """Why a request got no response, without the host, its address and port: data holds what errors say."""
    import aiohttp

    if not isinstance(error, aiohttp.ClientConnectorError):
        text = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
        return " ".join(text.split()) or type(error).__name__
    cause, number = error.os_error, error.os_error.errno or 0
    if number in errno.errorcode and not isinstance(cause, ssl.SSLError):  # these have numbers of their own
        return os.strerror(number)
    return (cause.strerror or type(cause).__name__).replace(f"'{error.host}'", "it")  # of a certificate for others


def with_schema_in_words(messages: Sequence[Message], schema: Mapping[str, Any]) -> list[Message]:
    """The same messages with the schema at the end of the last, for servers that do not take it as a parameter."""
    words = f"\n\nAnswer with one JSON object and nothing else. It must obey this JSON Schema:\n{json.dumps(schema)}"
    last = messages[-1]
    return [*messages[:-1], {"role": last["role"], "content": last["content"] + words}]


def withhold_headers(sdk: Any, target: Target) -> None:
    """Leave out what an SDK's client takes from the environment besides the key (an organisation, headers of one's
    own), where the target is not the SDK's own provider."""
    if not is_own(target):
        sdk.organization = sdk.project = None
        sdk._custom_headers = {}


def clean_url(url: str) -> str:
    """A base URL as it goes into keys: no trailing slash, no credentials, and no query but Azure's `api-version`.
    Raises UsageError."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"The base URL {redact(url)!r} does not begin with http:// or https:// and a host.",
            "write it like http://localhost:8000/v1",
        )
    if parts.username or parts.password or (parts.query and list(parse_qs(parts.query)) != [AZURE_VERSION]):
        raise UsageError(
            "The server's URL contains a user name, a password or a query, which would be kept.",
            "remove them from the URL, and put the API key into the environment",
        )
    return urlunsplit(parts._replace(path=parts.path.rstrip("/"), fragment=""))


def has_azure_version(url: str) -> bool:
    """Whether the URL is Azure's older form, with an `api-version`."""
    return AZURE_VERSION in urlsplit(url).query


def with_path(url: str, path: str) -> str:
    """The URL with `path` after its own path; its query stays at the end."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path + path))
