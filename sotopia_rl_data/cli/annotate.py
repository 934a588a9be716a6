"""The commands for people: as judges of utterances (`template`, read by `label`), and as evaluators of whole dialogues
(`export` and `import`)."""

from __future__ import annotations

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
@click.argument("episodes", required=False)
@click.option(
    "-o", "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The CSV to write.  [required]"
)
@click.option("--schema", default="direct", show_default=True, metavar="NAME", help="What is asked; as in `label`.")
@click.option(
    "--dimensions",
    metavar="D,…",
    help="SOTOPIA-EVAL's, or some of the rubric's.  [default: goal,relationship,knowledge; all of a rubric's]",
)
@click.option("--scale", default=3, show_default=True, help="The top of the levels: 3, 5 or 10.")
@click.option("--evaluator", metavar="NAME", help="Whose episode scores are attributed, where several gave some.")
@click.option("--seed", default=0, show_default=True, help="Of the random order.")
@click.option("--questions", type=click.IntRange(1), help="Take so many, drawn at random.  [default: all]")
@click.option(
    "--only",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="LIST",
    help="A CSV that names what to ask about: episode_id[,agent[,turn[,dimension]]].",
)
@console.store_option
@console.json_option
def annotate_template(
    episodes: str | None,
    out: Path,
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

    Fill in the column `raw`; leave what you cannot say empty. Then label with the file, which also says what to ask.

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
        out,
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
        console.emit_json({"file": str(out), "rows": rows})
    else:
        console.note(f"{rows:,} rows to fill in are in {out}.")


@annotate.command("export")
@click.argument("refs", nargs=-1, required=True, metavar="REF…")
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="FILE.html, a form for any browser, or FILE.csv.  [required]",
)
@click.option("--dialogues", type=click.IntRange(1), default=28, show_default=True, help="Of each method.")
@click.option("--dimensions", metavar="D,…", help="SOTOPIA-EVAL dimensions.  [default: all seven]")
@click.option("--agent", "agents", multiple=True, metavar="WHO", help="Whose agent a REF is about; as in `compare`.")
@click.option(
    "--partner",
    "partners",
    multiple=True,
    metavar="MODEL",
    help="A model that is not a method; as in `compare`.",
)
@click.option("--compared-only", is_flag=True, help="Ask about the methods' agents alone, not about their partners.")
@click.option("--seed", default=0, show_default=True, help="Of the drawing and the order.")
@console.store_option
@console.json_option
def annotate_export(
    refs: tuple[str, ...],
    out: Path,
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

    So many dialogues of each method are drawn, of the same scenes where every method played them, and laid in random
    order. Neither the file nor its ids say which method or run a dialogue is of. Read what comes back with `import`.

    \b
    Examples:
      sotopia-rl-data annotate export lab/bc lab/rl -o form.html
      sotopia-rl-data annotate export lab/bc lab/rl -o form.csv --dimensions goal --compared-only
    """
    from sotopia_rl_data.dimensions import SOTOPIA_EVAL
    from sotopia_rl_data.labelers.evaluation.people import draw, write_form
    from sotopia_rl_data.labelers.plan import dimensions_of

    asked = dimensions_of(dimensions.split(",") if dimensions else [one.name for one in SOTOPIA_EVAL])
    versions = [resolve(store, ref) for ref in dict.fromkeys(refs)]
    items = draw(
        versions, dialogues=dialogues, seed=seed, agents=agents, partners=partners, compared_only=compared_only
    )
    scores = write_form(items, asked, out)
    if as_json:
        console.emit_json({"file": str(out), "dialogues": len(items), "scores": scores})
    else:
        console.note(f"{len(items):,} dialogues, {scores:,} scores to fill in, are in {out}.")
        console.next_commands(f"sotopia-rl-data annotate import FILLED.csv {' '.join(refs)}")


@annotate.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("refs", nargs=-1, required=True, metavar="REF…")
@click.option(
    "--evaluator", default="human", show_default=True, metavar="NAME", help="What the scores are said to be by."
)
@console.store_option
@console.json_option
def annotate_import(file: Path, refs: tuple[str, ...], evaluator: str, store: Store, as_json: bool) -> None:
    """People's scores out of a filled form, as the next version of each dataset that it is about.

    Name the datasets that were exported. A line that cannot be used is listed with its number and the reason, the
    others count, and the exit code is 3. A line without a score is not a fault.

    \b
    Examples:
      sotopia-rl-data annotate import scores.csv lab/bc lab/rl
      sotopia-rl-data annotate import ann.csv lab/bc lab/rl --evaluator ann
    """
    from sotopia_rl_data.labelers.evaluation.people import import_scores

    versions = [resolve(store, ref) for ref in dict.fromkeys(refs)]
    found = import_scores(store, file, versions, evaluator=evaluator)
    if as_json:
        console.emit_json(found.as_dict())
    else:
        console.table(
            ["version", "scores", "state"],
            [[one.version, one.scores, "made" if one.created else "unchanged"] for one in found.added],
            title=f"{file}: scores by {found.evaluator}",
        )
        if found.bad:
            console.table(["line", "why it does not count"], [[one.line, one.reason] for one in found.bad])
        console.note(f"{found.empty:,} lines have no score.")
        names = " ".join(one.version.partition("@")[0] for one in found.added)
        console.next_commands(f"sotopia-rl-data compare {names}")
    if found.bad:
        click.get_current_context().exit(console.WITH_FAILURES)
