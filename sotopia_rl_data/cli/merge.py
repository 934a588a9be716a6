"""The command `merge`: a run's model as one whole checkpoint. Thin over `trainers.api`; loads no torch by itself."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sotopia_rl_data.cli import console
from sotopia_rl_data.trainers import api

if TYPE_CHECKING:
    from sotopia_rl_data.store import Store


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@console.output_option("The folder of the checkpoint.  [default: RUN-merged]", required=False, folder=True)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Type of the weights.  [default: that of the base model]",
)
@console.store_option
@console.json_option
def merge(run: Path, output: Path | None, dtype: str | None, store: Store, as_json: bool) -> None:
    """The model of RUN as one whole checkpoint that other programs take as it lies: vLLM, OpenRLHF, verl, pipelines.

    A reward model's units are folded into its head, and its chat template ends where the score is read, so that a stock
    program gives the number that `score` gives.

    \b
    Example:
      sotopia-rl-data merge runs/rm-episodes-rewards -o runs/rm-whole
    """
    api.quiet_libraries(console.has_bars())
    out = output or run.resolve().with_name(f"{run.resolve().name}-merged")
    record = api.merge(run, out, dtype=dtype)
    if as_json:
        console.emit_json(record)
        return
    merged = record["merged"]
    console.note(f"{out}: a whole checkpoint in {merged['dtype']}, made from {run}")
    if merged.get("offset"):
        console.warn(
            f"Add {merged['offset']:.6g} to what other programs read: the head of this model has no bias to hold it."
        )
    console.next_commands(f"sotopia-rl-data inspect {shlex.quote(str(out))}")
