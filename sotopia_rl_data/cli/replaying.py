"""`label --schema counterfactual` and `--schema shapley`: their options, running them, and what is shown of it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import asking, console
from sotopia_rl_data.errors import UsageError

if TYPE_CHECKING:
    from sotopia_rl_data.credit.branching import ReplaySettings
    from sotopia_rl_data.credit.coalitions import ShapleySettings
    from sotopia_rl_data.credit.crediting import ReplayReport
    from sotopia_rl_data.store import Store

COUNTERFACTUAL, SHAPLEY = "counterfactual", "shapley"
MEANINGS = {
    COUNTERFACTUAL: "each turn is drawn anew by --policy and played to the end; a judge scores the ends",
    SHAPLEY: "--policy plays without some of an agent's turns; a judge scores the ends",
}
"""What `--schema` also takes, though no judge is asked about turns."""
_OPTIONS = {COUNTERFACTUAL: ("policy", "partner", "alternatives", "rollouts", "turns"), SHAPLEY: ("policy", "turns")}
_NUMBERS = ("alternatives", "rollouts", "turns", "samples")
_READ = (
    *("episodes", "schema", "judges", "dimensions", "wording", "only", "out", "store", "as_json"),
    *asking.OF_CALLS,
)


def replay_options(command: console.F) -> console.F:
    """`--policy`, `--partner`, `--alternatives`, `--rollouts` and `--turns`."""
    one = click.IntRange(1)
    command = click.option(
        "--turns", type=one, help="Turns of a re-played dialogue at most.  [default: 20; shapley: as many as it had]"
    )(command)
    command = click.option("--rollouts", type=one, help="How often each is played to the end.  [default: 4]")(command)
    command = click.option(
        "--alternatives", type=click.IntRange(2), help="Utterances drawn at each turn.  [default: 4]"
    )(command)
    command = click.option("--partner", metavar="SPEC", help="Plays the others.  [default: the policy]")(command)
    return click.option(
        "--policy", metavar="SPEC", help="For counterfactual and shapley: what re-plays turns, as `rollout --a`."
    )(command)


def take(options: dict[str, Any]) -> dict[str, Any] | None:
    """The options above, out of `options`; None where another schema is asked. Raises UsageError where they do not go
    together."""
    given = {name: options.pop(name) for name in _OPTIONS[COUNTERFACTUAL]}
    schema = options["schema"]
    if schema not in _OPTIONS:
        named = [name for name, value in given.items() if value is not None]
        if named:
            raise UsageError(
                f"--{named[0]} re-plays turns, and the schema {schema!r} does not.",
                f"add --schema {COUNTERFACTUAL}, or leave --{named[0]} out",
            )
        return None
    if given["policy"] is None:
        raise UsageError(
            "No policy is named to re-play turns with.", "add --policy with the model that spoke, as in --policy gpt-4o"
        )
    if schema == SHAPLEY and asking.is_given("samples"):
        given["samples"] = options["samples"]
    return given


def label_by_replaying(
    store: Store, episodes: str | None, given: dict[str, Any], options: dict[str, Any], as_json: bool
) -> None:
    """Run it with the options of `label`. Raises UsageError for those that do not apply."""
    from sotopia_rl_data.asking.keys import without_api_keys
    from sotopia_rl_data.credit import crediting
    from sotopia_rl_data.credit.replay_estimate import estimate_replaying
    from sotopia_rl_data.labelers.plan import Elicitation
    from sotopia_rl_data.labelers.selection import read_selection

    schema = options["schema"]
    read = (*_READ, *_OPTIONS[schema], *(("samples",) if schema == SHAPLEY else ()))
    asking.check_unread(asking.all_but(read), f"does not apply to the schema {schema!r}")
    longest = options["max_tokens"]
    with without_api_keys() if options["dry_run"] else nullcontext():
        settings = _settings(given, options)
    ask_options = asking.ask_options(options)
    only: Path | None = options["only"]
    selection = None if only is None else read_selection(only)
    judged = Elicitation(
        judges=[asking.model_of(spec, options) for spec in options["judges"]],
        dimensions=asking.listed(options["dimensions"]),
        sampling=None if longest is None else {"max_tokens": longest},  # the temperature is the policies' alone
        wording=options["wording"],
    )
    if options["dry_run"]:
        asking.dry_run(
            ask_options,
            "call",
            lambda each: estimate_replaying(store, episodes, settings, judged, only=selection, options=each),
            as_json,
        )
        return
    with asking.progress("re-playing", "episode", ask_options, as_json) as watched:
        report = crediting.label_by_replaying(
            store, episodes, settings, judged, only=selection, out=options["out"], options=watched
        )
    asking.show(report, _show, as_json)


def _settings(given: dict[str, Any], options: dict[str, Any]) -> ReplaySettings | ShapleySettings:
    from sotopia_rl_data.applications.local_policies import local_player
    from sotopia_rl_data.credit.branching import ReplaySettings
    from sotopia_rl_data.credit.coalitions import ShapleySettings
    from sotopia_rl_data.rollouts.episode_run import Rules
    from sotopia_rl_data.rollouts.policies import player

    sampling = asking.sampling_of(options)
    policy = player(asking.model_of(given["policy"], options), sampling, local=local_player)
    numbers = {name: given[name] for name in _NUMBERS if given.get(name) is not None}
    if options["schema"] == SHAPLEY:
        return ShapleySettings(policy=policy, **numbers)
    other = given["partner"]
    same = other in (None, given["policy"])
    partner = policy if same else player(asking.model_of(other, options), sampling, local=local_player)
    rules = Rules(turns=numbers.pop("turns")) if "turns" in numbers else Rules()
    return ReplaySettings(policy=policy, partner=partner, rules=rules, **numbers)


def _show(report: ReplayReport) -> None:
    counts = [(name, getattr(report, name)) for name in ("turns", "plays", "replays")]
    if report.left_out:
        counts.insert(1, ("left out (after the dialogue's end)", report.left_out))
    name = report.version.partition("@")[0]
    shown = sorted(report.estimates, key=lambda one: abs(one.estimate.credit), reverse=True)[:20]
    rows = [
        [one.episode_id, one.turn, one.agent, one.dimension, round(one.estimate.credit, 2), round(one.estimate.low, 2),
         round(one.estimate.high, 2)]
        for one in shown
    ]  # fmt: skip
    console.table(["episode", "turn", "agent", "dimension", "credit", "from", "to"], rows, "the largest, in points")
    asking.show_run("re-played", "play", report, counts, f"sotopia-rl-data show {name}")  # ends with what to do next
