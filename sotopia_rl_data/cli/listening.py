"""What the commands that serve share: `--host` and `--port`, the socket that they name, and its URL."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import click

from sotopia_rl_data.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])


def address(port: int) -> Callable[[F], F]:
    """`--host` and `--port`."""

    def decorate(command: F) -> F:
        ports = click.IntRange(0, 65_535)
        command = click.option("--port", default=port, show_default=True, type=ports, help="0: any free one.")(command)
        return click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")(command)

    return decorate


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises UsageError where it cannot."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        # getaddrinfo has numbers of its own, and what create_server tells names the address once more
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
            reason = os.strerror(error.errno)
        raise UsageError(
            f"Port {port} of {host} cannot be used: {reason}.",
            "name another --port (0: any free one) or --host",
        ) from error


def url_of(host: str, listening: socket.socket) -> str:
    """The URL of a socket that listens at `host`."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
