"""The command for human judges: the file that they fill in. `label --judge human:FILE.csv` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sotopia_rl_data import console

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
@click.option("--dimensions", metavar="D,…", help="SOTOPIA-EVAL dimensions.  [default: goal,relationship,knowledge]")
@click.option("--scale", default=3, show_default=True, help="The top of the levels.")
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
      sotopia-rl-data annotate template demo/episodes -o mine.csv --questions 50
      sotopia-rl-data label demo/episodes --judge human:mine.csv --only mine.csv
    """
    from labelers.annotating import write_template

    rows = write_template(
        store,
        episodes,
        out,
        schema=schema,
        dimensions=dimensions.split(",") if dimensions else None,
        scale=scale,
        evaluator=evaluator,
        seed=seed,
        only=only,
        questions=questions,
    )
    if as_json:
        console.emit_json({"file": str(out), "rows": rows})
    else:
        console.note(f"{rows:,} rows to fill in are in {out}.")
