"""completion: what makes a shell complete commands, options, and the names of datasets and their versions, by click."""

from __future__ import annotations

import os
import shutil

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from sotopia_rl_data.cli import console
from sotopia_rl_data.cli.console import PROGRAM

VARIABLE = "_SOTOPIA_RL_DATA_COMPLETE"
_LINES = {
    "bash": (f'eval "$({PROGRAM} completion bash)"', "~/.bashrc"),
    "zsh": (f'eval "$({PROGRAM} completion zsh)"', "~/.zshrc, after compinit"),
    "fish": (f"{PROGRAM} completion fish | source", "~/.config/fish/config.fish"),
}


@click.command()
@click.argument("shell", metavar="SHELL", type=click.Choice(list(_LINES)))
def completion(shell: str) -> None:
    """Print the script that makes SHELL complete commands, options, datasets and versions with the Tab key.

    SHELL is bash, zsh or fish. The last line of the script, a comment, is the line that sets it up: for bash in
    ~/.bashrc, for zsh in ~/.zshrc after compinit, for fish in ~/.config/fish/config.fish.

    \b
    Example:
      sotopia-rl-data completion bash
    """
    complete = get_completion_class(shell)
    assert complete is not None
    click.echo(complete(click.get_current_context().find_root().command, {}, PROGRAM, VARIABLE).source())
    line, file = _LINES[shell]
    if not shutil.which(PROGRAM):
        click.echo(f"# It completes {PROGRAM}, which this shell does not find: put its folder into PATH.")
    line = line.replace(PROGRAM, console.called(absolute=True))
    click.echo(f"# To set it up, put this line into {file}: {line}")


@add_completion_class
class WholeWordsBash(BashComplete):
    """bash ends a word at `=`, `:` and `@` too, and lets a completion replace what follows (with the `@`). So the line
    itself is read here, and what bash keeps of a word is left out of the answer, which is `@v1.0.0` for `lab/x@v`."""

    source_template = BashComplete.source_template.replace(
        "COMP_CWORD=$COMP_CWORD", 'COMP_LINE="${COMP_LINE:0:COMP_POINT}"'
    )

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)[1:]
        self._word = words.pop() if words and not line[-1:].isspace() else ""
        return words, self._word

    def format_completion(self, item: CompletionItem) -> str:
        kept = max(self._word.rfind("=") + 1, self._word.rfind(":") + 1, self._word.rfind("@"))
        start = self._word.find("=") + 1 if self._word.startswith("-") else 0  # click leaves `--option=` out itself
        item.value = str(item.value).removeprefix(self._word[start:kept])
        return super().format_completion(item)


@add_completion_class
class OptionValuesZsh(ZshComplete):
    """zsh puts a completion in the place of the whole word, also where that is `--option=value`."""

    source_template = ZshComplete.source_template.replace(
        "    for type key descr",
        '    local option="${${(M)PREFIX:#-*=*}%%=*}"\n'
        "    option=${option:+$option=}\n"
        "    compset -P '-*='  # for files; what is not a file is added as it is\n\n    for type key descr",
    ).replace('[[ "$type" == "plain" ]]; then\n', '[[ "$type" == "plain" ]]; then\n            key="$option$key"\n')


@add_completion_class
class OptionValuesFish(FishComplete):
    """So does fish; and what follows a comma in a description is a part of it."""

    source_template = (
        FishComplete.source_template.replace("string split ", "string split --max 1 ")
        .replace(
            "    for completion",
            "    set -l option (string match -r '^-[^=]*=' -- (commandline -t));\n\n    for completion",
        )
        .replace("$metadata[2];", "$metadata[2] | string replace -r '^' -- \"$option\";")
    )
