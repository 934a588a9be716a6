"""The command that takes data out of the store in somebody else's format: export."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sotopia_rl_data.cli import console
from sotopia_rl_data.hub.resolve import resolve

if TYPE_CHECKING:
    from sotopia_rl_data.exporters.run import ExportReport
    from sotopia_rl_data.store import Store

_LISTED = 20


@click.command()
@click.argument("ref")
@click.option("--to", "fmt", type=click.Choice(["sotopia"]), required=True, help="The format to write.")
@click.option(
    "-o",
    "--out",
    "output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder to make; it must not exist, or be empty.",
)
@click.option("--evaluator", metavar="NAME", help="Whose scores are written, where several evaluators gave some.")
@console.store_option
@console.json_option
def export(ref: str, fmt: str, output: Path, evaluator: str | None, store: Store, as_json: bool) -> None:
    """The episodes of REF as files that another program reads.

    sotopia: EpisodeLog, EnvironmentProfile and AgentProfile records, laid out as the library's local storage, and
    episodes.jsonl, the rows of its own export. Each record is read back before it is written; what the format has no
    room for is counted by field. An episode that cannot be written is listed, and the exit code is 3.

    \b
    Examples:
      sotopia-rl-data export demo/episodes --to sotopia -o ./demo-sotopia
      sotopia-rl-data export lab/rollouts@v1.0.0 --to sotopia -o ~/.sotopia/data
    """
    from sotopia_rl_data.exporters.run import export_sotopia

    version = resolve(store, ref)
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        advance(done)

    with console.progress(f"export to {fmt}", "episode") as advance:
        report = export_sotopia(version, output, evaluator=evaluator, progress=count)
    if as_json:
        console.emit_json(asdict(report))
    else:
        _exported(report)
    if report.failures:
        click.get_current_context().exit(console.WITH_FAILURES)


def _exported(report: ExportReport) -> None:
    rows: list[list[object]] = [[name, getattr(report, name)] for name in ("episodes", "environments", "agents")]
    rows.append(["read back equal", report.equal])
    rows += [[f"differs: {field}", count] for field, count in report.differs.items()]
    console.table(["exported", "count"], rows, title=f"{report.version}  {report.directory}")
    for reason in report.failures[:_LISTED]:
        console.warn(reason)
    if len(report.failures) > _LISTED:
        console.note(f"and {len(report.failures) - _LISTED:,} more: --json has all")
    console.next_commands(f"sotopia-rl-data import {report.directory} --name ORG/NAME")
