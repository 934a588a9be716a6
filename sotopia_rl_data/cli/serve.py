"""The command that serves rewards: serve."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import asking, console, listening
from sotopia_rl_data.cli.making import parse_weights
from sotopia_rl_data.errors import KeyMissing, UsageError

if TYPE_CHECKING:
    from sotopia_rl_data.serve.sources import ModelRewards, RewardSource
    from sotopia_rl_data.store import Store

_GRACE_S = 30  # seconds for the requests in flight after Ctrl-C


@click.command()
@click.option("--reward-model", metavar="DIR|ID[@REV]", help="A folder that `train rm` wrote, or a Hub id.")
@asking.judges_option()
@listening.address(8000)
@click.option("--token", is_flag=True, help="Clients have to send the token in SOTOPIA_RL_DATA_REWARD_TOKEN.")
@click.option("--queue", default=4_096, show_default=True, type=click.IntRange(1), help="Most completions that wait.")
@click.option(
    "--batch-size",
    "scored_together",
    type=click.IntRange(1),
    help="Completions scored, or asked about, together.  [default: 512; judges: 64]",
)
@click.option("--device", metavar="DEVICE", help="cpu, cuda …  [default: a GPU, if any]")
@click.option(
    "--schema",
    metavar="NAME",
    help="What judges are asked: utterance-quality, only-response, goal-progress, leave-one-out, "
    "conversation-behaviour, rubric:FILE.yaml, path/to/file.py:Name.  [default: utterance-quality]",
)
@asking.dimensions_and_scale
@click.option("--weights", metavar="D=W,…", help="The dimensions that are weighed, as in goal=2,knowledge=1.")
@asking.packing("per-dimension", "One call for each dimension of a completion; or one call for all of them.")
@asking.wording()
@click.option("--samples", default=1, show_default=True, help="How often each question is asked; the mean counts.")
@asking.models
@asking.sampling(0)
@asking.pace("Calls")
@asking.capped("what the judges' answers cost while it runs")
@asking.again
@asking.kept
@console.store_option
@console.json_option
def serve(
    reward_model: str | None,
    host: str,
    port: int,
    token: bool,
    queue: int,
    scored_together: int | None,
    device: str | None,
    store: Store,
    as_json: bool,
    **options: Any,
) -> None:
    """Serve a reward model, or judges, over HTTP, for trainers that ask for rewards.

    /score takes prompts and completions; /get_reward answers as OpenRLHF asks, /classify as vLLM does; /health and
    /metrics say how it is; /docs describes all. Requests that come together are scored together. When more completions
    wait than --queue allows, the answer is 429 with Retry-After. Ctrl-C ends it when the requests in flight are
    answered. Its URL is printed when it is ready.

    Judges are asked about a completion as the last utterance of the dialogue that its prompt shows. Their answers are
    kept in the ledger, so nothing is asked twice. Where an answer cannot be used the reward is null, never 0.

    \b
    Examples:
      sotopia-rl-data serve --reward-model runs/rm-episodes-rewards
      sotopia-rl-data serve --reward-model runs/rm-episodes-rewards --host 0.0.0.0 --token
      sotopia-rl-data serve --judge gpt-4o --budget 20
      sotopia-rl-data serve --judge openai:Qwen/Qwen2.5-72B@http://localhost:8000/v1 --port 8001 --schema goal-progress
      curl http://127.0.0.1:8000/score --json '{"items": [{"prompt": "Sell the boat.", "completion": "600?"}]}'
    """
    from sotopia_rl_data.asking.keys import is_loopback
    from sotopia_rl_data.code import check_installed

    if reward_model and asking.is_from_file("judges"):
        options["judges"] = ()
    elif options["judges"] and asking.is_from_file("reward_model"):
        reward_model = None
    if bool(reward_model) == bool(options["judges"]):
        if reward_model:
            raise UsageError("A server needs a reward model or a judge, and both are named.", "leave one of them out")
        raise UsageError(
            "A server needs a reward model or a judge.",
            "add --reward-model with a folder that `train rm` wrote, or a judge, as in --judge gpt-4o",
        )
    check_installed("A reward server", "fastapi", "uvicorn", "prometheus_client", extra="serve")
    secret = _secret() if token else None
    if secret is None and not is_loopback(host):
        console.warn(f"whoever reaches {host} can use this server: set a token, and add --token")
    import uvicorn

    from sotopia_rl_data.serve.app import reward_app

    with ExitStack() as opened:
        socket = opened.enter_context(listening.bound(host, port))  # before a model is loaded, which can take minutes
        source = model_rewards(reward_model, device) if reward_model else _judges(store, options)
        opened.callback(source.close)
        app = reward_app(source, token=secret, batch=scored_together, most_waiting=queue)
        config = uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=_GRACE_S)
        url = listening.url_of(host, socket)
        if as_json:
            console.emit_json({"url": url, "model": source.identity})
        else:
            click.echo(url)
        console.note(f"serving {source.identity}; Ctrl-C ends it")
        with suppress(KeyboardInterrupt):  # uvicorn raises it when it has ended
            uvicorn.Server(config).run(sockets=[socket])


def model_rewards(named: str, device: str | None = None) -> ModelRewards:
    """The reward model of this name, loaded. Raises UsageError, NotFound, InputError."""
    from sotopia_rl_data.code import check_installed
    from sotopia_rl_data.serve.sources import ModelRewards
    from sotopia_rl_data.trainers import RewardModel

    check_installed("A reward model", "torch", "transformers", extra="train")
    return ModelRewards(RewardModel.load(named, device=device))


def _judges(store: Store, options: dict[str, Any]) -> RewardSource:
    from sotopia_rl_data.asking.together import Spending
    from sotopia_rl_data.labelers.plan import RewardSettings
    from sotopia_rl_data.serve.judging import JudgeRewards

    weights = options.pop("weights")
    ask_options, elicitation = asking.ask_options(options), asking.elicitation_of(options)
    settings = RewardSettings(weights=parse_weights(weights) if weights else None)
    return JudgeRewards(elicitation, settings, Spending.at(store, ask_options))


def _secret() -> str:
    value = os.environ.get("SOTOPIA_RL_DATA_REWARD_TOKEN")
    if not value:
        raise KeyMissing(
            "--token is given, but SOTOPIA_RL_DATA_REWARD_TOKEN is not set.",
            "export SOTOPIA_RL_DATA_REWARD_TOKEN=A_LONG_RANDOM_WORD",
        )
    return value
