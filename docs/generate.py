"""Writes `cli.md`, the reference of commands, options and settings, and `api.md`, that of Python, from the code.

`make docs` runs it. A test compares the pages with what this writes, so they cannot fall behind the code.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Collection, Iterable, Iterator
from inspect import cleandoc
from pathlib import Path
from textwrap import dedent
from typing import Any

import click

from sotopia_rl_data.cli import program
from sotopia_rl_data.trainers.settings import TrainingSetting

DOCS = Path(__file__).parent
OPENING = """\
# Commands and options

This page is made from the code by `make docs`. `python cli.py …` in a clone and the installed `sotopia-rl-data …` are
the same program. Exit codes are in [stability](stability.md).

Defaults of your own are in a file `sotopia-rl-data.toml`: the one that `SOTOPIA_RL_DATA_CONFIG` names, else the nearest
in the working folder or above it, else the one in ~/.config/sotopia-rl-data. Its paths are relative to it. Options win
over environment variables, and these over the file; [`config`](#sotopia-rl-data-config) shows what counts.

```toml
store = "data/store"
judge = ["gpt-4o", "claude-sonnet-4-5"]
judges = "judges.yaml"
prices = "prices.yaml"
budget = 5
```

The Tab key completes commands, options, datasets and versions after `eval "$(sotopia-rl-data completion bash)"`, and in
zsh and fish.
"""
MODULES = ("sotopia_rl_data", "sotopia_rl_data.labelers", "sotopia_rl_data.trainers")
API_OPENING = """\
# Python

This page is made from the docstrings by `make docs`. It has the names that [stay as they are](stability.md#python);
everything is looked up when it is first used, so that an import costs nothing.
"""
EVERYWHERE = ("--quiet", "--verbose", "--debug", "--help")


def page() -> str:
    """The whole page."""
    parts = [OPENING, _table("Option of every command", _options(program.cli))]
    for title, section in program.COMMANDS.items():
        parts.append(f"## {title}\n")
        for name in section:
            parts += _command(program.cli.get_command(click.Context(program.cli), name), f"sotopia-rl-data {name}")
    return "\n".join([*parts, *_settings()])


def api() -> str:
    """The whole page of Python's public names."""
    parts = [API_OPENING]
    for name in MODULES:
        module = importlib.import_module(name)
        parts.append(f"## `{name}`\n")
        for public in sorted(module.__all__):
            parts += _object(public, getattr(module, public), "###")
    return "\n".join(parts)


def _object(name: str, value: Any, head: str) -> Iterator[str]:
    """A function or a class with its public members; a member without a docstring is left out."""
    called = name if isinstance(value, property) else f"{name}{_signature(value)}"
    yield f"{head} `{name}`\n"
    if called != name:
        yield f"```python\n{called}\n```\n"
    yield cleandoc(value.__doc__ or "") + "\n"
    if inspect.isclass(value):
        for inner, member in vars(value).items():
            member = getattr(member, "__func__", member)  # what a class method or a static one wraps
            if (
                not inner.startswith("_")
                and getattr(member, "__doc__", "")
                and (inspect.isfunction(member) or isinstance(member, property))
            ):
                yield from _object(f"{name}.{inner}", member, "####")


def _signature(value: Any) -> str:
    """As it is written in the code: `self` and `cls` left out, each parameter in a line of its own where it is long."""
    found = inspect.signature(value)
    kept = [parameter for parameter in found.parameters.values() if parameter.name not in ("self", "cls")]
    text, *parameters = (
        re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(one)) for one in (found.replace(parameters=kept), *kept)
    )
    if len(text) < 80:
        return text
    return "(\n" + "".join(f"    {parameter},\n" for parameter in parameters) + ")" + text.rpartition(")")[2]


def _command(command: click.Command | None, name: str) -> Iterator[str]:
    """The part of a command, or of each command below it."""
    assert command is not None
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from _command(inner, f"{name} {inner.name}")
        return
    context = click.Context(command, info_name=name)
    arguments = [piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]"]
    yield f"### `{' '.join([name, *arguments])}`\n"
    yield from _paragraphs(command.help or "")
    yield _table("Option", _options(command, leave_out=EVERYWHERE))


def _paragraphs(text: str) -> Iterator[str]:
    """A help text in Markdown: what click keeps as it stands (after a \\b) is an example, the rest flows."""
    for paragraph in cleandoc(text).split("\n\n"):
        head, kept, lines = paragraph.partition("\b\n")
        if kept:
            title, _, examples = lines.partition("\n")
            yield f"{title}\n\n```sh\n{dedent(examples).strip()}\n```\n"
        else:
            yield " ".join(head.split()) + "\n"


def _options(command: click.Command, leave_out: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """How each option is written and what it means, as `--help` shows them."""
    context = click.Context(command, help_option_names=["-h", "--help"])
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None and not set(leave_out) & set(parameter.opts):
            yield f"`{record[0]}`", record[1]


def _settings() -> Iterator[str]:
    """The settings of `train` that are this project's own; the libraries document theirs."""
    from sotopia_rl_data.trainers.settings import CLASSES, TITLES, with_preset

    yield "## Settings of `train`\n"
    yield (
        "Given with `--set NAME=VALUE`, or in a YAML file with `--config`. Beside these, `rm` takes every field of\n"
        "transformers' `TrainingArguments`, `sft` those of TRL's `SFTConfig`, `dpo` those of TRL's `DPOConfig` and\n"
        "`grpo` those of TRL's `GRPOConfig`.\n"
        "`train rm --help-settings` lists all of them.\n"
    )
    known = {(one.owner, one.name): one for kind in CLASSES for one in with_preset(kind).values()}.values()
    for owner, title in TITLES.items():
        yield f"### {title}\n"
        yield _table("Setting", ((f"`{one.name}`", _meaning(one)) for one in known if one.owner == owner))


def _meaning(setting: TrainingSetting) -> str:
    shown = "" if setting.default in ("", "null", "[]") else f" [default: {setting.default}]"
    return f"{setting.meaning}{shown}"


def _table(head: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {head} | Meaning |", "|---|---|"]
    lines += [f"| {_cell(written)} | {_cell(meaning)} |" for written, meaning in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


if __name__ == "__main__":
    for name, text in {"cli.md": page(), "api.md": api()}.items():
        (DOCS / name).write_text(text, encoding="utf-8")
