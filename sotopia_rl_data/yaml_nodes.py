"""Files that people write in YAML, read as nodes: these know their lines and keep the duplicate keys of a mapping, so
that every mistake can be reported with its line. Nothing in a file is executed (`yaml.SafeLoader`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from sotopia_rl_data.errors import InputError

_STRING = "tag:yaml.org,2002:str"


def read_text(path: Path, what: str, hint: str) -> str:
    """The text of a file; `what` names it in errors ("rubric"). Raises InputError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"The {what} {path} cannot be read: {reason}.", hint) from error


class NodeReader:
    """Reads the nodes of one file, which holds `what` ("a rubric"). `where` names the file in errors, `hint` says what
    it should look like. Its methods raise InputError with the node's line."""

    def __init__(self, where: str, what: str, hint: str) -> None:
        self._where, self._what, self._hint = where, what, hint

    def root(self, text: str) -> Any:
        """The node of the whole file."""
        import yaml

        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise InputError(f"{self._where}{line}: this is not YAML: {problem}.", self._hint) from error
        if root is None:
            raise InputError(f"{self._where} is empty, but it should hold {self._what}.", self._hint)
        return root

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
                self.wrong(key, f"{what} cannot have the key {name!r}: its keys are {', '.join((*needed, *also))}")
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

        loader = yaml.SafeLoader("")
        try:
            return loader.construct_document(node)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            self.wrong(node, f"{shown(node)} cannot be read: {getattr(error, 'problem', None) or error}")
        finally:
            loader.dispose()

    def wrong(self, node: Any, fault: str) -> NoReturn:
        """Raise the error that says what is wrong with a node."""
        raise InputError(f"{self._where}:{node.start_mark.line + 1}: {fault}.", self._hint)


def shown(node: Any) -> str:
    """A node as an error quotes it."""
    if not isinstance(node.value, str):
        return f"a {node.id}"
    text = " ".join(node.value.split())
    return repr(text if len(text) <= 40 else text[:37] + "...") if text else "nothing"
