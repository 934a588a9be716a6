"""The command that plays: rollout. It lives here because a local policy and a reward model need what the core does not
import; the simulator and the run are the core's."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import console, shared_options
from sotopia_rl_data.cli.making import layout_of, template_option
from sotopia_rl_data.errors import UsageError

if TYPE_CHECKING:
    from sotopia_rl_data.rollouts.planning import Plan
    from sotopia_rl_data.rollouts.report import RolloutReport
    from sotopia_rl_data.store import Store

_LISTED = 10
_FORMS = (
    "gpt-4o, claude-…, openai:MODEL[@URL], anthropic:MODEL[@URL], transformers:PATH[+ADAPTER], scripted:warm, "
    "scripted:firm, path/to/file.py:Name."
)


@click.command()
@click.option("--a", default="scripted:warm", show_default=True, metavar="SPEC", help=_FORMS)
@click.option("--b", default="scripted:firm", show_default=True, metavar="SPEC", help="The partner.")
@click.option(
    "--scenarios",
    default="samples",
    show_default=True,
    metavar="NAME|FILE",
    help="samples (bundled), hard, all (SOTOPIA's: --profiles), or a CSV, JSON or YAML file.",
)
@click.option(
    "--profiles", type=click.Path(path_type=Path), metavar="DIR", help="The folder of SOTOPIA's published profiles."
)
@click.option("--pairs", type=int, metavar="N", help="At most N pairs of people for each scenario.  [default: all]")
@click.option("--swap", is_flag=True, help="Play each scene again with the policies in each other's place.")
@click.option("--repeat", default=1, show_default=True, metavar="N", help="Play each that often.")
@click.option("--turns", default=20, show_default=True, help="The turn limit.")
@click.option("--seed", default=0, show_default=True, help="Another seed draws other answers.")
@click.option(
    "--dialect",
    type=click.Choice(["legacy", "0.1.5", "head"]),
    default="legacy",
    show_default=True,
    help="Which version of the sotopia library is played: how observations are written and what ends an episode.",
)
@template_option
@shared_options.sampling(0.7)
@click.option(
    "--best-of", default=1, metavar="N", help="Draft N answers of --a a turn and keep the best. With --reward-model."
)
@click.option("--reward-model", metavar="DIR|ID[@REV]", help="Scores the drafts (needs the train extra).")
@click.option("--out", required=True, metavar="ORG/NAME", help="The dataset to write.")
@click.option("--version", metavar="vX.Y.Z", help="Override the version's number.")
@shared_options.pace("Episodes")
@shared_options.costs("these episodes")
@shared_options.kept
@console.store_option
@console.json_option
def rollout(
    out: str,
    version: str | None,
    concurrency: int | None,
    budget: float | None,
    prices: Path | None,
    ledger: Path | None,
    dry_run: bool,
    store: Store,
    as_json: bool,
    **planned: Any,
) -> None:
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
    from sotopia_rl_data.refs import check_name
    from sotopia_rl_data.rollouts.run import rollout as run

    check_name(out)
    pacing = shared_options.pacing_from(planned)
    plan = _plan(keys_needed=not dry_run, **planned)
    if dry_run:
        _dry_run(plan, prices, ledger or store.root / ".ledger", as_json)
        return
    options: dict[str, Any] = {"version": version, "concurrency": concurrency, "budget": budget, "prices": prices}
    options |= {"pacing": pacing}
    with console.progress("playing", "episode") as advance:
        report = run(store, plan, out, ledger=ledger, progress=advance, **options)
    if as_json:
        console.emit_json(report.as_dict())
    else:
        _played(report)
    if report.failures:
        click.get_current_context().exit(console.WITH_FAILURES)


def _plan(
    scenarios: str,
    profiles: Path | None,
    pairs: int | None,
    layout: str | None,
    template: Path | None,
    temperature: float | None,
    max_tokens: int | None,
    best_of: int,
    reward_model: str | None,
    keys_needed: bool,
    **played: Any,
) -> Plan:
    """What the options say is to be played, by whom and how."""
    from sotopia_rl_data.applications.local_policies import local_player
    from sotopia_rl_data.asking.transport import without_api_keys
    from sotopia_rl_data.rollouts.run import plan_of
    from sotopia_rl_data.rollouts.scenarios import scenes_of

    chosen, loaded = layout_of(layout, template)
    with nullcontext() if keys_needed else without_api_keys():
        return plan_of(
            scenes_of(scenarios, profiles, pairs),
            layout=chosen,
            template=loaded,
            sampling=shared_options.sampling_of(temperature, max_tokens),
            best_of=best_of,
            scorer=_scorer(best_of, reward_model),
            local=local_player,
            **played,
        )


def _scorer(best_of: int, reward_model: str | None) -> Any:
    if reward_model is None and best_of == 1:
        return None
    if reward_model is None or best_of < 2:
        raise UsageError("Best-of-N is N drafts and who scores them.", "give both: --best-of 8 --reward-model DIR")
    from sotopia_rl_data.applications.local_policies import RewardScorer

    return RewardScorer(reward_model)


def _dry_run(plan: Plan, prices: Path | None, ledger: Path, as_json: bool) -> None:
    from sotopia_rl_data.costs.prices import load
    from sotopia_rl_data.ledger.ledger import Ledger
    from sotopia_rl_data.rollouts.estimate import estimate

    price_list = load(prices)
    if ledger.is_dir():
        with Ledger(ledger) as kept:
            told = estimate(plan, price_list, kept)
    else:
        told = estimate(plan, price_list)
    if as_json:
        console.emit_json(told.as_dict())
        return
    rows = [[name, one.calls, one.input, one.output, one.usd] for name, one in told.shares.items()]
    console.table(
        ["policy", "calls", "input tokens", "output tokens", "USD"],
        rows,
        title=f"{told.episodes:,} episodes, about; {told.most_calls:,} calls if each goes to the turn limit",
    )
    if told.known_calls:
        console.note(f"the ledger has {told.known_calls:,} calls of it already: they cost nothing and are not counted")


def _played(report: RolloutReport) -> None:
    state = "made" if report.created else "unchanged: the store has this content already"
    names = ("episodes", "utterances", "abandoned", "failed_turns", "asked", "hits", "repeated", "unreachable")
    rows = [
        [name.replace("_", " "), getattr(report, name)] for name in names if getattr(report, name) or name in names[:2]
    ]
    rows += [[f"ended: {reason}", count] for reason, count in report.ended.items()]
    for line in (line for line in report.bill.lines if line.usage.input):
        rows.append([f"tokens of {line.judge}", f"{line.usage.input:,} in, {line.usage.output:,} out"])
        rows.append([f"USD of {line.judge}", line.total])
    console.table(["rollout", "count"], rows, title=f"{report.version}  {report.digest[:12]}  {state}")
    for reason, count in list(report.failures.items())[:_LISTED]:
        console.warn(f"{count:,} × {reason}")
    if report.abandoned:
        console.note("hint: run the same command again: only what was not answered is asked")
    name = report.version.partition("@")[0]
    console.next_commands(
        f"sotopia-rl-data show {name}",
        f"sotopia-rl-data evaluate {name} --judge gpt-4o",
        f"sotopia-rl-data export {report.version} --to sotopia -o ./{name.rpartition('/')[2]}",
    )
