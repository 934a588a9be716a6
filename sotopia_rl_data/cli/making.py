"""Commands that make rewards and prompts from stored data, without calling a model: rewards, prompts learn."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import console
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.hub.resolve import resolve

if TYPE_CHECKING:
    from sotopia_rl_data.prompts import Template
    from sotopia_rl_data.rewards.build import Remade
    from sotopia_rl_data.store import Store


def template_option(command: console.F) -> console.F:
    """`--layout` and `--template`, shared by every command that renders prompts."""
    command = click.option(
        "--template",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Render prompts by this file (`prompts learn`).",
    )(command)
    return click.option(
        "--layout",
        type=click.Choice(["single", "chat"]),
        help="One user message a turn, or alternating messages.  [default: single, or the template's]",
    )(command)


def scenes_options(command: console.F) -> console.F:
    """`--scenarios`, `--profiles` and `--pairs`, as `rollouts.scenarios.scenes_of` takes them."""
    named = "samples (bundled), hard, all (SOTOPIA's: --profiles), or a CSV, JSON or YAML file."
    folder = "The folder of SOTOPIA's published profiles."
    most = "At most N pairs of people for each scenario.  [default: all]"
    command = click.option("--pairs", type=int, metavar="N", help=most)(command)
    path = click.Path(path_type=Path)
    command = click.option("--profiles", type=path, metavar="DIR", help=folder)(command)
    scenarios = click.option("--scenarios", default="samples", show_default=True, metavar="NAME|FILE", help=named)
    return scenarios(command)


def rules_options(command: console.F) -> console.F:
    """`--turns`, `--seed` and `--dialect`, as `rollouts.episode_run.Rules` takes them."""
    played = (
        "Which version of the sotopia library is played: how observations are written and what ends an episode. Scenes "
        "of three people or more need a later one."
    )
    choice = click.Choice(["legacy", "0.1.5", "head"])
    command = click.option("--dialect", type=choice, default="legacy", show_default=True, help=played)(command)
    drawn = "A different seed draws different answers."
    command = click.option("--seed", default=0, show_default=True, help=drawn)(command)
    return click.option("--turns", default=20, show_default=True, help="The turn limit.")(command)


def layout_of(layout: str | None, template: Path | None) -> tuple[Any, Template | None]:
    """The layout and template that the options name."""
    from sotopia_rl_data.prompts import load_template

    loaded = load_template(template) if template else None
    if layout is None:
        layout = loaded.layout if loaded else "single"
    return layout, loaded


@click.command()
@console.ref_argument("ref")
@click.option(
    "--preset",
    metavar="NAME|FILE",
    help="The recipe: sotopia-rl, goal-only, uniform, … or a YAML file.  [default: the dataset's own]",
)
@click.option(
    "--rule", metavar="RULE", help="direct, scaled, singular, uniform, uniform-share, discounted, quality-score …"
)
@click.option("--normaliser", metavar="NAME", help="minmax, zscore, rank or none.")
@click.option("--weights", metavar="D=W,…", help="As in goal=2,relationship=1.")
@click.option("--average", type=click.Choice(["mean", "median"]), help="How opinions are joined.")
@click.option("--evaluator", metavar="NAME", help="Whose episode scores, where several evaluators gave some.")
@click.option("--schema", metavar="NAME", help="Whose attributions, where several schemas were asked.")
@click.option("--judge", metavar="NAME", help="Whose opinions alone, where several judged.")
@click.option("--sample", type=int, help="Which of a judge's opinions alone, from 0.")
@click.option("--fit", type=click.Choice(["train", "all"]), help="The splits on which the normaliser is fitted.")
@click.option("--units", type=click.Choice(["0-1", "0-10"]), help="Of the reward; 0-10 are the reference's.")
@click.option("--gamma", type=float, help="The discount of the rule `discounted`, in (0, 1].")
@template_option
@console.dataset_option("--out", "The dataset to write.  [default: REF's own next version]")
@click.option("--version", metavar="vX.Y.Z", help="Override the version's number.")
@console.store_option
@console.json_option
def rewards(
    ref: str,
    preset: str | None,
    rule: str | None,
    normaliser: str | None,
    weights: str | None,
    average: str | None,
    evaluator: str | None,
    schema: str | None,
    judge: str | None,
    sample: int | None,
    fit: str | None,
    units: str | None,
    gamma: float | None,
    layout: str | None,
    template: Path | None,
    out: str | None,
    version: str | None,
    store: Store,
    as_json: bool,
) -> None:
    """Make the rewards of REF anew from stored attributions, by another rule, normaliser or weights. Calls no model.

    Where no utterance gets a reward the exit code is 3.

    \b
    Examples:
      sotopia-rl-data rewards demo/episodes-rewards --preset goal-only
      sotopia-rl-data rewards demo/episodes-rewards --normaliser zscore --weights goal=2,relationship=1,knowledge=1
      sotopia-rl-data rewards demo/episodes-rewards --layout chat
    """
    from sotopia_rl_data.rewards.build import remade_recipe, remake

    source = resolve(store, ref)
    options = {
        "rule": rule,
        "normaliser": normaliser,
        "weights": parse_weights(weights) if weights else None,
        "average": average,
        "evaluator": evaluator,
        "schema": schema,
        "judge": judge,
        "sample": sample,
        "fit": fit,
        "units": units,
        "gamma": gamma,
    }
    changes = {name: value for name, value in options.items() if value is not None}
    recipe = remade_recipe(source.manifest.recipe.get("rewards"), preset, changes)
    chosen, loaded = layout_of(layout, template)
    with console.progress("rewards", "utterance") as advance:
        remade = remake(
            store,
            source,
            recipe,
            layout=chosen,
            template=loaded,
            out=out,
            version=version,
            progress=lambda n: advance(n),
        )
    if as_json:
        console.emit_json(
            {
                "version": remade.version.ref,
                "digest": remade.version.digest,
                "created": remade.created,
                "directory": str(remade.version.dir),
                "recipe": remade.built.recipe.as_dict(),
                **remade.built.provenance(),
            }
        )
    else:
        _show_rewards(remade)
    if sum(remade.built.unrewarded.values()) == sum(remade.built.rows.values()):
        click.get_current_context().exit(console.WITH_FAILURES)


def _show_rewards(remade: Remade) -> None:
    version, built = remade.version, remade.built
    state = "made" if remade.created else "unchanged: the store has this content already"
    console.table(
        ["split", "utterances", "without reward"],
        [[split, n, built.unrewarded[split]] for split, n in built.rows.items()],
        title=f"{version.ref}  {version.digest[:12]}  {state}",
    )
    for warning in built.warnings:
        console.warn(warning)
    if sum(built.unrewarded.values()) == sum(built.rows.values()):
        weighed = ", ".join(built.recipe.weighted)
        console.warn(f"no utterance has a reward: none has all that a reward needs on {weighed}; see --weights, --rule")
    console.next_commands(f"sotopia-rl-data stats {version.name}")


def parse_weights(text: str) -> dict[str, float]:
    """ "goal=2,relationship=1" as a mapping. Raises UsageError."""
    try:
        return {name: float(weight) for name, weight in (part.split("=") for part in text.split(","))}
    except ValueError as error:
        raise UsageError(f"{text!r} is not a list of weights.", "write --weights goal=2,relationship=1") from error


@click.group()
def prompts() -> None:
    """What a policy sees at each turn; learn the exact wrapper from a served log."""


@prompts.command()
@click.argument("served_log", type=click.Path(path_type=Path))
@console.ref_argument("episodes")
@console.output_option("The template file to write.")
@console.store_option
@console.json_option
def learn(served_log: Path, episodes: str, output: Path, store: Store, as_json: bool) -> None:
    """Learn the text that a simulator wrapped around the observations, as a template file of yours.

    SERVED_LOG has one request a line, in the shape {"prompt": …} or an API body {"messages": […]}. EPISODES are those
    that were served: a dataset's reference, or ./FILE.

    \b
    Example:
      sotopia-rl-data prompts learn served.jsonl lab/run7 -o sotopia-0.1.4.yaml
      sotopia-rl-data rewards lab/run7-rewards --template sotopia-0.1.4.yaml
    """
    from sotopia_rl_data.prompts import learn as learned

    report = learned(served_log, _episodes(store, episodes), name=output.stem)
    report.template.save(output)
    if as_json:
        console.emit_json(report.as_dict() | {"file": str(output)})
    else:
        counts = ("requests", "exact", "reordered", "different", "no_log", "other")
        rows = [[name.replace("_", " "), getattr(report, name)] for name in counts]
        console.table(["requests", "count"], rows, title=str(output))
        console.next_commands(
            f"sotopia-rl-data label {shlex.quote(episodes)} --judge gpt-4o --template {shlex.quote(str(output))}"
        )
    if report.different:
        click.get_current_context().exit(console.WITH_FAILURES)


def _episodes(store: Store, text: str) -> Any:
    """The episodes of a dataset, or of a file or folder if `text` is a path."""
    from sotopia_rl_data.query import Dataset
    from sotopia_rl_data.refs import is_path

    if is_path(text) and not (Path(text) / "manifest.json").is_file():
        from sotopia_rl_data.importers import read
        from sotopia_rl_data.schema import Episode

        return (one for one in read([text]) if isinstance(one, Episode))
    return Dataset(resolve(store, text)).episodes()
