"""Run the server: two sockets, because big files come from a second origin. Prints `READY http://…`."""

from __future__ import annotations

import argparse
import os
import socket
import tempfile
import threading
from pathlib import Path

import uvicorn

from hub_server.app import App
from hub_server.state import Hub, User


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--root", type=Path, help="Where blobs lie; by default a new folder.")
    parser.add_argument("--cas", help="The address handed to hf_xet, as in local:///DIR; without it: plain LFS.")
    parser.add_argument("--token", action="append", default=[], metavar="TOKEN=USER[+ORG…]:read|write")
    parser.add_argument("--with-parent", action="store_true", help="End when stdin closes.")
    given = parser.parse_args()
    first, second = _listening(given.host, given.port), _listening(given.host, 0)
    root = given.root or Path(tempfile.mkdtemp(prefix="hub-server-"))
    cdn = f"http://{given.host}:{second.getsockname()[1]}"
    hub = Hub(root, dict(map(_token, given.token or ["hf_test=tester:write"])), given.cas, cdn)
    if given.with_parent:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    print(f"READY http://{given.host}:{first.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(App(hub), log_level="critical", lifespan="off")).run(sockets=[first, second])


def _listening(host: str, port: int) -> socket.socket:
    """A socket that names its protocol: only then does asyncio set TCP_NODELAY, without which answers take 40 ms."""
    new = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    new.bind((host, port))
    new.listen(128)
    return new


def _token(text: str) -> tuple[str, User]:
    token, _, rest = text.partition("=")
    names, _, role = rest.partition(":")
    name, *orgs = names.split("+")
    return token, User(name, tuple(orgs), role)


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(0)


if __name__ == "__main__":
    main()
