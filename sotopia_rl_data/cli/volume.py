"""How much a command tells beside its result: --quiet, --verbose and --debug, on every command and before its name.

    quiet    the result on stdout and errors on stderr
    normal   also progress, remarks, warnings and the next commands
    verbose  also what the library does: requests sent again, batches, files and versions written
    debug    also every step that is logged, by other libraries too, and the traceback of an error

All but the result goes to stderr. The library says what it does through Python's `logging`, under the name
`sotopia_rl_data`; API keys and tokens in it are hidden. A result and an exit code are the same at every volume.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

import click

from sotopia_rl_data.display import printable
from sotopia_rl_data.errors import UsageError


class Volume(IntEnum):
    """How much is told: each includes those before it."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2
    DEBUG = 3


_OPTIONS = {
    Volume.QUIET: (["--quiet", "-q"], "Print the result and errors, nothing else."),
    Volume.VERBOSE: (["--verbose", "-v"], "Tell more: requests sent again, files written."),
    Volume.DEBUG: (["--debug"], "Tell everything, and the traceback of an error."),
}
_volume = Volume.NORMAL  # of the process, since errors are told after the command's context is gone


def volume() -> Volume:
    """How much this process tells."""
    return _volume


def reset() -> None:
    """Back to normal: a new command line is read."""
    global _volume
    _volume = Volume.NORMAL


def add_options(command: click.Command) -> click.Command:
    """`command`, with the three options on it and on every command below it."""
    if all(parameter.name != "quiet" for parameter in command.params):
        for chosen, (names, told) in _OPTIONS.items():
            option = click.Option(
                names, is_flag=True, is_eager=True, expose_value=False, callback=_setter(chosen), help=told
            )
            command.params.append(option)
    for inner in getattr(command, "commands", {}).values():
        add_options(inner)
    return command


def _setter(chosen: Volume) -> Callable[[click.Context, click.Parameter, bool], None]:
    def set_volume(_context: click.Context, _option: click.Parameter, given: bool) -> None:
        global _volume
        if not given:
            return
        if _volume is not Volume.NORMAL and Volume.QUIET in (chosen, _volume) and chosen is not _volume:
            raise UsageError("A command cannot tell less and more at once.", "leave out --quiet, or the other option")
        _volume = max(_volume, chosen) if chosen else chosen
        _set_logging(_volume)

    return set_volume


def _set_logging(chosen: Volume) -> None:
    """Show what is logged at this volume, by one handler; at QUIET not even Python's warnings."""
    import logging
    import warnings

    root, own = logging.getLogger(), logging.getLogger("sotopia_rl_data")
    if chosen is Volume.QUIET:
        warnings.simplefilter("ignore")
        own.setLevel(logging.ERROR)
        return
    if not any(isinstance(getattr(handler, "stream", None), _Stderr) for handler in root.handlers):
        handler = logging.StreamHandler(_Stderr())
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
        root.addHandler(handler)
    own.setLevel(logging.DEBUG if chosen is Volume.DEBUG else logging.INFO)
    if chosen is Volume.DEBUG:
        root.setLevel(logging.INFO)  # of the libraries: their DEBUG has whole requests


class _Stderr:
    """Stderr at the time of writing (a progress bar may have replaced it), without keys and control characters."""

    def write(self, text: str) -> None:
        from sotopia_rl_data.secrets import redact

        for line in text.splitlines(keepends=True):
            code = line.startswith("  ")  # of a traceback: names in it may look like parts of keys
            click.echo(printable(redact(line, loosely=not code)), nl=False, err=True)

    def flush(self) -> None:
        """Nothing is held back."""


def tell_traceback(error: BaseException) -> None:
    """At DEBUG, where `error` came from."""
    if _volume is Volume.DEBUG:
        import traceback

        _Stderr().write("".join(traceback.format_exception(error)))
