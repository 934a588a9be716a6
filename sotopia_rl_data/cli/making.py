"""Commands that make data without asking anybody: import, rewards, prompts learn."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import console
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.hub.resolve import resolve
from sotopia_rl_data.refs import DatasetRef

if TYPE_CHECKING:
    from sotopia_rl_data.importers.run import ImportReport
    from sotopia_rl_data.prompts import Template
    from sotopia_rl_data.rewards import Recipe
    from sotopia_rl_data.rewards.remake import Remade
    from sotopia_rl_data.store import Store, Version

_LISTED = 20


@click.command("import")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--name", required=True, metavar="ORG/NAME", help="The dataset to make, or to add a version to.")
@click.option("--where", metavar="SQL", help="Keep the episodes for which this DuckDB condition holds.")
@click.option("--strict", is_flag=True, help="Make the first record that cannot be read an error.")
@click.option("--seed", default=0, show_default=True, help="Of the split by environment.")
@click.option("--version", metavar="vX.Y.Z", help="Override the version's number.")
@console.store_option
@console.json_option
def import_(
    paths: tuple[Path, ...],
    name: str,
    where: str | None,
    strict: bool,
    seed: int,
    version: str | None,
    store: Store,
    as_json: bool,
) -> None:
    """Episodes from files or folders, as a versioned dataset. Without PATHS: the bundled samples.

    Reads EpisodeLog JSON (a file, a folder of the local backend, a Redis export), the sotopia library's JSONL and CSV
    exports, annotated JSONL, plain JSONL, and training rows. Which one a file is, and which version of the library
    wrote it, is detected. A record that cannot be read is listed and kept in `failures`; the rest is imported, and the
    exit code is 3.

    \b
    Examples:
      sotopia-rl-data import --name demo/episodes
      sotopia-rl-data import episodes.jsonl --name lab/run7 --where "tag = 'gpt-4o' AND len(turns) > 4"
      sotopia-rl-data import ~/.sotopia/data --name lab/local
    """
    from sotopia_rl_data.importers import samples_path
    from sotopia_rl_data.importers.run import import_dataset

    with console.progress("importing", "byte") as advance:
        report = import_dataset(
            store,
            paths or (samples_path(),),
            DatasetRef(name, version),
            where=where,
            strict=strict,
            seed=seed,
            progress=lambda done, total: advance(done, total),
        )
    if as_json:
        console.emit_json(asdict(report) | {"version": report.version.ref, "directory": str(report.version.dir)})
    else:
        _imported(report)
    if report.failures:
        click.get_current_context().exit(console.WITH_FAILURES)


def _imported(report: ImportReport) -> None:
    counts = ("episodes", "utterances", "examples", "attributions", "duplicates", "filtered", "failures")
    rows = [[name, getattr(report, name)] for name in counts if getattr(report, name) or name == "episodes"]
    rows += [[f"dialect {dialect}", n] for dialect, n in report.dialects.items()]
    state = "made" if report.created else "unchanged: the store has this content already"
    console.table(["imported", "count"], rows, title=f"{report.version.ref}  {report.version.digest[:12]}  {state}")
    for one in report.rejected[:_LISTED]:
        console.warn(f"{one.source}: {one.reason}")
    if report.failures > _LISTED:
        console.note(
            f'all {report.failures:,}: sotopia-rl-data query {report.version.ref} "SELECT source, reason FROM failures"'
        )
    for path in report.skipped[:_LISTED]:
        console.note(f"skipped, holds no known format: {path}")
    if report.episodes:
        console.next_commands(
            f"sotopia-rl-data show {report.version.name}",
            f"sotopia-rl-data label {report.version.name} --judge gpt-4o",
            f"sotopia-rl-data label {report.version.name} --judge lexical   # offline: a baseline, no key",
        )


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


def layout_of(layout: str | None, template: Path | None) -> tuple[Any, Template | None]:
    """The layout and template that the options name."""
    from sotopia_rl_data.prompts import load_template

    loaded = load_template(template) if template else None
    return layout or (loaded.layout if loaded else "single"), loaded


@click.command()
@click.argument("ref")
@click.option(
    "--preset",
    metavar="NAME|FILE",
    help="The recipe: sotopia-rl, goal-only, uniform, … or a YAML file.  [default: the dataset's own]",
)
@click.option("--rule", metavar="RULE", help="direct, scaled, singular, uniform, uniform-share or discounted.")
@click.option("--normaliser", metavar="NAME", help="minmax, zscore, rank or none; fitted on the train split.")
@click.option("--weights", metavar="D=W,…", help="As in goal=2,relationship=1.")
@click.option("--average", metavar="NAME", help="Of several opinions: mean or median.")
@click.option("--evaluator", metavar="NAME", help="Whose episode scores, where several evaluators gave some.")
@click.option("--schema", metavar="NAME", help="Whose attributions, where several schemas were asked.")
@click.option("--gamma", type=float, help="The discount of the rule `discounted`, in (0, 1].")
@template_option
@click.option("--out", metavar="ORG/NAME", help="The dataset to write.  [default: REF's own next version]")
@click.option("--version", metavar="vX.Y.Z", help="Override the version's number.")
@console.store_option
@console.json_option
def rewards(
    ref: str,
    preset: str | None,
    weights: str | None,
    layout: str | None,
    template: Path | None,
    out: str | None,
    version: str | None,
    store: Store,
    as_json: bool,
    **given: Any,
) -> None:
    """Re-make the rewards of REF from its stored attributions, by another rule, normaliser or weights. Asks nobody.

    \b
    Examples:
      sotopia-rl-data rewards demo/episodes-rewards --preset goal-only
      sotopia-rl-data rewards demo/episodes-rewards --normaliser zscore --weights goal=2,relationship=1,knowledge=1
      sotopia-rl-data rewards demo/episodes-rewards --layout chat
    """
    from sotopia_rl_data.rewards.remake import remake

    source = resolve(store, ref)
    recipe = _recipe(source, preset, weights, {k: v for k, v in given.items() if v is not None})
    chosen, loaded = layout_of(layout, template)
    with console.progress("rewards", "utterance") as advance:
        made = remake(
            store,
            source,
            recipe,
            layout=chosen,
            template=loaded,
            out=out,
            progress=lambda n: advance(n),
        )
    if as_json:
        console.emit_json(_remade(made))
        return
    state = "made" if made.created else "unchanged: the store has this content already"
    console.table(
        ["split", "utterances", "without reward"],
        [[split, n, made.built.unrewarded[split]] for split, n in made.built.rows.items()],
        title=f"{made.version.ref}  {made.version.digest[:12]}  {state}",
    )
    for warning in made.built.warnings:
        console.warn(warning)
    console.next_commands(f"sotopia-rl-data stats {made.version.name}")


def _remade(made: Remade) -> dict[str, Any]:
    return {
        "version": made.version.ref,
        "digest": made.version.digest,
        "created": made.created,
        "directory": str(made.version.dir),
        "recipe": made.built.recipe.as_dict(),
    } | made.built.provenance()


def _recipe(source: Version, preset: str | None, weights: str | None, given: dict[str, Any]) -> Recipe:
    """The preset's recipe, or the one REF was made by, with what was given laid over it."""
    from sotopia_rl_data.rewards import Recipe
    from sotopia_rl_data.rewards import preset as find

    own = source.manifest.recipe.get("rewards")
    recipe = find(preset) if preset else Recipe.from_dict(own) if own else find("sotopia-rl")
    if preset and own and "evaluator" not in given:
        given["evaluator"] = own.get("evaluator")
    if "gamma" in given and given.get("rule", recipe.rule) != "discounted":
        raise UsageError(
            "A gamma belongs to the rule `discounted` alone.", "add --rule discounted, or leave --gamma out"
        )
    if weights:
        given["weights"] = _weights(weights)
    return replace(recipe, **given)


def _weights(text: str) -> dict[str, float]:
    try:
        return {name: float(weight) for name, weight in (part.split("=") for part in text.split(","))}
    except ValueError as error:
        raise UsageError(f"{text!r} is no list of weights.", "write --weights goal=2,relationship=1") from error


@click.group()
def prompts() -> None:
    """What a policy sees at each turn; learn the exact wrapper from a served log."""


@prompts.command()
@click.argument("served_log", type=click.Path(path_type=Path))
@click.option(
    "--episodes", required=True, metavar="REF|FILE", help="The episodes that were served: a dataset, or ./FILE."
)
@click.option(
    "-o",
    "--out",
    "output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The template file to write.",
)
@console.store_option
@console.json_option
def learn(served_log: Path, episodes: str, output: Path, store: Store, as_json: bool) -> None:
    """Learn the text that a simulator wrapped around the observations, as a template file of yours.

    SERVED_LOG has one request a line, in the shape {"prompt": …} or an API body {"messages": […]}.

    \b
    Example:
      sotopia-rl-data prompts learn served.jsonl --episodes lab/run7 -o sotopia-0.1.4.yaml
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
        console.next_commands(f"sotopia-rl-data rewards REF --template {output}")
    if report.different:
        click.get_current_context().exit(console.WITH_FAILURES)


def _episodes(store: Store, text: str) -> Any:
    """Episodes of a dataset, or straight from a file or folder that is spelled as a path."""
    from sotopia_rl_data.query import Dataset
    from sotopia_rl_data.refs import is_path

    if is_path(text) and not (Path(text) / "manifest.json").is_file():
        from sotopia_rl_data.importers import read
        from sotopia_rl_data.schema import Episode

        return (one for one in read([text]) if isinstance(one, Episode))
    return Dataset(resolve(store, text)).episodes()
