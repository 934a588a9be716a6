"""rollout: the command that plays episodes."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import asking, console
from sotopia_rl_data.cli.making import layout_of, rules_options, scenes_options, template_option
from sotopia_rl_data.errors import UsageError

if TYPE_CHECKING:
    from sotopia_rl_data.rollouts.plan import RolloutPlan
    from sotopia_rl_data.rollouts.rollout import RolloutReport
    from sotopia_rl_data.store import Store

_FORMS = (
    "gpt-4o, claude-…, openai:MODEL[@URL], anthropic:MODEL[@URL], transformers:PATH[+ADAPTER], scripted:warm, "
    "scripted:firm, path/to/file.py:Name."
)


@click.command()
@click.option("--a", default="scripted:warm", show_default=True, metavar="SPEC", help=_FORMS)
@click.option("--b", default="scripted:firm", show_default=True, metavar="SPEC", help="The partner.")
@scenes_options
@click.option("--swap", is_flag=True, help="Play each scene again with the policies in each other's place.")
@click.option("--repeat", default=1, show_default=True, metavar="N", help="Play each scene N times.")
@rules_options
@template_option
@asking.models
@asking.sampling(0.7)
@click.option(
    "--constrain",
    is_flag=True,
    help="Send the schema of an action to models behind an API, for policies that were not trained on its form.",
)
@click.option(
    "--best-of", default=1, metavar="N", help="Draft N answers of --a a turn and keep the best. With --reward-model."
)
@click.option("--reward-model", metavar="DIR|ID[@REV]", help="Scores the drafts (needs the train extra).")
@console.dataset_option("--out", "The dataset to write.", required=True)
@click.option("--version", metavar="vX.Y.Z", help="Override the version's number.")
@asking.pace("Episodes")
@asking.costs("these episodes")
@asking.sharded
@asking.workers
@asking.kept
@console.store_option
@console.json_option
def rollout(out: str, version: str | None, dry_run: bool, store: Store, as_json: bool, **options: Any) -> None:
    """Self-play: two policies talk in SOTOPIA's environment, hundreds of episodes at once, as a version of episodes.

    Every answer is kept before it is read: run the same command again after a crash or a Ctrl-C, and nothing is asked
    twice. The version has the episodes, and each prompt and completion as it was served (config `rewards`, whose
    reward is empty until something labels it). An episode in which a policy could not be asked, and a turn whose
    answers could not be read, are rows of `failures`, and the exit code is 3.

    \b
    Examples:
      sotopia-rl-data rollout --out demo/selfplay
      sotopia-rl-data rollout --a gpt-4o --b gpt-4o --scenarios ./mine.yaml --out lab/gpt4o-selfplay
      sotopia-rl-data rollout --a openai:policy@http://localhost:8000/v1 --b gpt-4o --scenarios hard \\
          --profiles ./sotopia --swap --out lab/policy-hard
      sotopia-rl-data rollout --a transformers:./base+./runs/sft --best-of 8 --reward-model ./runs/rm --out lab/best8
    """
    from sotopia_rl_data.ledger.ledger import Ledger
    from sotopia_rl_data.refs import check_name
    from sotopia_rl_data.rollouts.estimate import estimate_rollout
    from sotopia_rl_data.rollouts.rollout import ask_rollout
    from sotopia_rl_data.rollouts.rollout import rollout as run
    from sotopia_rl_data.shards import WHOLE

    check_name(out)
    shard = asking.shard_to_ask(options, dry_run)
    ask_options = asking.ask_options(options)
    plan = _plan(options, keys_needed=not dry_run)
    if dry_run:
        prices = ask_options.price_list()
        with Ledger(ask_options.ledger_in(store)) as ledger:
            asking.dry_run(
                ask_options, "episode", lambda ask: estimate_rollout(plan, ledger, ask, prices, shard or WHOLE), as_json
            )
        return
    if shard is not None:
        asking.ask_only("playing", "episode", ask_options, as_json, partial(ask_rollout, store, plan, shard=shard))
        return
    with asking.progress("playing", "episode", ask_options, as_json) as watched:
        report = run(store, plan, out, version=version, options=watched)
    asking.show(report, _show_report, as_json)


def _plan(options: dict[str, Any], keys_needed: bool) -> RolloutPlan:
    """The plan that the options describe: the scenes, the policies and the rules."""
    from sotopia_rl_data.applications.local_policies import local_player
    from sotopia_rl_data.asking.keys import without_api_keys
    from sotopia_rl_data.rollouts.episode_run import Rules
    from sotopia_rl_data.rollouts.rollout import plan_of
    from sotopia_rl_data.rollouts.scenarios import scenes_of

    layout, template = layout_of(options["layout"], options["template"])
    rules = Rules(
        dialect=options["dialect"],
        turns=options["turns"],
        layout=layout,
        template=template,
        seed=options["seed"],
        best_of=options["best_of"],
        constrain=options["constrain"],
        scorer=_scorer(options["best_of"], options["reward_model"]),
    )
    with nullcontext() if keys_needed else without_api_keys():
        return plan_of(
            scenes_of(options["scenarios"], options["profiles"], options["pairs"]),
            rules,
            a=asking.model_of(options["a"], options),
            b=asking.model_of(options["b"], options),
            swap=options["swap"],
            repeat=options["repeat"],
            sampling=asking.sampling_of(options),
            local=local_player,
        )


def _scorer(best_of: int, reward_model: str | None) -> Any:
    if reward_model is None and best_of == 1:
        return None
    if reward_model is None or best_of < 2:
        raise UsageError(
            "Best-of-N needs at least 2 drafts and a reward model, and only one of these is given.",
            "give both, as in --best-of 8 --reward-model ./runs/rm",
        )
    from sotopia_rl_data.applications.local_policies import RewardScorer

    return RewardScorer(reward_model)


def _show_report(report: RolloutReport) -> None:
    counts = [("episodes", report.episodes), ("utterances", report.utterances)]
    if report.abandoned:
        counts.append(("abandoned", report.abandoned))
    if report.failed_turns:
        counts.append(("failed turns", report.failed_turns))
    counts += [(f"ended: {reason}", count) for reason, count in report.ended.items()]
    name = report.version.partition("@")[0]
    asking.show_run(
        "rollout",
        "usable answer",
        report,
        counts,
        f"sotopia-rl-data show {name}",
        f"sotopia-rl-data evaluate {name} --judge gpt-4o",
        f"sotopia-rl-data export {report.version} --to sotopia -o ./{name.rpartition('/')[2]}",
    )
    if report.abandoned:
        console.note("hint: run the same command again: it asks only for the missing answers")
