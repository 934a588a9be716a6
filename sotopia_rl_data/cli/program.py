"""The command line: a table of commands, each imported when it is called.

`sotopia-rl-data …`, `python -m sotopia_rl_data …` and `python cli.py …` in a clone are the same program. A command's
module is imported when the command is called, so that `--help` imports nothing heavy. Exit codes: 0 done, 1 failed,
2 wrong usage, 3 done but with failures listed, 130 interrupted. How much a command tells is in `volume.py`.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from importlib import import_module

import click

from sotopia_rl_data import errors
from sotopia_rl_data.cli import console, volume
from sotopia_rl_data.cli.help import fit_help

# For each section of `--help`: its commands, each with the "module:object" to import and one line of help, in the order
# in which `--help` lists them.
_HERE = "sotopia_rl_data.cli"
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Make data": {
        "import": (f"{_HERE}.transfer:import_", "Episodes from files, as a versioned dataset."),
        "rollout": (f"{_HERE}.rollout:rollout", "Self-play: two policies talk over scenarios, as episodes."),
        "label": (f"{_HERE}.label:label", "Have a judge attribute episode scores to utterances."),
        "evaluate": (f"{_HERE}.label:evaluate", "Have a judge score the episodes: SOTOPIA-EVAL."),
        "annotate": (f"{_HERE}.annotate:annotate", "Human annotations: the file that people fill in."),
        "rewards": (f"{_HERE}.making:rewards", "Make the rewards anew from stored attributions; calls no model."),
        "models": (f"{_HERE}.models:models", "One tiny question to a model: does it answer, and how?"),
        "available": (
            f"{_HERE}.available:available",
            "The judges, schemas, presets, policies and rewards there are.",
        ),
        "prompts": (f"{_HERE}.making:prompts", "What a policy sees; learn a template from a served log."),
    },
    "Read data": {
        "list": (f"{_HERE}.reading:list_", "The datasets of a store."),
        "log": (f"{_HERE}.reading:log", "The versions of a dataset, and how each was made."),
        "show": (f"{_HERE}.reading:show", "A version at a glance, or one dialogue with its rewards."),
        "stats": (f"{_HERE}.reading:stats", "Rows, reward and dimension distributions, failures."),
        "query": (f"{_HERE}.reading:query", "One SELECT over a version, as table, JSON, CSV or Parquet."),
        "diff": (f"{_HERE}.reading:diff", "Rows added, removed and changed between two versions."),
        "verify": (f"{_HERE}.reading:verify", "Check every file and the digest of a version."),
        "ledger": (f"{_HERE}.label:ledger", "The journal of every call: query, compact, merge."),
    },
    "Trust data": {
        "agreement": (f"{_HERE}.trust:agreement", "How far judges, samples and schemas agree, with intervals."),
        "audit": (f"{_HERE}.audit:audit", "Bias probes: do labels change when they should not?"),
        "credit": (f"{_HERE}.credit:credit", "Credit against the truth, in games whose turns have a known worth."),
        "compare": (f"{_HERE}.compare:compare", "Agents compared by their scores: the papers' tables, with tests."),
        "report": (f"{_HERE}.trust:report", "One self-contained page: distributions, dialogues, opinions."),
        "curate": (f"{_HERE}.trust:curate", "Where to spend the next dollar: the widest disagreement."),
    },
    "Train on data": {
        "train": (f"{_HERE}.train:train", "A reward model; a policy by behaviour cloning, DPO or GRPO."),
        "score": (f"{_HERE}.train:score", "Add a reward model's scores to a dataset, as a judge."),
        "serve": (f"{_HERE}.serve:serve", "Serve a reward model, or judges, to trainers over HTTP."),
        "demo": (f"{_HERE}.demo:demo", "A page where people talk to a policy and see the rewards."),
        "merge": (f"{_HERE}.merge:merge", "A run's model as one checkpoint for vLLM, OpenRLHF or verl."),
        "inspect": (f"{_HERE}.train:inspect", "A training run: its data, its metrics beside the baselines."),
    },
    "Reproduce a paper": {
        "study": (f"{_HERE}.study:study", "A declared study: from episodes to the paper's tables and figures."),
    },
    "Publish data": {
        "export": (f"{_HERE}.transfer:export", "A version as files that another program or trainer reads."),
        "card": (f"{_HERE}.hub:card", "The dataset card, shown or written."),
        "push-to-hub": (f"{_HERE}.hub:push_to_hub", "A version as a release on the Hugging Face Hub."),
        "pull": (f"{_HERE}.hub:pull", "A release, or a dataset of others, from the Hub into the store."),
    },
    "Tidy and set up": {
        "rm": (f"{_HERE}.trash:rm", "Datasets or versions into the store's trash."),
        "undo": (f"{_HERE}.trash:undo", "Bring them back; what is in the trash."),
        "config": (f"{_HERE}.config:config", "Defaults of options, and where each comes from."),
        "completion": (f"{_HERE}.completion:completion", "What makes bash, zsh or fish complete by Tab."),
    },
}


WITHOUT_CONFIG = ("config", "completion")
"""Commands whose options have no defaults from a file: `config` reads it by itself, and `completion` needs none."""


class Sections(click.Group):
    """A group whose commands are imported when called, and listed by section."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in COMMANDS.values() for name in section]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        for section in COMMANDS.values():
            if name in section:
                module, _, attribute = section[name][0].partition(":")
                command: click.Command = getattr(import_module(module), attribute)
                return fit_help(_name_values(volume.add_options(command)))
        return None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        volume.reset()
        console.forget_store()
        ctx.meta[console.WORDS] = list(args)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None:
            raise errors.UsageError(f"There is no command {args[0]!r}.", _nearest(args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader, such as `head`, has closed the pipe: Python must not flush stdout into it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, line) for name, (_, line) in section.items()])


_VALUES = {"integer": "N", "integer range": "N", "float": "NUMBER", "float range": "NUMBER", "directory": "DIR"}
"""What the help of every command calls a value of one of click's types, where an option has no word of its own."""


def _name_values(command: click.Command) -> click.Command:
    for option in command.params:
        if isinstance(option, click.Option) and not option.is_flag and option.metavar is None:
            option.metavar = _VALUES.get(option.type.name)
    for inner in getattr(command, "commands", {}).values():
        _name_values(inner)
    return command


def _nearest(word: str, names: list[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(word, names, n=1)
    return f"did you mean `sotopia-rl-data {close[0]}`?" if close else "run `sotopia-rl-data --help` for the list"


@click.group(cls=Sections, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sotopia-rl-data")
@click.pass_context
def cli(context: click.Context) -> None:
    """Versioned episode and utterance-reward datasets for RL on social dialogue.

    \b
    First steps, without a key:
      sotopia-rl-data import --name demo/episodes
      sotopia-rl-data label demo/episodes --judge lexical
      sotopia-rl-data show demo/episodes-rewards
      sotopia-rl-data query demo/episodes-rewards "SELECT agent, avg(reward) FROM rewards GROUP BY agent"
    """
    name = str(context.invoked_subcommand)
    command = context.command.get_command(context, name) if isinstance(context.command, click.Group) else None
    if command is None or name in WITHOUT_CONFIG or {"-h", "--help"} & set(context.meta[console.WORDS]):
        return
    from sotopia_rl_data.cli import defaults

    context.default_map = {name: defaults.read().of(command)}


fit_help(volume.add_options(cli))


def main(argv: list[str] | None = None) -> None:
    """Run the program and exit. Every error is a sentence and a hint on stderr; only --debug shows a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)  # schedulers send it; it ends a run as Ctrl-C does
    console.accept_any_text()
    if "_SOTOPIA_RL_DATA_COMPLETE" in os.environ:
        import_module(f"{_HERE}.completion")
    try:
        code = cli.main(args=argv, standalone_mode=False, prog_name="sotopia-rl-data") or 0
    except click.exceptions.NoArgsIsHelpError as help_shown:
        help_shown.show()
        code = console.WRONG_USAGE
    except click.exceptions.Exit as exit_request:
        code = exit_request.exit_code
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the one place that all errors come to
        if isinstance(error, (errors.Interrupted, click.Abort)) or errors.is_ctrl_c(error):
            _ignore_interrupts()
        volume.tell_traceback(error)
        message, hint, code = _told(error)
        _say(message, hint)
    sys.exit(code)


_PLAINER = {
    "is not a valid integer range": "is not a whole number",
    "is not a valid float range": "is not a number",
    "is not a valid integer": "is not a whole number",
    "is not a valid float": "is not a number",
}
"""Click's words for what was typed, and ours."""


def _told(error: BaseException) -> tuple[str, str, int]:
    """The sentence that tells of an error, its hint, and the exit code."""
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "sotopia-rl-data"
        message = re.sub(r"\s*\n\s*", " ", error.format_message())  # click lists choices one a line
        for words, plainer in _PLAINER.items():
            message = message.replace(words, plainer)
        return message, f"run `{command} --help`", error.exit_code
    if isinstance(error, errors.SotopiaDataError):
        return error.message, error.hint, error.exit_code
    if isinstance(error, click.Abort) or errors.is_ctrl_c(error):
        return "Interrupted.", "run the same command again", errors.Interrupted.exit_code
    if isinstance(error, OSError):
        message = f"{error.strerror or error}: {error.filename or 'input or output'}."
        if error.errno == errno.EMFILE:
            import resource

            soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
            more = f"`ulimit -n {min(2 * soft, most) if most > soft else 2 * soft}`"
            return message, f"raise the limit with {more}, then run the same command again", console.FAILED
        return message, "check the path, its permissions and the free disk space", console.FAILED
    from sotopia_rl_data.secrets import redact

    reason = redact(next(iter(str(error).splitlines()), ""))
    if isinstance(error, ImportError) and not (error.name or "").startswith(__package__.partition(".")[0]):
        return f"A package is missing: {reason}", "install it, then run the same command again", console.FAILED
    return (
        f"The program has a bug: {type(error).__name__}: {reason} (Traceback: with --debug)",
        "run the same command with --debug, and report what it prints",
        console.FAILED,
    )


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _ignore_interrupts() -> None:
    """Ignore Ctrl-C from here on: a second one must not cut the message short or change the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _say(message: str, hint: str) -> None:
    from sotopia_rl_data.secrets import env_secrets, hide, redact

    console.say("error: ", "red", _cut(redact(message, loosely=False)))
    if hint:
        console.say(" hint: ", "green", _cut(hide(hint, *env_secrets())))  # of our own words none has a key's shape


def _cut(text: str) -> str:
    """A text as long as a screen: of a longer one, such as one that quotes a file's key of a megabyte, both ends."""
    head, tail = 1600, 400
    left_out = len(text) - head - tail
    return f"{text[:head]} … ({left_out:,} characters) … {text[-tail:]}" if left_out > 0 else text
