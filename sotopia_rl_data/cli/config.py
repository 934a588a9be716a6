"""config: the defaults of options that count, and where each comes from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import console, defaults

if TYPE_CHECKING:
    from sotopia_rl_data.store import Store

_DEFAULTS = {"store": "./store", "ledger": "STORE/.ledger"}


@click.command()
@console.store_option
@console.json_option
def config(store: Store, as_json: bool) -> None:
    """The defaults of options, and where each comes from: the environment, the config file, or this program.

    The config file is sotopia-rl-data.toml: the one that SOTOPIA_RL_DATA_CONFIG names (empty: none), else the nearest
    in the working folder or above it, else the one in ~/.config/sotopia-rl-data. It sets store, ledger, judge, judges,
    prices and budget; its paths are relative to it. An option wins over an environment variable, and that over the
    file. It never holds keys of providers.

    \b
    Example:
      sotopia-rl-data config
    """
    given = defaults.read()
    rows = [_effective(key, given) for key in defaults.KEYS]
    if click.get_current_context().get_parameter_source("store") is click.core.ParameterSource.COMMANDLINE:
        rows[0] = ("store", store.address, "option", defaults.KEYS["store"])
    if as_json:
        named = [dict(zip(("key", "value", "from", "about"), row, strict=True)) for row in rows]
        console.emit_json({"file": str(given.path) if given.path else None, "defaults": named})
        return
    shown = [[key, ", ".join(value) if isinstance(value, list) else value, source] for key, value, source, _ in rows]
    console.table(["key", "value", "from"], shown, title=str(given.path or "no config file"))
    if given.path is None:
        console.note('To set one, write it into ./sotopia-rl-data.toml, as in: judge = "gpt-4o"')


def _effective(key: str, given: defaults.FileDefaults) -> tuple[str, Any, str, str]:
    """A key, its value, where that comes from, and what it is."""
    set_by = {
        "store": ("SOTOPIA_RL_DATA_STORE", os.environ.get("SOTOPIA_RL_DATA_STORE")),
        "prices": ("SOTOPIA_RL_DATA_PRICES", os.environ.get("SOTOPIA_RL_DATA_PRICES")),
    }
    variable, value = set_by.get(key, ("", None))
    if value:
        return key, value, f"environment: {variable}", defaults.KEYS[key]
    if key in given.values:
        return key, given.values[key], "file", defaults.KEYS[key]
    return key, _DEFAULTS.get(key), "this program" if key in _DEFAULTS else "not set", defaults.KEYS[key]
