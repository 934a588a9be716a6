"""A proxy with a password in its address: the password is in nothing that is said or kept."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from fixtures.clients import PROVIDERS, ask
from fixtures.labelling import BOAT, put
from fixtures.places import ROOT

from sotopia_rl_data.asking.anthropic import AnthropicClient
from sotopia_rl_data.asking.openai import OpenAIClient
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import Unavailable
from sotopia_rl_data.request import Target
from sotopia_rl_data.store import Store

PASSWORD, PACKED = "Sesame-4-Opens", "YW5uOlNlc2FtZS00LU9wZW5z"  # what is sent is base64 of ann:Sesame-4-Opens


class Gatekeeper(BaseHTTPRequestHandler):
    """Refuses every connection, and repeats whatever it was sent."""

    seen: list[str]

    def do_CONNECT(self) -> None:
        sent = self.headers.get("Proxy-Authorization", "")
        self.seen.append(sent)
        body = f"no way for {sent} ann:{PASSWORD}".encode()
        self.send_response(407, f"no way for {sent}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the proxy of this process was sent as a password."""
    seen: list[str] = []
    server = HTTPServer(("127.0.0.1", 0), type("Seeing", (Gatekeeper,), {"seen": seen}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://ann:{PASSWORD}@127.0.0.1:{server.server_port}")
    monkeypatch.setenv("SOME_API_KEY", "sk-some-key-of-mine-0123")
    yield seen
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
@pytest.mark.parametrize("ask", [("label", "lab/episodes", "--preset", "goal-only"), ("models", "check")])
def test_the_password_of_a_proxy_is_in_no_message_and_no_file(
    ask: tuple[str, ...], protocol: str, seen: list[str], tmp_path: Path
):
    put(Store(tmp_path / "store"), [BOAT])
    judge = f"{protocol}:m@https://models.example.org/v1"
    command = [*ask, *(["--judge", judge, "--store", str(tmp_path / "store")] if ask[0] == "label" else [judge])]
    done = CliRunner().invoke(cli, ["--debug", *command, "--key", "models.example.org=SOME_API_KEY"])
    assert any(PACKED in sent for sent in seen)  # it was used
    assert done.exit_code
    check_hidden(done.output + str(done.exception) + done.stderr, tmp_path)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_netrc_is_not_read_and_the_proxy_of_the_environment_is_used(
    provider: str, seen: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "netrc").write_text("default login ann password netrc-secret-0123\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("NO_PROXY", "direct.invalid")
    for host, asked in (("models.example.org", 1), ("direct.invalid", 1)):
        model = Target(provider, "m", f"https://{host}/v1", {}, "SOME_API_KEY")
        with pytest.raises(Unavailable):
            ask(OpenAIClient(model) if provider == "openai" else AnthropicClient(model))
        assert seen == [f"Basic {PACKED}"] * asked


@pytest.mark.slow
def test_nor_is_it_where_the_hub_cannot_be_reached(seen: list[str], tmp_path: Path):
    endpoint = {"HF_ENDPOINT": "https://hub.example.org", "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, str(ROOT / "cli.py"), "--debug", "pull", "lab/none", "--store", str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | endpoint, timeout=300)
    assert any(PACKED in sent for sent in seen)
    assert done.returncode
    check_hidden(done.stdout + done.stderr, tmp_path)


def check_hidden(said: str, folder: Path) -> None:
    kept = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    for secret in (PASSWORD, PACKED):
        assert secret not in said
        assert secret.encode() not in kept
