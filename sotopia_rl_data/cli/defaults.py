"""Defaults of options from a file, `sotopia-rl-data.toml`.

    store = "data/store"            # of every command; paths are relative to this file
    judge = "gpt-4o"                # or a list
    budget = 5                      # USD, of each command that asks

One file is read: the one that SOTOPIA_RL_DATA_CONFIG names (empty: none); else the nearest in the working folder or
above it; else the user's, in the folder `sotopia-rl-data` of $XDG_CONFIG_HOME or ~/.config. An option wins over an
environment variable, and that over the file. Because a file that is found by itself may come from others, it holds
neither keys nor code, and has to be the user's own.
"""

from __future__ import annotations

import os
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from sotopia_rl_data import yaml_nodes
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.store.bucket import is_address

NAME, VARIABLE = "sotopia-rl-data.toml", "SOTOPIA_RL_DATA_CONFIG"
_LARGEST = 16_000  # characters: in 64,000, one dotted key (a.a.a…) takes gigabytes to read
_MOST_USD = 1_000_000_000
_PATHS = ("store", "ledger", "judges", "prices")
KEYS = {
    "store": "where datasets and the ledger live",
    "ledger": "where raw answers are kept",
    "judge": "one judge or a list of them, as --judge names them",
    "judges": "a file of models by name",
    "prices": "a file of prices",
    "budget": "a hard cap in USD on each command that asks",
}
_EXAMPLES = {
    "store": "./store",
    "ledger": "./ledger",
    "judge": "gpt-4o",
    "judges": "judges.yaml",
    "prices": "prices.yaml",
}
_HINT = f"its keys are {', '.join(KEYS)}; see sotopia-rl-data config --help"


@dataclass(frozen=True, slots=True)
class FileDefaults:
    """The defaults that a config file gives, by key; none where there is no file."""

    path: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    def of(self, command: click.Command) -> dict[str, Any]:
        """The defaults of a command's options, and of the commands below it, as click takes them (`default_map`)."""
        found: dict[str, Any] = {}
        asks = any("--judges" in option.opts for option in command.params)  # others choose among judges that were asked
        for option in command.params:
            key = next((flag[2:] for flag in option.opts if flag[2:] in self.values and flag.startswith("--")), None)
            if key is None or (key == "judge" and not asks):
                continue
            value = self.values[key]
            many = value if isinstance(value, list) else [value]
            if option.multiple:
                found[str(option.name)] = many
            elif len(many) == 1:
                found[str(option.name)] = many[0]
        return found | {name: self.of(inner) for name, inner in getattr(command, "commands", {}).items()}


def read() -> FileDefaults:
    """The defaults of the file that counts. Raises InputError for a file that cannot be read, or is not what it should
    be; its values are never in the message."""
    path = _found()
    if path is None:
        return FileDefaults()
    try:
        text = yaml_nodes.read_text(path, "config file", f"fix it, or ignore it with: export {VARIABLE}=")
        if len(text) > _LARGEST:
            raise InputError(f"The config file {path} is longer than {_LARGEST:,} characters.", _HINT)
        given = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of a number with thousands of digits, a plain ValueError
        raise InputError(
            f"The config file {path} is not TOML: {error}.", 'write lines such as: judge = "gpt-4o"'
        ) from error
    _check_no_secret(path, text)
    return FileDefaults(path, {key: _value(path, key, value) for key, value in given.items()})


def _found() -> Path | None:
    """The file that counts. Raises InputError where somebody else put it into the way."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return Path(named) if named else None
    for path in _candidates():
        if os.path.lexists(path):
            _check_owner(path)
            return path.absolute()
    return None


def _candidates() -> Iterator[Path]:
    try:
        here = Path.cwd()
    except OSError:  # the working folder was deleted
        here = None
    if here:
        yield from (folder / NAME for folder in (here, *here.parents))
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    if os.path.isabs(home):  # where nobody knows the home folder, ~ stays
        yield Path(home) / "sotopia-rl-data" / NAME


def _check_owner(path: Path) -> None:
    try:
        owner = path.stat().st_uid
    except OSError:
        return  # reading it will say why
    if owner not in (0, os.geteuid()):
        raise InputError(
            f"The config file {path} belongs to another user, who could use it to send your data elsewhere.",
            f"if you trust it, say so: export {VARIABLE}={shlex.quote(str(path))}; to ignore it: export {VARIABLE}=",
        )


def _check_no_secret(path: Path, text: str) -> None:
    from sotopia_rl_data.secrets import found

    for one in found(text):
        line = text.count("\n", 0, one.start) + 1
        raise InputError(
            f"The config file {path} holds what looks like a secret, in line {line}.",
            "take it out, and put it into an environment variable such as OPENAI_API_KEY",
        )


def _value(path: Path, key: str, value: Any) -> Any:
    """A value as its option takes it. Raises InputError."""
    from sotopia_rl_data import plugins

    if key not in KEYS:
        raise InputError(f"The config file {path} has the unknown key {key!r}.", _HINT)
    if key == "budget":
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= _MOST_USD:
            raise InputError(
                f"In the config file {path}, budget must be a number of USD above 0 and at most {_MOST_USD:,}.",
                "write: budget = 5",
            )
        return value
    many = value if isinstance(value, list) and key == "judge" else [value]
    if not many or not all(isinstance(one, str) and one.strip() and "\0" not in one for one in many):
        what = "text, or a list of texts" if key == "judge" else "text"
        what += " without NUL characters" if any("\0" in str(one) for one in many) else ""
        raise InputError(f"In the config file {path}, {key} must be {what}.", f'write: {key} = "{_EXAMPLES[key]}"')
    if any(plugins.is_file(one) for one in many):
        raise InputError(
            f"The config file {path} names code, which may only be named on the command line.",
            "take it out, and name it with --judge",
        )
    if key not in _PATHS:
        return many
    return value if is_address(value) else str(path.parent / os.path.expanduser(value))
