"""The commands for people: as judges of utterances (`template`, which `label` reads), and as evaluators of whole
dialogues (`export` and `import`)."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sotopia_rl_data.cli import console
from sotopia_rl_data.hub.resolve import resolve

if TYPE_CHECKING:
    from sotopia_rl_data.store import Store


@click.group()
def annotate() -> None:
    """Human annotations: people as a judge, beside the others."""


@annotate.command("template")
@console.ref_argument("episodes", required=False)
@console.output_option("The CSV to write.")
@click.option("--schema", default="direct", show_default=True, metavar="NAME", help="What is asked, as in `label`.")
@click.option(
    "--dimensions",
    metavar="D,…",
    help="SOTOPIA-EVAL's, or some of the rubric's.  [default: goal,relationship,knowledge; all of a rubric's]",
)
@click.option("--scale", default=3, show_default=True, help="The highest level: 3, 5 or 10; the lowest is 0.")
@click.option("--evaluator", metavar="NAME", help="The evaluator whose episode scores are attributed.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random order.")
@click.option("--questions", type=click.IntRange(1), help="How many questions to draw.  [default: all]")
@click.option(
    "--only",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A CSV of what to ask about: episode_id[,agent[,turn[,dimension]]].",
)
@console.store_option
@console.json_option
def annotate_template(
    episodes: str | None,
    output: Path,
    schema: str,
    dimensions: str | None,
    scale: int,
    evaluator: str | None,
    seed: int,
    questions: int | None,
    only: Path | None,
    store: Store,
    as_json: bool,
) -> None:
    """The questions of a schema as a CSV, in random order and without any judge's answers.

    Fill in the column `raw`, and leave it empty where you have no answer. Then label with the file, which also serves
    as the list of what to ask.

    \b
    Examples:
      sotopia-rl-data annotate template demo/episodes -o mine.csv --dimensions goal --questions 50
      sotopia-rl-data label demo/episodes --judge human:mine.csv --only mine.csv --preset goal-only
    """
    from sotopia_rl_data.labelers.annotation import write_template
    from sotopia_rl_data.labelers.plan import Elicitation

    rows = write_template(
        store,
        episodes,
        output,
        Elicitation(
            schema=schema,
            dimensions=dimensions.split(",") if dimensions else None,
            scale=scale,
            evaluator=evaluator,
            only=only,
        ),
        seed=seed,
        questions=questions,
    )
    if as_json:
        console.emit_json({"file": str(output), "rows": rows})
    else:
        console.note(f"{rows:,} rows to fill in are in {output}.")
        weights = dimensions and ",".join(f"{one.strip()}=1" for one in dimensions.split(","))
        given = {"schema": schema, "dimensions": dimensions, "weights": weights, "evaluator": evaluator}
        given |= {"scale": str(scale), "judge": f"human:{output}", "only": str(output)}
        usual = {"schema": "direct", "scale": "3"}
        words = [f"--{name}={value}" for name, value in given.items() if value and value != usual.get(name)]
        line = shlex.join([*([episodes] if episodes else []), *words])
        console.next_commands(f"sotopia-rl-data label {line}   # when the column raw is filled in")


@annotate.command("export")
@console.refs_argument()
@console.output_option("FILE.html, a form for any browser, or FILE.csv.")
@click.option("--dialogues", type=click.IntRange(1), default=28, show_default=True, help="How many of each method.")
@click.option("--dimensions", metavar="D,…", help="SOTOPIA-EVAL dimensions.  [default: all seven]")
@click.option("--agent", "agents", multiple=True, metavar="WHO", help="A REF's compared agent; as in `compare`.")
@click.option(
    "--partner",
    "partners",
    multiple=True,
    metavar="MODEL",
    help="A model that is not a method; as in `compare`.",
)
@click.option("--compared-only", is_flag=True, help="Only the methods' own agents, not their partners.")
@click.option("--seed", default=0, show_default=True, help="Seed of the drawing and the order.")
@console.store_option
@console.json_option
def annotate_export(
    refs: tuple[str, ...],
    output: Path,
    dialogues: int,
    dimensions: str | None,
    agents: tuple[str, ...],
    partners: tuple[str, ...],
    compared_only: bool,
    seed: int,
    store: Store,
    as_json: bool,
) -> None:
    """Dialogues for people to score, blinded: a page that works offline, or a CSV.

    As many dialogues of each method are drawn, of the same scenes where every method played them, and put in random
    order. Neither the file nor its ids say which method or run a dialogue is of. Read the filled form with `import`.

    \b
    Examples:
      sotopia-rl-data annotate export lab/bc lab/rl -o form.html
      sotopia-rl-data annotate export lab/bc lab/rl -o form.csv --dimensions goal --compared-only
    """
    from sotopia_rl_data.dimensions import SOTOPIA_EVAL
    from sotopia_rl_data.labelers.evaluation.people import draw, write_form
    from sotopia_rl_data.labelers.plan import dimensions_of

    rated = dimensions_of(dimensions.split(",") if dimensions else [known.name for known in SOTOPIA_EVAL])
    versions = [resolve(store, ref) for ref in dict.fromkeys(refs)]
    items = draw(
        versions, dialogues=dialogues, seed=seed, agents=agents, partners=partners, compared_only=compared_only
    )
    scores = write_form(items, rated, output)
    if as_json:
        console.emit_json({"file": str(output), "dialogues": len(items), "scores": scores})
    else:
        console.note(f"{len(items):,} dialogues, {scores:,} scores to fill in, are in {output}.")
        if output.suffix == ".csv":  # a page saves its scores under a name of its own
            console.next_commands(f"sotopia-rl-data annotate import {shlex.quote(str(output))} {shlex.join(refs)}")
        else:
            console.note("Open it in a browser. What its button saves is read by `sotopia-rl-data annotate import`.")


@annotate.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@console.refs_argument()
@click.option(
    "--evaluator", default="human", show_default=True, metavar="NAME", help="The name to store the scores under."
)
@console.store_option
@console.json_option
def annotate_import(file: Path, refs: tuple[str, ...], evaluator: str, store: Store, as_json: bool) -> None:
    """Add the scores of a filled form to its datasets, as the next version of each.

    Name the datasets that were exported. A line that cannot be used is listed with its number and the reason; the
    others count, and the exit code is then 3. A line without a score is not a fault.

    \b
    Examples:
      sotopia-rl-data annotate import scores.csv lab/bc lab/rl
      sotopia-rl-data annotate import ann.csv lab/bc lab/rl --evaluator ann
    """
    from sotopia_rl_data.labelers.evaluation.people import import_scores

    versions = [resolve(store, ref) for ref in dict.fromkeys(refs)]
    imported = import_scores(store, file, versions, evaluator=evaluator)
    if as_json:
        console.emit_json(imported.as_dict())
    else:
        console.table(
            ["version", "scores", "state"],
            [[added.version, added.scores, "made" if added.created else "unchanged"] for added in imported.added],
            title=f"{file}: scores by {imported.evaluator}",
        )
        if imported.bad:
            console.table(["line", "why it does not count"], [[bad.line, bad.reason] for bad in imported.bad])
        console.note(f"{imported.empty:,} lines have no score.")
        names = " ".join(added.version.partition("@")[0] for added in imported.added)
        console.next_commands(f"sotopia-rl-data compare {names}")
    if imported.bad:
        click.get_current_context().exit(console.WITH_FAILURES)
