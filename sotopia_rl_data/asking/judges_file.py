"""A judges file: models by names of one's own, each with its server, key and parameters, for `--judges FILE`.

    - name: careful
      model: gpt-5
      extra: {reasoning_effort: high}
    - name: cheap
      model: deepseek-chat
      url: https://api.deepseek.com/v1
      sampling: {temperature: 0, max_tokens: 800}
      price: {input: 0.28, cached: 0.028, output: 0.42}    # USD per million tokens
    - name: ours
      model: qwen
      protocol: openai            # or anthropic
      url: http://gpu7:8000/v1
      key: LAB_KEY                # the environment variable that holds the key, or none
    - name: fleet
      model: qwen
      urls: [http://gpu1:8000/v1, http://gpu2:8000/v1]    # several servers, known by the name alone

The file holds the names of variables and never a key: one that is written into it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sotopia_rl_data.asking import anthropic, openai
from sotopia_rl_data.asking.extra import check_extra
from sotopia_rl_data.asking.keys import NONE, is_variable
from sotopia_rl_data.asking.providers import ModelName, parse_model, sampling_of, server_of
from sotopia_rl_data.asking.transport import clean_url
from sotopia_rl_data.costs.price import Price
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.secrets import redact
from sotopia_rl_data.yaml_nodes import NodeReader, read_text

_HINT = (
    "write entries like: - {name: mine, model: qwen, url: http://localhost:8000/v1, key: MY_KEY}; several servers are "
    "urls: [http://gpu1:8000/v1, http://gpu2:8000/v1]"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LONGEST_URL = 2000  # characters
_MOST_SERVERS = 1000  # of one fleet
_MOST_TEXTS = 10_000  # different ones, each of which is searched for secrets
_SAMPLING = ("temperature", "max_tokens")
_ALSO = ("model", "protocol", "url", "urls", "key", "sampling", "extra", "price")


@dataclass(frozen=True, slots=True)
class NamedModels:
    """The models of a judges file by name, and the prices that it gives: by server (host and port), then by model."""

    models: Mapping[str, ModelName]
    prices: Mapping[str, Mapping[str, Price]]


def read_judges(path: Path) -> NamedModels:
    """The models in the file. Raises InputError with the line of what is wrong."""
    reader = _JudgesReader(str(path), "a list of judges", _HINT)
    return reader.models(reader.root(read_text(path, "judges file", "name a YAML file in UTF-8")))


def models_of(node: Any, where: str) -> NamedModels:
    """The same of a node of another YAML file, which holds such a list. `where` names the file in errors."""
    return _JudgesReader(where, "a list of judges", _HINT).models(node)


class _JudgesReader(NodeReader):
    """Reads the nodes of one file, from the root down."""

    def models(self, root: Any) -> NamedModels:
        import yaml

        if not isinstance(root, yaml.SequenceNode) or not root.value:
            self.wrong(root, "a judges file must be a list of entries")
        models: dict[str, ModelName] = {}
        prices: dict[str, dict[str, Price]] = {}
        searched: set[int | str] = set()
        for node in root.value:
            self._check_no_secret(node, searched)
            keys = self.mapping(node, "the entry", ("name",), _ALSO)
            model = self._model(keys)
            if model.id in models:
                self.wrong(keys["name"], f"there are two judges called {model.id!r}")
            models[model.id] = model
            if "price" in keys:
                prices.setdefault(server_of(model), {})[model.model] = self._price(keys["price"])
        return NamedModels(models, prices)

    def _model(self, keys: Mapping[str, Any]) -> ModelName:
        name = self.text(keys["name"], "name")
        if not _NAME.fullmatch(name):
            self.wrong(keys["name"], f"the name {name!r} may hold only letters, digits, dots, hyphens and underscores")
        model = self.text(keys["model"], "model") if "model" in keys else name
        url = self._url(keys["url"]) if "url" in keys else ""
        servers = self._servers(keys) if "urls" in keys else ()
        if len(servers) == 1:  # a fleet of one is that server, also in the ledger
            url, servers = servers[0], ()
        known = None if url or servers else parse_model(model)
        return replace(
            known or ModelName(openai.PROVIDER, model, url),
            key=self._key(keys["key"]) if "key" in keys else "",
            sampling=self._sampling(keys),
            id=name,
            servers=servers,
            **({"provider": self._protocol(keys["protocol"])} if "protocol" in keys else {}),
        )

    def _protocol(self, node: Any) -> str:
        protocol = self.text(node, "protocol")
        if protocol not in (openai.PROVIDER, anthropic.PROVIDER):
            self.wrong(node, f"`protocol` must be {openai.PROVIDER} or {anthropic.PROVIDER}, not {protocol!r}")
        return protocol

    def _url(self, node: Any) -> str:
        url = self.text(node, "url")
        if len(url) > _LONGEST_URL:
            self.wrong(node, f"a URL has at most {_LONGEST_URL:,} characters")
        try:
            return clean_url(url)
        except UsageError as error:
            self.wrong(node, f"{error.message.rstrip('.')}; {error.hint}")

    def _servers(self, keys: Mapping[str, Any]) -> tuple[str, ...]:
        """The URLs of a fleet, in a fixed order."""
        import yaml

        node = keys["urls"]
        if "url" in keys:
            self.wrong(node, "an entry has either `url` or `urls`")
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            self.wrong(node, "`urls` must be a list of URLs")
        if len(node.value) > _MOST_SERVERS:
            self.wrong(node, f"`urls` may have at most {_MOST_SERVERS:,} servers")
        urls = [self._url(each) for each in node.value]
        if len(set(urls)) < len(urls):
            self.wrong(node, "two of the `urls` are the same server")
        return tuple(sorted(urls))

    def _key(self, node: Any) -> str:
        variable = self.text(node, "key")
        if not is_variable(variable):
            self.wrong(
                node, f"`key` must name an environment variable, such as MY_KEY, or be {NONE}: it is never a key"
            )
        return variable

    def _sampling(self, keys: Mapping[str, Any]) -> dict[str, Any]:
        sampling: dict[str, Any] = {}
        if "sampling" in keys:
            values = self.mapping(keys["sampling"], "`sampling`", (), _SAMPLING)
            sampling = {name: self._number(node, name) for name, node in values.items()}
        if "extra" not in keys:
            return sampling
        self.pairs(keys["extra"], "`extra`")
        extra = self.value(keys["extra"])
        try:
            check_extra(extra)
        except UsageError as error:
            self.wrong(keys["extra"], f"{error.message.rstrip('.')}: {error.hint}")
        return sampling_of(sampling, extra)

    def _number(self, node: Any, name: str) -> float | int | None:
        value = self.value(node)
        whole = name == "max_tokens"
        kinds = (int,) if whole else (int, float)
        if value is None:
            return None
        if not isinstance(value, kinds) or isinstance(value, bool) or not (1 if whole else 0) <= value < float("inf"):
            self.wrong(node, f"`{name}` must be {'a whole number, 1 or more' if whole else 'a number, 0 or more'}")
        return value

    def _price(self, node: Any) -> Price:
        keys = self.mapping(node, "`price`", ("input", "output"), ("cached", "written", "longest"))
        values = {name: self._number(value, name) for name, value in keys.items()}
        if None in values.values():
            self.wrong(node, "a price must be a number")
        input_, output = float(values["input"] or 0), float(values["output"] or 0)
        longest = values.get("longest")
        return Price(
            input_,
            float(values.get("cached", input_) or 0),
            float(values.get("written", input_) or 0),
            output,
            None if longest is None else int(longest),
        )

    def _check_no_secret(self, node: Any, searched: set[int | str]) -> None:
        """Refuse a key or a password anywhere in the entry, without repeating it. `searched` has the texts, and the ids
        of the other nodes, that were searched before: an alias is searched once."""
        mark = node.value if isinstance(node.value, str) else id(node)
        if mark in searched:
            return
        searched.add(mark)
        if isinstance(node.value, str):
            if len(searched) > _MOST_TEXTS:
                self.wrong(node, f"a judges file has at most {_MOST_TEXTS:,} different texts")
            if redact(node.value) != node.value:
                self.wrong(node, "this looks like a key: put it into an environment variable, and name that in `key`")
            return
        for child in node.value:
            for part in child if isinstance(child, tuple) else (child,):
                self._check_no_secret(part, searched)
