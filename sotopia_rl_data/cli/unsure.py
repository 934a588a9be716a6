"""`label --where-unsure`: its options, running it, and what is shown of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import asking, console
from sotopia_rl_data.errors import UsageError

if TYPE_CHECKING:
    from sotopia_rl_data.asking.plan import AskOptions
    from sotopia_rl_data.credit.where_unsure import GroupMean, UnsureReport, UnsureSettings
    from sotopia_rl_data.labelers.plan import Elicitation, RewardSettings
    from sotopia_rl_data.store import Store

_OPTIONS = ("where_unsure", "reward_models", "rows", "seed")
_UNREAD = ("only", "shard", "ask_only", "workers", "worker_gpus", "version")
_SHOWN = 20  # environments


def unsure_options(command: console.F) -> console.F:
    """`--where-unsure`, `--reward-model`, `--rows` and `--seed`."""
    command = click.option("--seed", type=int, help="With --where-unsure: another one draws others.  [default: 0]")(
        command
    )
    command = click.option(
        "--rows",
        type=float,
        metavar="N",
        help="With --where-unsure: ask about N utterances on average.  [default: what --budget allows]",
    )(command)
    command = click.option(
        "--reward-model",
        "reward_models",
        multiple=True,
        metavar="RUN",
        help="With --where-unsure: a folder of `train rm`; once for each fold of the environments.",
    )(command)
    return click.option(
        "--where-unsure", is_flag=True, help="Ask where reward models are unsure, and take their word elsewhere."
    )(command)


def take(options: dict[str, Any]) -> UnsureSettings | None:
    """The options above, out of `options`; None without `--where-unsure`. Raises UsageError where they do not go
    together, or others do not apply."""
    given = {name: options.pop(name) for name in _OPTIONS}
    if not given["where_unsure"]:
        others = {"reward_models": "--reward-model", "rows": "--rows", "seed": "--seed"}
        for name, flag in others.items():
            if given[name] not in (None, ()):
                raise UsageError(
                    f"{flag} applies only with --where-unsure.", f"add --where-unsure, or leave {flag} out"
                )
        return None
    for name in _UNREAD:
        if options[name]:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} does not apply with --where-unsure.", f"leave {flag} out")
    if not given["reward_models"]:
        raise UsageError(
            "No reward model is named that could be unsure.",
            "train one on labelled dialogues, with `sotopia-rl-data train rm`, and name its folder with --reward-model",
        )
    from sotopia_rl_data.credit.where_unsure import UnsureSettings

    for name in _UNREAD:
        options.pop(name)
    return UnsureSettings(reward_models=given["reward_models"], rows=given["rows"], seed=given["seed"] or 0)


def label_where_unsure(
    store: Store,
    episodes: str | None,
    settings: UnsureSettings,
    asked: Elicitation,
    rewards: RewardSettings,
    options: dict[str, Any],
    ask_options: AskOptions,
    as_json: bool,
) -> None:
    """Run it with the options of `label` that are left."""
    from sotopia_rl_data.credit import where_unsure as unsure
    from sotopia_rl_data.trainers import api

    api.check_libraries()
    api.quiet_libraries(console.has_bars())
    if options["dry_run"]:
        run = partial(unsure.estimate_where_unsure, store, episodes, settings, asked, rewards)
        asking.dry_run(ask_options, "call", run, as_json)
        return
    with asking.progress("labelling", "call", ask_options, as_json) as watched:
        report = unsure.label_where_unsure(
            store,
            episodes,
            settings,
            asked,
            rewards,
            out=options["out"],
            options=watched,
            announce=asking.announce,
        )
    asking.show(report, _show, as_json)


def _show(report: UnsureReport) -> None:
    from sotopia_rl_data.credit.units import PLURALS

    name = report.version.partition("@")[0]
    counts: list[tuple[str, Any]] = [("utterances", report.rows), ("asked about", report.rows_asked)]
    if report.unit != "utterance":
        counts += [(PLURALS[report.unit], report.units), ("of these drawn", report.units_asked)]
    shown = [one for one in report.means if one.by != "environment"]
    environments = [one for one in report.means if one.by == "environment" and one.mean is not None]
    shown += sorted(environments, key=lambda one: -one.asked)[:_SHOWN]
    columns = ["by", "group", "rows", "judged", "mean reward", "from", "to", "gain"]
    title = "Mean rewards in this version's units, corrected by 1 / chance (95 %, over environments or one's episodes)"
    console.table(columns, [_cells(one) for one in shown], title=title)
    left = len(report.means) - len(shown)
    if left:
        console.note(f"{left:,} other environments, many of them with too few answers, are in --json.")
    asking.show_run(
        "labelled where unsure",
        "label",
        report,
        counts,
        f'sotopia-rl-data query {name} "SELECT labelled_by, count(*), avg(reward) FROM rewards GROUP BY 1"',
        f"sotopia-rl-data train rm --dataset {name} --where \"labelled_by = 'judge'\" --preset tiny   # a first try",
    )


def _cells(one: GroupMean) -> list[Any]:
    figures = (one.mean, one.low, one.high)
    rounded = [None if each is None else round(each, 3) for each in figures]
    return [one.by, one.group, one.n, one.asked, *rounded, None if one.gain is None else round(one.gain, 2)]
