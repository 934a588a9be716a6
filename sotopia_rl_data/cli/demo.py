"""The command that lets people talk to a policy: demo."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import asking, console, listening
from sotopia_rl_data.cli.making import layout_of, parse_weights, rules_options, scenes_options, template_option
from sotopia_rl_data.cli.serve import model_rewards
from sotopia_rl_data.errors import UsageError

if TYPE_CHECKING:
    from sotopia_rl_data.asking.together import Spending
    from sotopia_rl_data.demo.host import DemoChoices, DemoHost, TurnSource
    from sotopia_rl_data.labelers.judge import Judge
    from sotopia_rl_data.rollouts.policies import Player
    from sotopia_rl_data.serve.judging import JudgeRewards
    from sotopia_rl_data.store import Store

_POLICIES = (
    "Whom people may talk to: gpt-4o, claude-…, openai:MODEL[@URL], anthropic:MODEL[@URL], "
    "transformers:PATH[+ADAPTER], scripted:warm, scripted:firm, path/to/file.py:Name. Repeat for several.  "
    "[default: scripted:firm, scripted:warm]"
)
_HERE = ("--space", "--host", "--port", "--store", "--ledger", "--json")
_PATIENCE_S = 60.0  # the longest that a person waits for one answer
_GRACE_S = 2  # seconds for the answers in flight after Ctrl-C


@click.command()
@scenes_options
@click.option("--policy", "policies", multiple=True, metavar="SPEC", help=_POLICIES)
@asking.judges_option()
@click.option(
    "--reward-model", "models", multiple=True, metavar="DIR|ID[@REV]", help="Rewards too. Repeat for several."
)
@rules_options
@template_option
@click.option(
    "--schema",
    metavar="NAME",
    help="What judges are asked about an utterance, as in `serve`.  [default: utterance-quality]",
)
@asking.dimensions_and_scale
@click.option("--weights", metavar="D=W,…", help="The dimensions that are weighed, as in goal=2,knowledge=1.")
@asking.wording()
@asking.models
@asking.sampling(0.7)
@asking.pace("Calls", patience="60")
@asking.capped("what all talks cost while it runs")
@asking.kept
@console.dataset_option("--out", "The dataset that talks are saved in.  [default: demo/talks]")
@listening.address(7860)
@click.option(
    "--space",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write a folder that runs as a Hugging Face Space with these options, and end.",
)
@console.store_option
@console.json_option
def demo(host: str, port: int, space: Path | None, store: Store, as_json: bool, **options: Any) -> None:
    """A page where people talk to a policy, and see each utterance's reward arrive.

    A person chooses a scenario, who to be, whom to talk to and who rewards, sees what best-of-4 would have said, ends
    with SOTOPIA-EVAL, and may save the dialogue as the next version of a dataset. Several people may talk at once.
    Without options it needs no key and no download: written lines answer, and a judge that counts words rewards them.

    --temperature and --max-tokens are for the policies. Every answer of a model is kept in the ledger, and --budget
    caps all talks together. The page is seen on this machine alone, unless --host says otherwise. Ctrl-C ends it.

    \b
    Examples:
      sotopia-rl-data demo
      sotopia-rl-data demo --policy gpt-4o --judge gpt-4o --budget 5
      sotopia-rl-data demo --policy transformers:./base+./runs/grpo --reward-model ./runs/rm --scenarios ./mine.yaml
      sotopia-rl-data demo --scenarios hard --profiles ./sotopia --policy claude-sonnet-4-5 --host 0.0.0.0
      sotopia-rl-data demo --policy gpt-4o --judge gpt-4o --budget 5 --space ./space
    """
    from sotopia_rl_data.asking.keys import is_loopback
    from sotopia_rl_data.code import check_installed

    check_installed("The demo", "gradio", extra="demo")
    if space is not None:
        _check_named(options)
        _write_space(space, as_json)
        return
    if not is_loopback(host):
        console.warn(f"whoever reaches {host} can talk to these models at your cost, and save dialogues: see --budget")
    import uvicorn

    with listening.bound(host, port) as socket:  # before a model is loaded, which can take minutes
        talks = _host(store, options)
        try:
            from sotopia_rl_data.demo.page import demo_app

            logging.getLogger("uvicorn.error").addFilter(_is_failure)
            config = uvicorn.Config(demo_app(talks), log_level="warning", timeout_graceful_shutdown=_GRACE_S)
            url = listening.url_of(host, socket)
            if as_json:
                console.emit_json({"url": url, "out": options["out"]})
            else:
                click.echo(url)
            console.note("open it in a browser; Ctrl-C ends it")
            with suppress(KeyboardInterrupt):  # uvicorn raises it when it has ended
                uvicorn.Server(config).run(sockets=[socket])
        finally:
            talks.close()


def _is_failure(record: logging.LogRecord) -> bool:
    """Whether a record of the server tells of an exception, and not of the streams of open pages, which end with it."""
    return record.exc_info is not None and not isinstance(record.exc_info[1], asyncio.CancelledError)


def _write_space(folder: Path, as_json: bool) -> None:
    from sotopia_rl_data.demo.space import write_space

    words = click.get_current_context().meta[console.WORDS]
    written = write_space(folder, _of_the_demo(words[words.index("demo") + 1 :]))
    if as_json:
        console.emit_json({"files": [str(path) for path in written]})
    else:
        click.echo(folder)
    # this interpreter, by its whole path: the command starts in another folder, where no `python` need be on PATH
    python = shlex.quote(os.path.abspath(sys.executable))
    console.note(f"try it: cd {shlex.quote(str(folder))} && DEMO_HOST=127.0.0.1 {python} app.py")


def _check_named(options: dict[str, Any]) -> None:
    """Raises what a Space with these scenarios, policies and judges would end with; local models are loaded there."""
    from sotopia_rl_data.asking.keys import without_api_keys
    from sotopia_rl_data.labelers.plan import judges_of
    from sotopia_rl_data.rollouts.policies import player
    from sotopia_rl_data.rollouts.scenarios import scenes_of

    with without_api_keys():
        for spec in (one for one in options["policies"] if not one.startswith("transformers:")):
            player(asking.model_of(spec, options))
        judges = [asking.model_of(one, options) for one in options["judges"] if not one.startswith("transformers:")]
        if judges:
            judges_of(judges, None)
    scenes_of(options["scenarios"], options["profiles"], options["pairs"])


def _of_the_demo(words: Sequence[str]) -> list[str]:
    """The words of the command but those about this machine, and where the Space is written."""
    kept, skips = list[str](), False
    for word in words:
        option, equals, _ = word.partition("=")
        if skips or option in _HERE:
            skips = not skips and not equals and option != "--json"
        else:
            kept.append(word)
    return kept


def _host(store: Store, options: dict[str, Any]) -> DemoHost:
    """Everything that talks share. Raises UsageError, InputError, NotFound, KeyMissing, StoreError."""
    from sotopia_rl_data.asking.together import Spending
    from sotopia_rl_data.demo.host import DemoHost
    from sotopia_rl_data.refs import check_name

    options["out"] = check_name(options["out"] or "demo/talks")
    patience = options["timeout"] or _PATIENCE_S
    ask = asking.ask_options(options)
    pacing = replace(
        ask.pacing,
        tries=2,
        throttles=4,
        timeout_s=patience,
        longest_wait_s=patience,
        wall_s=patience,
        silence_s=patience + 5,
    )
    ask = replace(ask, pacing=pacing)
    spending = Spending.at(store, ask)
    return DemoHost(store, _choices(options, spending), spending)


def _choices(options: dict[str, Any], spending: Spending) -> DemoChoices:
    """What people may choose from. Where nobody is named who rewards, the judge that counts words does."""
    from sotopia_rl_data.demo.host import DemoChoices, ModelTurns
    from sotopia_rl_data.labelers.plan import judges_of
    from sotopia_rl_data.rollouts.episode_run import Rules
    from sotopia_rl_data.rollouts.scenarios import scenes_of

    layout, template = layout_of(options["layout"], options["template"])
    judges = ("lexical",) if not (options["judges"] or options["models"]) else options["judges"]
    named = judges_of([asking.model_of(spec, options) for spec in judges], None) if judges else ()
    sources: dict[str, TurnSource] = {judge.id: _judge_rewards(judge, options, spending) for judge in named}
    for name, model in _by_name(options["models"], sources).items():
        sources[name] = ModelTurns(model_rewards(model), layout)
    return DemoChoices(
        scenes=scenes_of(options["scenarios"], options["profiles"], options["pairs"]),
        policies=_policies(options),
        sources=sources,
        judges={judge.id: judge for judge in named},
        rules=Rules(options["dialect"], options["turns"], layout, template, options["seed"]),
        out=options["out"],
    )


def _by_name(models: Sequence[str], taken: Collection[str]) -> dict[str, str]:
    """Reward models by the names that people see: the last part of a path or id. Raises UsageError."""
    found: dict[str, str] = {}
    for one in models:
        name = Path(one).name or one
        if name in found or name in taken:
            raise UsageError(
                f"Two of those who reward are called {name!r}.", "name each once, or give a folder another name"
            )
        found[name] = one
    return found


def _policies(options: dict[str, Any]) -> dict[str, Player]:
    from sotopia_rl_data.applications.local_policies import local_player
    from sotopia_rl_data.asking.local import BatchedModel
    from sotopia_rl_data.demo.host import KeptPlayer
    from sotopia_rl_data.rollouts.policies import is_model, player

    sampling = asking.sampling_of(options)
    specs = [asking.model_of(spec, options) for spec in options["policies"] or ("scripted:firm", "scripted:warm")]
    players = [player(spec, sampling, seed=options["seed"], local=local_player) for spec in specs]
    if sampling and not any(map(is_model, players)):
        given = ", ".join(sampling)
        raise UsageError(f"None of the policies is a model that {given} could apply to.", f"leave {given} out")
    found: dict[str, Player] = {}
    for one in players:
        if one.id in found:
            raise UsageError(f"Two policies are called {one.id!r}.", "name each policy once")
        found[one.id] = KeptPlayer(one) if isinstance(one, BatchedModel) else one
    return found


def _judge_rewards(judge: Judge, options: dict[str, Any], spending: Spending) -> JudgeRewards:
    from sotopia_rl_data.labelers.plan import Elicitation, RewardSettings
    from sotopia_rl_data.serve.judging import JudgeRewards

    asked = Elicitation(
        judges=[judge],
        schema=options["schema"],
        dimensions=asking.listed(options["dimensions"]),
        scale=options["scale"],
        wording=options["wording"],
    )
    weights = parse_weights(options["weights"]) if options["weights"] else None
    return JudgeRewards(asked, RewardSettings(weights=weights), spending)
