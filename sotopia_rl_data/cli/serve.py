"""The command that serves a reward model: serve."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

import click

from sotopia_rl_data.cli import console
from sotopia_rl_data.errors import KeyMissing, UsageError

_GRACE_S = 30  # seconds for the requests in flight after Ctrl-C


@click.command()
@click.option(
    "--reward-model", required=True, metavar="DIR|ID[@REV]", help="A folder that `train rm` wrote, or a Hub id."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65_535), help="0: any free one.")
@click.option("--token", is_flag=True, help="Clients have to send the token in SOTOPIA_RL_DATA_REWARD_TOKEN.")
@click.option("--queue", default=4_096, show_default=True, type=click.IntRange(1), help="Most completions that wait.")
@click.option(
    "--batch-size", "batch", default=64, show_default=True, type=click.IntRange(1), help="Completions scored together."
)
@click.option("--device", metavar="DEVICE", help="cpu, cuda …  [default: a GPU, if any]")
@console.json_option
def serve(
    reward_model: str,
    host: str,
    port: int,
    token: bool,
    queue: int,
    batch: int,
    device: str | None,
    as_json: bool,
) -> None:
    """Serve a reward model over HTTP, for trainers that ask for rewards.

    /score takes prompts and completions; /get_reward answers as OpenRLHF asks, /classify as vLLM does; /health and
    /metrics say how it is; /docs describes all. Requests that come together are scored together. When more completions
    wait than --queue allows, the answer is 429 with Retry-After. Ctrl-C ends it when the requests in flight are
    answered. Its URL is printed when it is ready.

    \b
    Examples:
      sotopia-rl-data serve --reward-model runs/rm-episodes-rewards
      sotopia-rl-data serve --reward-model runs/rm-episodes-rewards --host 0.0.0.0 --token
    """
    from sotopia_rl_data.code import check_installed

    check_installed("A reward server", "torch", "transformers", extra="train")
    check_installed("A reward server", "fastapi", "uvicorn", "prometheus_client", extra="serve")
    secret = _secret() if token else None
    if secret is None and host not in ("127.0.0.1", "localhost", "::1"):
        console.warn(f"whoever reaches {host} can use this server: set a token, and add --token")
    import uvicorn

    from sotopia_rl_data.serve.app import reward_app
    from sotopia_rl_data.trainers import RewardModel

    with _bound(host, port) as listening:  # before the model is loaded, which can take minutes
        model = RewardModel.load(reward_model, device=device)
        app = reward_app(model, token=secret, batch=batch, most_waiting=queue)
        config = uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=_GRACE_S)
        number = listening.getsockname()[1]
        url = f"http://{f'[{host}]' if ':' in host else host}:{number}"
        if as_json:
            console.emit_json({"url": url, "model": model.identity})
        else:
            click.echo(url)
        console.note(f"serving {model.identity}; Ctrl-C ends it")
        with suppress(KeyboardInterrupt):  # uvicorn raises it when it has ended
            uvicorn.Server(config).run(sockets=[listening])


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises UsageError where it cannot."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(
            f"Port {port} of {host} cannot be used: {error.strerror or error}.",
            "name another --port (0: any free one) or --host",
        ) from error


def _secret() -> str:
    value = os.environ.get("SOTOPIA_RL_DATA_REWARD_TOKEN")
    if not value:
        raise KeyMissing(
            "--token is given, but SOTOPIA_RL_DATA_REWARD_TOKEN is not set.",
            "export SOTOPIA_RL_DATA_REWARD_TOKEN=A_LONG_RANDOM_WORD",
        )
    return value
