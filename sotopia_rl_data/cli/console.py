"""What all commands use: shared options, tables, remarks, progress. In a pipe and with NO_COLOR there are no colours.

A command's result goes to stdout; progress and remarks go to stderr, so that `--json` and pipes stay clean.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import shlex
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sotopia_rl_data.cli.volume import Volume, volume
from sotopia_rl_data.display import Advance, cell, printable, write_utf8

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from sotopia_rl_data.store import Store

F = TypeVar("F", bound=Callable[..., Any])

_PLAIN = dict(zip("−–—’‘“”·•×▁▂▃▄▅▆▇█", "---''\"\".*x12345678", strict=True))
_PLAIN |= {"≥": ">=", "≤": "<=", "±": "+/-", "€": "EUR"}
_PLAIN |= {letter: unicodedata.name(letter).split()[-1].lower() for letter in "αβγδεζηθικλμνξοπρστυφχψω"}
"""What is written where the terminal's encoding lacks a character, beside what Unicode itself decomposes."""

WORDS = f"{__name__}.words"
"""Where a context's `meta` keeps the words of the command line."""

PROGRAM = "sotopia-rl-data"
_COMMAND = re.compile(rf"(?<![\w./-]){PROGRAM} (?=[a-z-])")
_PASTED = re.compile(rf"`?(?:{_COMMAND.pattern}|(?:(?:'[^']+'|\S+) -m )?\bpip install ).*", re.DOTALL)
_LINE = re.compile(rf"(?P<quote>`?){_COMMAND.pattern}(?P<words>(?:'[^'\n]*'|\"[^\"\n]*\"|(?!   #)[^`\n])+)")

_store: tuple[click.Command, str] | None = None
"""The program and the `--store` that it was given: of the process, since errors are told after the command's context is
gone."""

DONE, FAILED, WRONG_USAGE, WITH_FAILURES = 0, 1, 2, 3


def store_option(command: F) -> F:
    """`--store DIR`, on every command; the command gets an open Store."""
    return click.option(
        "--store",
        envvar="SOTOPIA_RL_DATA_STORE",
        default="./store",
        show_default=True,
        show_envvar=True,
        metavar="DIR",
        callback=_open_store,
        shell_complete=_complete_folders,
        help="Where datasets and the ledger live: a folder, or s3://BUCKET/PREFIX; to read, hf://datasets/ORG/NAME.",
    )(command)


def store_of(context: click.Context) -> Store:
    """The store of a command that is not typed to its end."""
    from sotopia_rl_data.store import Store

    given = context.params.get("store")
    if isinstance(given, Store) and context.get_parameter_source("store") is not click.core.ParameterSource.DEFAULT:
        return given
    from sotopia_rl_data.cli import defaults

    return Store(defaults.read().values.get("store") or Store.default().root)


def complete_datasets(context: click.Context, _param: click.Parameter, incomplete: str) -> list[str | CompletionItem]:
    """The datasets of the store that begin so; behind an @, the versions; files where a path begins."""
    from click.shell_completion import CompletionItem

    from sotopia_rl_data.errors import SotopiaDataError

    if incomplete.startswith((".", "/", "~")):
        return [CompletionItem(incomplete, type="file")]
    name, at, _ = incomplete.partition("@")
    try:
        store = store_of(context)
        known = [f"{name}@{version}" for version in store.versions(name)] if at else store.names()
    except (SotopiaDataError, OSError):  # while a word is completed there is no place for an error
        return []
    return [one for one in known if one.startswith(incomplete)]


def ref_argument(name: str, *, required: bool = True) -> Callable[[F], F]:
    """An argument that is a dataset's reference, completed from the store."""
    return click.argument(name, required=required, shell_complete=complete_datasets)


def refs_argument(*, required: bool = True) -> Callable[[F], F]:
    """`REF…`: several references."""
    return click.argument("refs", nargs=-1, required=required, metavar="REF…", shell_complete=complete_datasets)


def dataset_option(flag: str, text: str, *, required: bool = False) -> Callable[[F], F]:
    """An option that names a dataset to write."""
    return click.option(flag, required=required, metavar="ORG/NAME", shell_complete=complete_datasets, help=text)


def json_option(command: F) -> F:
    """`--json`: the result as one JSON value on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def output_option(text: str, *, folder: bool = False, required: bool = True) -> Callable[[F], F]:
    """`-o, --output FILE` or `DIR`, of every command that writes a file or a folder (`--out` names a dataset)."""
    path = click.Path(file_okay=not folder, dir_okay=folder, path_type=Path)
    return click.option("-o", "--output", required=required, type=path, help=text)


def wide_option(command: F) -> F:
    """`--wide`: no column is left out, whatever the screen."""
    return click.option("--wide", is_flag=True, help="All columns and rows, also on a narrow screen.")(command)


def time_limit_option(command: F) -> F:
    """`--timeout SECONDS` of a query."""
    return click.option(
        "--timeout",
        type=click.FloatRange(0, min_open=True),
        default=300.0,
        show_default=True,
        metavar="SECONDS",
        help="End the query after this time.",
    )(command)


def _complete_folders(_context: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="dir")]


def _open_store(context: click.Context, _param: click.Parameter, value: str) -> Store:
    from sotopia_rl_data.store import Store

    global _store
    given = context.get_parameter_source("store") is click.core.ParameterSource.COMMANDLINE
    if not value:
        from sotopia_rl_data.errors import UsageError

        raise UsageError("--store names no folder.", "name one, as in --store ./store, or omit it")
    store = Store(value, sys.modules[__name__])
    _store = (context.find_root().command, store.address) if given else None
    return store


def forget_store() -> None:
    """A new command line is read."""
    global _store
    _store = None


def accept_any_text() -> None:
    """From here on, a character that the encoding of stdout or stderr lacks is written in ASCII."""
    codecs.register_error("in-ascii", _in_ascii)
    ascii = codecs.lookup("ascii")
    ours = codecs.CodecInfo(ascii.encode, ascii.decode, incrementalencoder=ascii.incrementalencoder, name="in-ascii")
    codecs.register(lambda name: ours if name == "in_ascii" else None)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # click believes that a stream called "ascii" was set up wrongly, and would write UTF-8 to it.
            is_ascii = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding="in-ascii" if is_ascii else stream.encoding, errors="in-ascii")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """What stands for the first character that cannot be encoded (the handler of `codecs.register_error`)."""
    assert isinstance(error, UnicodeEncodeError)
    character = error.object[error.start]
    plain = unicodedata.normalize("NFKD", _PLAIN.get(character, character)).encode("ascii", "ignore").decode()
    return plain or character.encode("ascii", "backslashreplace").decode(), error.start + 1


def emit_json(value: Any) -> None:
    """One JSON value on stdout, in UTF-8."""
    write_utf8(sys.stdout)
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None, *, spare: Sequence[str] = ()
) -> list[str]:
    """A table on stdout, under `title`. Numbers align right; a missing value is a dash, and a column without any value
    is left out. On a narrow screen the columns in `spare` go first, in this order; a line below says which. Returns the
    columns that are shown."""
    from rich.table import Table
    from rich.text import Text

    from sotopia_rl_data.screen import Screen

    body = [list(row) for row in rows]
    screen = Screen()
    shown = Table(header_style="bold", box=None, pad_edge=False, show_header=any(columns))
    kept = [i for i in range(len(columns)) if not body or any(row[i] is not None for row in body)]
    for index in kept:
        values = [row[index] for row in body if row[index] is not None]
        right = bool(values) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
        head = Text(screen.plain(columns[index]))
        shown.add_column(head, justify="right" if right else "left", overflow="fold")
    for row in body:
        shown.add_row(*[Text(screen.plain(_cell(row[i]))) for i in kept])
    if title:
        screen.say(title, "bold")
    left_out, _ = screen.show(shown, spare)
    if left_out:
        screen.say(f"{', '.join(left_out)}: with --wide", "dim")
    screen.print()
    return [columns[i] for i in kept if columns[i] not in left_out]


def _cell(value: Any) -> str:
    """One value in a table: a fraction with three digits, and no exponent for a thousand (999.7)."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"
    return cell(value)


def note(text: str) -> None:
    """A remark on stderr; none with --quiet."""
    if volume() is not Volume.QUIET:
        click.echo(_wrapped(printable(text)), err=True)


def warn(text: str) -> None:
    """A warning on stderr; none with --quiet."""
    if volume() is not Volume.QUIET:
        say("warning: ", "yellow", text)


def say(head: str, colour: str, text: str) -> None:
    """A line on stderr that begins with a coloured word (without colour if NO_COLOR is set: no-color.org)."""
    foreground = None if os.environ.get("NO_COLOR") else colour
    told = _wrapped(printable(text), head).removeprefix(head)
    click.echo(click.style(head, fg=foreground, bold=True) + told, err=True)


def _wrapped(text: str, head: str = "") -> str:
    """Prose after `head`, on a terminal wrapped between words. A command in it stays on one line, to be pasted."""
    if not sys.stderr.isatty():
        return head + as_called(text)
    columns, encoding = shutil.get_terminal_size().columns, sys.stderr.encoding
    if encoding and encoding.lower() != "utf-8":
        text = text.encode(encoding, "in-ascii").decode(encoding)  # "…" is three characters there
    wrapper = textwrap.TextWrapper(columns, initial_indent=head, break_long_words=False, break_on_hyphens=False)
    found = _PASTED.search(text)
    prose, command = (text[: found.start()], as_called(found[0])) if found else (text, "")
    lines = []
    for line in prose.splitlines() or [""]:
        lines += wrapper.wrap(line) or [wrapper.initial_indent]
        wrapper.initial_indent = ""
    if command:
        joined = f"{lines[-1].rstrip()} {command}" if lines[-1].strip() else command
        lines[-1:] = [joined] if len(joined) <= columns else [*lines[-1:], command]
    return "\n".join(lines)


def as_called(text: str) -> str:
    """`text`, the commands in it spelled as this program was called, and with the `--store` that it was given."""
    return _LINE.sub(_as_called, text)


def _as_called(line: re.Match[str]) -> str:
    words = str(line["words"])
    if _store is not None and "--store" not in words and "--help" not in words:
        command, places = _store[0], words.split()
        while places and isinstance(command, click.Group):
            command = command.get_command(click.Context(command), places.pop(0)) or click.Command(None)
        is_name = line["quote"] and not places  # a command spoken of, such as `sotopia-rl-data label`
        options = {parameter.name for parameter in command.params}
        refused = _store[1].startswith("hf:") and "version" in options  # it makes one, and such a store is only read
        if not is_name and not refused and "store" in options:
            words = f"{words} --store {shlex.quote(_store[1])}"
    return f"{line['quote']}{called()} {words}"


def called(*, absolute: bool = False) -> str:
    """The words that call this program as it was called: `sotopia-rl-data`, but in a clone or where the shell does not
    find that. With `absolute` they do so from any folder."""
    near = os.path.abspath if absolute else _near
    interpreter = near(sys.executable) if absolute or sys.prefix != sys.base_prefix else "python"
    script, words = Path(sys.argv[0]).name, [PROGRAM]
    if script == "cli.py":
        words = [interpreter, near(sys.argv[0])]
    elif not shutil.which(PROGRAM):
        words = {PROGRAM: [near(sys.argv[0])], "__main__.py": [interpreter, "-m", "sotopia_rl_data"]}.get(script, words)
    return shlex.join(words)


def next_commands(*commands: str) -> None:
    """The commands to run next, on stderr, spelled as this program was called and with the same `--store`."""
    if volume() is Volume.QUIET or not commands:
        return
    click.echo(click.style("next:", bold=True), err=True)
    for command in commands:
        click.echo(printable(f"  {as_called(command)}"), err=True)


def _near(path: str) -> str:
    """A path, relative to the working directory if that is shorter."""
    return min(path, os.path.relpath(path), key=len) if os.path.isabs(path) else path


def has_bars() -> bool:
    """Whether progress is drawn as bars: on a terminal, and not with --quiet."""
    return sys.stderr.isatty() and volume() is not Volume.QUIET


@contextmanager
def progress(title: str, unit: str) -> Iterator[Advance]:
    """A bar with rate and ETA on stderr; in a pipe, a line every ten seconds instead; nothing with --quiet."""
    if not has_bars():
        yield _Lines(title, unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, words="")
        started = time.monotonic()

        def advance(done: int, total: int | None = None, words: str = "") -> None:
            rate = done / max(time.monotonic() - started, 1e-6)
            bar.update(task, completed=done, total=total, words=f"{rate:,.0f} {unit}/s {words}".rstrip())

        yield advance


class _Lines:
    """Progress in a log: at most one line in ten seconds."""

    def __init__(self, title: str, unit: str) -> None:
        self._title, self._unit = title, unit
        self._started = self._last = time.monotonic()

    def __call__(self, done: int, total: int | None = None, words: str = "") -> None:
        now = time.monotonic()
        if now - self._last < 10:
            return
        self._last = now
        whole = f" of {total:,}" if total is not None else ""
        rate = done / max(now - self._started, 1e-6)
        left = f", {(total - done) / rate:,.0f} s left" if total is not None and rate > 0 else ""
        note(f"{self._title}: {done:,}{whole} ({rate:,.0f} {self._unit}/s{left}) {words}".rstrip())
