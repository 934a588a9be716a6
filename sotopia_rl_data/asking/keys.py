"""One key, one host: which environment variable holds the API key of the server that a request goes to.

A key is sent to no other host than its own. OPENAI_API_KEY belongs to OpenAI and to the server that OPENAI_BASE_URL
names, ANTHROPIC_API_KEY likewise; so do the organisation and the other headers that the SDKs take from the environment.
The hosts of other providers have variables of their own. For any other server the variable is named (`--key`, a judges
file), and a server on this machine needs no key. Leaves out how a key is sent (`transport.py` and the SDKs).
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from urllib.parse import urlsplit

from sotopia_rl_data.errors import KeyMissing
from sotopia_rl_data.request import Target
from sotopia_rl_data.secret_values import is_made_of_words
from sotopia_rl_data.secrets import hide

OPENAI, ANTHROPIC = "OPENAI_API_KEY", "ANTHROPIC_API_KEY"
# For each protocol: the variable with its own provider's key, and the variable with another server's URL for that key.
OWN = {"openai": (OPENAI, "OPENAI_BASE_URL"), "anthropic": (ANTHROPIC, "ANTHROPIC_BASE_URL")}
NONE = "none"  # given instead of a variable's name where the server needs no key
# A host, its subdomains included -> the variable that the provider's own documentation uses.
HOSTS = {
    "api.openai.com": OPENAI,
    "api.anthropic.com": ANTHROPIC,
    "openai.azure.com": "AZURE_OPENAI_API_KEY",
    "services.ai.azure.com": "AZURE_OPENAI_API_KEY",
    "cognitiveservices.azure.com": "AZURE_OPENAI_API_KEY",
    "openrouter.ai": "OPENROUTER_API_KEY",
    "api.deepseek.com": "DEEPSEEK_API_KEY",
    "generativelanguage.googleapis.com": "GEMINI_API_KEY",
    "api.groq.com": "GROQ_API_KEY",
    "api.mistral.ai": "MISTRAL_API_KEY",
    "api.together.xyz": "TOGETHER_API_KEY",
    "api.together.ai": "TOGETHER_API_KEY",
    "api.x.ai": "XAI_API_KEY",
    "api.cerebras.ai": "CEREBRAS_API_KEY",
    "api.cohere.ai": "CO_API_KEY",
    "api.cohere.com": "CO_API_KEY",
    "api.deepinfra.com": "DEEPINFRA_API_KEY",
    "api.fireworks.ai": "FIREWORKS_API_KEY",
    "api.moonshot.ai": "MOONSHOT_API_KEY",
    "api.moonshot.cn": "MOONSHOT_API_KEY",
    "api.perplexity.ai": "PERPLEXITY_API_KEY",
    "api.sambanova.ai": "SAMBANOVA_API_KEY",
    "api.z.ai": "ZAI_API_KEY",
    "dashscope.aliyuncs.com": "DASHSCOPE_API_KEY",
    "dashscope-intl.aliyuncs.com": "DASHSCOPE_API_KEY",
    "integrate.api.nvidia.com": "NVIDIA_API_KEY",
    "router.huggingface.co": "HF_TOKEN",
}
_NO_KEYS = ContextVar("no API key is needed", default=False)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The environment variable of a server's key, and what it holds; either is empty where there is none."""

    variable: str = ""
    value: str = ""


def is_variable(name: str) -> bool:
    """Whether a text names an environment variable, or is `none`; it may be a key that was put in its place."""
    return name == NONE or name in os.environ or re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name) is not None


def key_for(target: Target) -> ApiKey:
    """The key that goes to the target's host: the one that is named for it, else that of its provider, else that of the
    protocol where the target is the server that the protocol's variable names."""
    if target.key == NONE:
        return ApiKey()
    own, base = OWN[target.provider]
    known = [target.key] if target.key else _variables(target.base_url)
    if not target.key and _origin(os.environ.get(base, "")) == _origin(target.base_url):
        known.append(own)
    found = [ApiKey(name, value) for name in known if (value := os.environ.get(name, "").strip())]
    return found[0] if found else ApiKey(known[0] if known else "")


def without_key(target: Target, told: str) -> str:
    """What a server told, without the key that it was sent. A plain word that stands for a key may be told."""
    key = key_for(target).value
    return told if is_made_of_words(key) or key.isalpha() else hide(told, key)


def api_key(target: Target) -> str:
    """The key that is sent; a word that stands for none where the server needs none. Raises KeyMissing."""
    key, url = key_for(target), target.base_url
    if key.value:
        return key.value
    if target.key == NONE or _NO_KEYS.get() or (is_local(url) and not target.key):
        return NONE
    if key.variable:
        unchecked = "" if _variables(url) else " (if the server does not check keys, any word will do)"
        raise KeyMissing(
            f"{key.variable} is not set: it should hold the API key for {url}.",
            f"export {key.variable}=YOUR_KEY{unchecked}",
        )
    own, base = OWN[target.provider]
    raise KeyMissing(
        f"There is no API key for {url}: {own} is sent only to its own provider and to the server in {base}.",
        f"{name_the_key(target)}; or --key {_server(target)}={NONE}, if the server takes none",
    )


def name_the_key(target: Target) -> str:
    """The hint for a server that wants a key, where no variable is known for it."""
    server = _server(target)
    return f"name the variable that holds its key: --key {server}=VARIABLE, or `key: VARIABLE` in a file for --judges"


def _server(target: Target) -> str:
    """What `--key` calls the target's server."""
    return target.fleet or urlsplit(target.base_url).netloc


def is_own(target: Target) -> bool:
    """Whether the target gets its protocol's own key, and with it the SDK's headers from the environment."""
    return key_for(target).variable == OWN[target.provider][0]


@contextmanager
def without_api_keys() -> Iterator[None]:
    """Inside the block a missing key is not an error: clients are made there without being used."""
    token = _NO_KEYS.set(True)
    try:
        yield
    finally:
        _NO_KEYS.reset(token)


def is_local(url: str) -> bool:
    """Whether a URL points to this machine."""
    return is_loopback(urlsplit(url).hostname or "")


def is_loopback(host: str) -> bool:
    """Whether a host is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _variables(url: str) -> list[str]:
    """The variables of the provider whose host a URL names."""
    return [name for host, name in HOSTS.items() if _is_at(url, host)]


def _is_at(url: str, host: str) -> bool:
    return f".{urlsplit(url).hostname or ''}".endswith(f".{host}")


def _origin(url: str) -> tuple[str, str, int | None] | None:
    """Scheme, host and port, which together are one server; None where the URL names none."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    return (parts.scheme, parts.hostname, port or usual) if parts.hostname else None
