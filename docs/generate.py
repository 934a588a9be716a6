"""Writes `cli.md`, the reference of commands, options and settings, from the code: `make docs`.

A test compares the page with what this writes, so the page cannot fall behind the code.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from inspect import cleandoc
from pathlib import Path
from textwrap import dedent

import click

from sotopia_rl_data.cli import program
from sotopia_rl_data.trainers.settings import TrainingSetting

PAGE = Path(__file__).parent / "cli.md"
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
EVERYWHERE = ("--quiet", "--verbose", "--debug", "--help")


def page() -> str:
    """The whole page."""
    parts = [OPENING, _table("Option of every command", _options(program.cli))]
    for title, section in program.COMMANDS.items():
        parts.append(f"## {title}\n")
        for name in section:
            parts += _command(program.cli.get_command(click.Context(program.cli), name), f"sotopia-rl-data {name}")
    return "\n".join([*parts, *_settings()])


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
        "transformers' `TrainingArguments`, `sft` those of TRL's `SFTConfig` and `grpo` those of TRL's `GRPOConfig`.\n"
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
    PAGE.write_text(page(), encoding="utf-8")
