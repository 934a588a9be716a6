"""available: what can be named as a judge, a schema, a preset, a policy, a reward or a preset of `train`, installed
plug-ins included."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import click

from sotopia_rl_data import plugins
from sotopia_rl_data.cli import console
from sotopia_rl_data.cli.replaying import MEANINGS

if TYPE_CHECKING:
    from sotopia_rl_data.store import Store

BUILT_IN = "built in"
_Row = tuple[str, str, str]


def _judges() -> Iterable[_Row]:
    from sotopia_rl_data.labelers import judges

    return _rows(judges.MEANINGS, judges.GROUP)


def _schemas() -> Iterable[_Row]:
    from sotopia_rl_data.labelers import schemas

    about = {}
    for name in schemas.BUILTINS:
        schema = schemas.schema(name)
        asked = f"a judge gives: {schema.measure}" if schema.needs_judge else "no judge is asked"
        about[name] = f"{asked}; the rule of its rewards: {schema.rule}"
    about |= MEANINGS | {"rubric:FILE.yaml": "dimensions of your own", "path/to/file.py:Name": "a schema of your own"}
    return _rows(about, schemas.GROUP)


def _presets() -> Iterable[_Row]:
    from sotopia_rl_data.rewards.recipe import descriptions

    return _rows(descriptions() | {"./FILE.yaml": "a recipe of your own"}, "")


def _policies() -> Iterable[_Row]:
    from sotopia_rl_data.rollouts import policies

    return _rows(policies.MEANINGS, policies.GROUP)


def _rewards() -> Iterable[_Row]:
    from sotopia_rl_data.trainers import rewards

    about = {name: plugins.load("reward", rewards.GROUP, name, rewards.BUILTINS).__doc__ for name in rewards.BUILTINS}
    return _rows(about | {"path/to/file.py:Name": "a function or class of your own"}, rewards.GROUP)


def _train_presets() -> Iterable[_Row]:
    from sotopia_rl_data.trainers import settings

    named = {f"{kind} {name}": what for kind in settings.CLASSES for name, what in settings.presets(kind).items()}
    return _rows(named, "")


def _rows(about: Mapping[str, str], group: str) -> Iterable[_Row]:
    """(name, what brings it, what it is): what is built in, then what is installed."""
    yield from ((name, BUILT_IN, what) for name, what in about.items())
    yield from ((name, package, "") for name, package in sorted(plugins.packages(group).items()) if name not in about)


NOUNS: dict[str, Callable[[], Iterable[_Row]]] = {
    "judges": _judges, "schemas": _schemas, "presets": _presets, "policies": _policies, "rewards": _rewards,
    "train-presets": _train_presets,
}  # fmt: skip


@click.command()
@click.argument("noun", metavar="[KIND]", type=click.Choice(list(NOUNS)), required=False)
@console.store_option
@console.json_option
def available(noun: str | None, store: Store, as_json: bool) -> None:
    """What can be named: the judges, schemas, presets, policies and rewards that are built in or installed as plug-ins,
    and the presets of `train`.

    KIND is judges, schemas, presets, policies, rewards or train-presets.

    \b
    Examples:
      sotopia-rl-data available
      sotopia-rl-data available schemas
    """
    kinds = [noun] if noun else list(NOUNS)
    rows = [(kind, *row) for kind in kinds for row in NOUNS[kind]()]
    if as_json:
        console.emit_json([dict(zip(("kind", "name", "from", "about"), row, strict=True)) for row in rows])
        return
    if noun is None:
        names = {kind: ", ".join(row[1] for row in rows if row[0] == kind) for kind in kinds}
        console.table(["kind", "names"], list(names.items()))
        console.next_commands("sotopia-rl-data available schemas   # what each of them is")
        return
    for kind in kinds:
        console.table(["name", "from", "what it is"], [row[1:] for row in rows if row[0] == kind], kind)
