"""YAML, read in one way wherever it comes from: files of users, answers of the Hub, front matter.

A file is read as nodes, which know their lines and keep the duplicate keys of a mapping, so that every mistake is
reported with its line. Nothing in a file is executed; its size, its depth and what its aliases expand to are bounded;
dates and numbers to the base of sixty (`1:59:59`) are texts, so that none can be wrong; a whole number has at most 19
digits.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from sotopia_rl_data.errors import InputError

_STRING = "tag:yaml.org,2002:str"
_LARGEST_FILE = 64 << 20  # bytes
_DEEPEST = 40  # lists and mappings within each other
_MOST = 100_000  # values of a file, its aliases written out; Python's parser takes up to 20 microseconds for each
_CHARACTERS = 10  # of a file, for each value that it may have
_TEXT = 100  # characters of a text that count as a value
_TEXT_TAGS = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:binary")
_DIGITS = 19
_HALF_PAIR = re.compile("[\ud800-\udfff]")


def text_of(path: Path) -> str:
    """The text of a regular file of at most 64 MiB; a pipe or a device might never end. Raises OSError and
    UnicodeDecodeError."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    if path.stat().st_size > _LARGEST_FILE:
        raise OSError(errno.EFBIG, f"it is larger than {_LARGEST_FILE >> 20} MiB", str(path))
    return path.read_text(encoding="utf-8-sig")


def read_text(path: Path, what: str, hint: str) -> str:
    """The text of a file; `what` names it in errors ("rubric"). Raises InputError."""
    try:
        return text_of(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"The {what} {path} cannot be read: {reason}.", hint) from error


class NodeReader:
    """Reads the nodes of one file, which holds `what` ("a rubric"). `where` names the file in errors, `hint` says what
    it should look like. A file has at most `most` values, and ten times as many characters. Its methods raise
    InputError with the node's line."""

    def __init__(self, where: str, what: str, hint: str, most: int = _MOST) -> None:
        self._where, self._what, self._hint, self._most = where, what, hint, most

    def root(self, text: str) -> Any:
        """The node of the whole file."""
        roots = list(islice(self.roots(text), 2))
        if not roots:
            raise InputError(f"{self._where} is empty, but it should hold {self._what}.", self._hint)
        if len(roots) > 1:
            self.wrong(roots[1], "this is not YAML: a second document begins here")
        return roots[0]

    def roots(self, text: str) -> Iterator[Any]:
        """The node of each document of the file, one after the other."""
        import yaml

        if len(text) > (largest := self._most * _CHARACTERS):
            raise InputError(
                f"{self._where} is larger than {largest:,} characters.",
                "make it smaller; scenarios may also be JSON Lines",
            )
        try:
            loader = _loader()(text)
            loader.left, loader.too_many = self._most, self._too_many
            while loader.check_node():
                node = loader.get_node()
                self._size(node, {}, 0)
                yield node
        except (yaml.YAMLError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise InputError(f"{self._where}{line}: this is not YAML: {problem}.", self._hint) from error

    def _too_many(self, node: Any) -> NoReturn:
        self.wrong(node, f"this is more than {self._most:,} values, its aliases written out")

    def _size(self, node: Any, known: dict[int, int], depth: int) -> int:
        """How many values a node has, aliases written out; more than can be read is wrong. A long text counts as
        several: aliases would make gigabytes of it."""
        if isinstance(node.value, str):
            if _HALF_PAIR.search(node.value):
                self.wrong(node, "this text holds half of a surrogate pair: write the character itself")
            return 1 + len(node.value) // _TEXT
        if known.get(id(node)) == 0:
            self.wrong(node, "this contains itself")
        if depth > _DEEPEST:
            self.wrong(node, f"lists and mappings are more than {_DEEPEST} deep")
        if id(node) not in known:
            known[id(node)] = 0
            children = [child for item in node.value for child in (item if isinstance(item, tuple) else (item,))]
            known[id(node)] = 1 + sum(self._size(child, known, depth + 1) for child in children)
            if known[id(node)] > self._most:
                self._too_many(node)
        return known[id(node)]

    def text(self, node: Any, what: str) -> str:
        """The text of a node, which may not be empty."""
        if node.tag != _STRING or not node.value.strip():
            self.wrong(node, f"`{what}` must be a text, not {shown(node)}: put quotes around it if need be")
        return str(node.value).strip()

    def mapping(self, node: Any, what: str, needed: Sequence[str], also: Sequence[str]) -> dict[str, Any]:
        """The values by key: all of `needed`, perhaps some of `also`, and no other."""
        by_name = {str(key.value): (key, value) for key, value in self.pairs(node, what)}
        for name, (key, _) in by_name.items():
            if name not in (*needed, *also):
                near = " or ".join(map(repr, difflib.get_close_matches(name, (*needed, *also), n=2)))
                meant = f" (did you mean {near}?)" if near else f": its keys are {', '.join((*needed, *also))}"
                self.wrong(key, f"{what} cannot have the key {name!r}{meant}")
        for name in needed:
            if name not in by_name:
                self.wrong(node, f"{what} lacks `{name}`")
        return {name: value for name, (_, value) in by_name.items()}

    def pairs(self, node: Any, what: str) -> list[tuple[Any, Any]]:
        """The keys and values of a mapping, no key twice."""
        import yaml

        if not isinstance(node, yaml.MappingNode):
            self.wrong(node, f"{what} must be a mapping of keys to values, not {shown(node)}")
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                self.wrong(key, f"{what} has the key {str(key.value)!r} twice")
            seen.add(str(key.value))
        return list(node.value)

    def value(self, node: Any) -> Any:
        """The plain value of a node: text, numbers, lists and mappings."""
        import yaml

        loader = _loader()("")
        try:
            return loader.construct_document(node)
        except (yaml.YAMLError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None) or node.start_mark
            problem = getattr(error, "problem", None) or str(error)
            raise InputError(f"{self._where}:{mark.line + 1}: this cannot be read: {problem}.", self._hint) from error
        finally:
            loader.dispose()

    def wrong(self, node: Any, fault: str) -> NoReturn:
        """Raise the error that says what is wrong with a node."""
        raise InputError(f"{self._where}:{node.start_mark.line + 1}: {fault}.", self._hint)


def values(text: str, where: str, what: str, hint: str, most: int = _MOST) -> Any:
    """The plain value of a YAML text, which holds `what` ("a recipe"), with the bounds of `NodeReader`. Raises
    InputError with the line."""
    reader = NodeReader(where, what, hint, most)
    return reader.value(reader.root(text))


@cache
def _loader() -> Any:
    """`yaml.SafeLoader` with the bounds of this module for what a scalar may mean."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {  # noqa: RUF012 (yaml's own name)
            first: [(tag, pattern) for tag, pattern in resolvers if tag not in _TEXT_TAGS]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        left: int
        too_many: Callable[[Any], NoReturn]

        def compose_node(self, parent: Any, index: Any) -> Any:
            node = super().compose_node(parent, index)
            self.left -= 1
            if self.left < 0:  # before the rest is read, which takes minutes
                self.too_many(node)
            return node

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                problem = f"{shown(node)} is not what its tag or its form says"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error

    def plain(loader: Any, node: Any) -> str:
        return str(loader.construct_scalar(node))

    def number(loader: Any, node: Any) -> Any:
        text = plain(loader, node)
        if ":" in text:
            return text
        if node.tag.endswith(":float"):
            return loader.construct_yaml_float(node)
        if sum(c.isalnum() for c in text) > _DIGITS:
            problem = f"a whole number has at most {_DIGITS} digits"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return loader.construct_yaml_int(node)

    for tag in _TEXT_TAGS:
        Loader.add_constructor(tag, plain)
    for kind in ("int", "float"):
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", number)
    return Loader


def shown(node: Any) -> str:
    """A node as an error quotes it."""
    if not isinstance(node.value, str):
        return f"a {node.id}"
    text = " ".join(node.value.split())
    return repr(text if len(text) <= 40 else text[:37] + "...") if text else "nothing"
