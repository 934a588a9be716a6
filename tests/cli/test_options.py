"""One flag, one meaning: what an option is called, and what its value is called, is the same in every command."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import click
import pytest

from sotopia_rl_data.cli.program import cli

# Two words for a value: FILE or DIR is written; `train` takes no FILE as a preset, since its --config is that file; and
# `rewards` takes a judge's name alone, since it asks none; `compare` and `annotate` a partner's, which has played;
# `label` the runs of a fold each, whose records name the fold.
TWO_WORDS = {
    "--output": {"FILE", "DIR"},
    "--preset": {"NAME", "NAME|FILE"},
    "--judge": {"NAME", "SPEC"},
    "--partner": {"MODEL", "SPEC"},
    "--reward-model": {"DIR|ID[@REV]", "RUN"},
}


def commands(command: click.Command = cli, name: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that can be run, with the words that call it."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for word in command.list_commands(context):
        inner = command.get_command(context, word)
        assert inner is not None
        yield from commands(inner, f"{name} {word}".strip())


def options() -> Iterator[tuple[str, click.Option, str]]:
    """Every option of every command: the command, the option, and what `--help` calls its value ("": a flag)."""
    for name, command in commands():
        for option in command.params:
            if isinstance(option, click.Option):
                value = "" if option.is_flag else option.make_metavar(click.Context(command))
                yield name, option, value


def long_name(option: click.Option) -> str:
    return next(name for name in option.opts if name.startswith("--"))


def test_an_option_has_one_short_form_and_one_word_for_its_value_in_all_commands():
    spelled: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    values: dict[str, set[str]] = defaultdict(set)
    for _, option, value in options():
        spelled[long_name(option)].add((*sorted(option.opts), *sorted(option.secondary_opts)))
        values[long_name(option)].add(value)
    assert {name: found for name, found in spelled.items() if len(found) > 1} == {}
    assert {name: found for name, found in values.items() if len(found) > 1} == TWO_WORDS


def test_out_names_a_dataset_and_output_a_file_or_a_folder():
    values = defaultdict(set)
    for _, option, value in options():
        values[long_name(option)].add((value, "-o" in option.opts, isinstance(option.type, click.Path)))
    assert values.pop("--out") == {("ORG/NAME", False, False)}
    assert {(short, path) for _, short, path in (*values["--output"],)} == {(True, True)}


def test_what_a_value_is_called_says_what_it_is():
    """A number is N or NUMBER, a path FILE or DIR, whichever command takes it; click's own words are not shown."""
    shown = {value for _, _, value in options()}
    assert not shown & {"INTEGER", "INTEGER RANGE", "FLOAT", "FLOAT RANGE", "DIRECTORY", "PATH"}
    for name, option, value in options():
        if isinstance(option.type, click.Path):
            assert value in ("FILE", "DIR"), (name, option.opts)


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_option_has_a_meaning_and_says_once_that_it_is_required(name: str):
    command = dict(commands())[name]
    for option in command.params:
        if isinstance(option, click.Option):
            told = option.get_help_record(click.Context(command))
            assert told is not None
            assert told[1], (name, option.opts)
            assert told[1].count("[required]") == int(option.required), (name, option.opts)
