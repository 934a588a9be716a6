"""The commands that read data from files and write it in another program's format: import, export."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import console
from sotopia_rl_data.cli.asking import all_but, check_unread, on_option, shard_option, weights_option
from sotopia_rl_data.dimensions import in_order
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.hub.resolve import resolve
from sotopia_rl_data.refs import DatasetRef

if TYPE_CHECKING:
    from sotopia_rl_data.cluster.on_ray import RayWorkers
    from sotopia_rl_data.exporters.exporting import ExportReport
    from sotopia_rl_data.exporters.training import TrainingReport
    from sotopia_rl_data.importers.importing import ImportReport
    from sotopia_rl_data.importers.opinions import FileMethod
    from sotopia_rl_data.importers.options import ImportOptions
    from sotopia_rl_data.importers.own_scores import DeclaredScore
    from sotopia_rl_data.importers.parts import Joined
    from sotopia_rl_data.store import Store

_TURNS = 4  # of the first episode, in a dry run
_LISTED = 20
_EPISODES = ("sotopia", "convokit")
_EXPORTS = (*_EPISODES, "trl-sft", "trl-preference", "trl-kto", "openai", "sharegpt", "verl", "openrlhf")


def _columns(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Mapping[str, str]:
    from sotopia_rl_data.importers.options import parse_columns

    return parse_columns(value) if value else {}


def _scores(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[DeclaredScore, ...]:
    return tuple(one for text in values for one in _declared(text))


def _declared(text: str) -> list[DeclaredScore]:
    """The scores that one `--score` declares: a name and its range, or the dimensions of a rubric file."""
    from sotopia_rl_data.importers.own_scores import DeclaredScore, parse_score

    if not text.endswith((".yaml", ".yml")):
        return [parse_score(text)]
    from sotopia_rl_data.labelers.schemas import rubric

    found = [(one.name, one.ends) for one in rubric.read(Path(text)).dimensions]
    without = [name for name, ends in found if ends is None]
    if without:
        raise UsageError(
            f"The dimension {without[0]} of the rubric {text} has no range.", "give it one, as in `range: [1, 5]`"
        )
    return [DeclaredScore(name, float(ends[0]), float(ends[1])) for name, ends in found if ends is not None]


@click.command("import")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@console.dataset_option("--name", "The dataset to make, or to add a version to.")
@click.option(
    "--map",
    "columns",
    metavar="A=B,…",
    callback=_columns,
    help="Read the column A as B, as in Who=speaker,Said=text.",
)
@click.option(
    "--format", "form", metavar="FORMAT", help="The format of all files.  [default: told by the keys of their records]"
)
@click.option("--method", metavar="METHOD", help="How annotated files were made.  [default: told by numbers and names]")
@click.option(
    "--shared-labels", is_flag=True, help="Keep annotated labels that stand for two utterances in a row, at the later."
)
@click.option(
    "--sentinel", type=float, metavar="NUMBER", help="The reward that stands for none in training rows, as in -1."
)
@click.option(
    "--dry-run", is_flag=True, help="Show the files and the first episode as they will be read; write nothing."
)
@click.option("--where", metavar="SQL", help="Keep the episodes for which this DuckDB condition holds.")
@click.option("--strict", is_flag=True, help="Make the first record that cannot be read an error.")
@click.option("--seed", default=0, show_default=True, help="Seed of the splits.")
@click.option(
    "--split-by",
    type=click.Choice(["environment", "episode"]),
    default="environment",
    show_default=True,
    help="What stays together in one split.",
)
@click.option(
    "--score",
    "scores",
    multiple=True,
    metavar="NAME=LOW..HIGH|FILE",
    callback=_scores,
    help="A dimension of your own and its range, as in csat=1..5, or a rubric file.",
)
@click.option("--license", metavar="ID", help="The data's licence, for its card: cc-by-4.0 …")
@click.option("--pseudonymise", is_flag=True, help="Replace speakers' names and ids, in texts too.")
@shard_option("Import part I of N of the episodes, by a hash of their ids; for --join.")
@click.option("--join", is_flag=True, help="PATHS are the versions that --shard made, of all parts: make one of them.")
@on_option
@click.option("--version", metavar="vX.Y.Z", help="Override the version's number.")
@console.store_option
@console.json_option
def import_(
    paths: tuple[Path, ...],
    name: str | None,
    dry_run: bool,
    join: bool,
    workers: RayWorkers | None,
    version: str | None,
    store: Store,
    as_json: bool,
    **options: Any,
) -> None:
    """Episodes from files or folders, as a versioned dataset. Without PATHS: the bundled samples.

    Reads EpisodeLog JSON (a file, a folder of the local backend, a Redis export), the sotopia library's JSONL and CSV
    exports, annotated JSONL, plain JSONL, chats (OpenAI's messages, ShareGPT's conversations), tables of one utterance
    a row, ConvoKit corpora, simulations of τ-bench, training rows, TRL's rows of completions and preferences, and what
    `query` writes; as JSON, JSON Lines, CSV, TSV, Parquet or Arrow, packed (gzip, zstd, bzip2, xz) or not. Which format
    a file has is detected. A record that cannot be read is listed and kept in `failures`; the rest is imported, and the
    exit code is 3.

    \b
    Examples:
      sotopia-rl-data import --name demo/episodes
      sotopia-rl-data import chats.jsonl --dry-run
      sotopia-rl-data import calls.csv --name lab/calls --map "Call ID=conversation,Who=speaker,Said=text"
      sotopia-rl-data import episodes.jsonl --name lab/run7 --where "tag = 'gpt-4o' AND len(turns) > 4"
      sotopia-rl-data import ~/.sotopia/data --name lab/local
    """
    from sotopia_rl_data.importers import samples_path
    from sotopia_rl_data.importers.importing import import_dataset
    from sotopia_rl_data.importers.options import ImportOptions

    if join:
        _join(store, paths, name, version, as_json)
        return
    files, told = paths or (samples_path(),), ImportOptions(**options)
    if dry_run:
        _show_first(files, told, name, store, as_json)
        return
    if name is None:
        raise UsageError(
            "The dataset to make has no name.",
            "add a name, as in --name lab/episodes, or --dry-run to look at it first",
        )
    if workers is not None:
        from sotopia_rl_data.importers.parts import import_on

        if told.shard is not None:
            raise UsageError("Workers import all parts, so --shard does not go with --on.", "leave one of them out")
        with console.progress("importing", "part") as advance:
            joined = import_on(workers, store, files, DatasetRef(name, version), told, advance)
        _show_joined(joined, as_json)
        return
    with console.progress("importing", "byte") as advance:
        report = import_dataset(
            store,
            files,
            DatasetRef(name, version),
            options=told,
            progress=lambda done, total: advance(done, total),
        )
    if as_json:
        console.emit_json(asdict(report) | {"version": report.version.ref, "directory": str(report.version.dir)})
    else:
        _show_import(report)
    if report.failures:
        click.get_current_context().exit(console.WITH_FAILURES)


def _join(store: Store, parts: Sequence[Path], name: str | None, version: str | None, as_json: bool) -> None:
    """Make one version of the parts of an import."""
    from sotopia_rl_data.importers.parts import join

    read = {"paths", "name", "join", "version", "store", "as_json"}
    check_unread(all_but(read), "does not apply to --join, which takes the parts as they are")
    if not parts or name is None:
        raise UsageError(
            "--join needs the versions of all parts, and a name for the whole.",
            "write import --join store/lab/part-*/v1.0.0 --name lab/episodes",
        )
    _show_joined(join(store, parts, DatasetRef(name, version)), as_json)


def _show_joined(joined: Joined, as_json: bool) -> None:
    made = joined.committed.version
    if as_json:
        told = {"version": made.ref, "directory": str(made.dir), "digest": made.digest}
        console.emit_json(told | {"created": joined.committed.created, "rows": joined.rows})
    else:
        state = "made" if joined.committed.created else "unchanged: the store has this content already"
        rows = [[config, n] for config, n in joined.rows.items()]
        console.table(["joined", "rows"], rows, title=f"{made.ref}  {made.digest[:12]}  {state}")
        console.next_commands(f"sotopia-rl-data show {made.name}")
    if joined.rows.get("failures"):
        click.get_current_context().exit(console.WITH_FAILURES)


def _show_first(paths: Sequence[Path], options: ImportOptions, name: str | None, store: Store, as_json: bool) -> None:
    """The files that will be read, the first item that comes of them, and the command that imports them."""
    from sotopia_rl_data.cli.dialogue import show_dialogue
    from sotopia_rl_data.importers.files import plan
    from sotopia_rl_data.importers.opinions import opinions_of
    from sotopia_rl_data.importers.own_scores import with_scores
    from sotopia_rl_data.importers.pseudonyms import NamesFound, key_of, with_pseudonyms
    from sotopia_rl_data.importers.reading import read_plan
    from sotopia_rl_data.schema import Episode, Failure
    from sotopia_rl_data.tables import episode_row

    planned = plan(paths, options.columns, options.format)
    opinions = opinions_of(planned, options.told, options.shared_labels)
    located = with_scores(read_plan(planned, ranges=options.ranges, opinions=opinions), options.scores)
    if options.pseudonymise:
        located = with_pseudonyms(located, key_of(store.folder_for("Pseudonyms do"), keep=False), NamesFound())
    items = (item for item, _ in located)
    rejected: list[Failure] = []
    first = None
    for item in items:
        if isinstance(item, Failure):
            rejected.append(item)
        else:
            first = item
            break
    files = [[source.label, source.kind, source.size] for source in planned.sources]
    if as_json:
        shown = episode_row(first) if isinstance(first, Episode) else first and asdict(first)
        console.emit_json(
            {
                "files": files,
                "methods": [asdict(one) for one in opinions.methods],
                "warnings": [*planned.warnings, *opinions.warnings],
                "skipped": planned.skipped,
                "first": shown,
                "rejected": [asdict(one) for one in rejected],
            }
        )
        return
    console.table(["file", "format", "bytes"], files[:_LISTED], title="what will be read")
    _show_methods(opinions.methods)
    for warning in (*planned.warnings, *opinions.warnings):
        console.warn(warning)
    _list_skipped(planned.skipped)
    for failure in rejected[:_LISTED]:
        console.warn(f"{failure.source}: {failure.reason}")
    if isinstance(first, Episode):
        show_dialogue(first, {}, turns=_TURNS)
    elif first is not None:
        console.table(["field", "value"], [[name, str(value)] for name, value in asdict(first).items()])
    else:
        console.warn("no record could be read.")
        return
    words = [word for word in click.get_current_context().meta[console.WORDS][1:] if word != "--dry-run"]
    if not name:
        words += ["--name", f"demo/{re.sub(r'[^a-z0-9]+', '-', paths[0].stem.lower()).strip('-') or 'episodes'}"]
    console.next_commands(f"sotopia-rl-data import {shlex.join(words)}")


def _show_methods(methods: Sequence[FileMethod]) -> None:
    """How each annotated file is read."""
    rows = [
        [
            one.file,
            one.method or "cannot be told",
            one.schema,
            ", ".join(map(str, one.samples)),
            one.rule,
        ]
        for one in methods[:_LISTED]
    ]
    if rows:
        console.table(["annotated file", "method", "schema", "sample", "rule"], rows)


def _rewards_of(report: ImportReport) -> list[str]:
    """The commands that make the rewards of each opinion that was imported, as the files have them."""
    weights: dict[tuple[str | None, tuple[int, ...], str], set[str]] = {}
    for one in report.methods:
        if one.rule is not None and len(one.samples) < 2:
            weights.setdefault((one.schema, one.samples, one.rule), set()).update(one.dimensions)
    return [
        f"sotopia-rl-data rewards {report.version.name} --rule {rule}"
        + (f" --schema {schema} --sample {samples[0]}" if samples else "")
        + f" --weights {','.join(f'{name}=1' for name in in_order(dimensions))}"
        for (schema, samples, rule), dimensions in list(weights.items())[:_LISTED]
    ]


def _list_skipped(skipped: Sequence[str]) -> None:
    for path in skipped[:_LISTED]:
        console.note(f"passed over: {path}")
    if len(skipped) > _LISTED:
        console.note(f"and {len(skipped) - _LISTED:,} more files: --json has all")


def _show_import(report: ImportReport) -> None:
    counts = ("episodes", "utterances", "examples", "attributions", "duplicates", "filtered", "failures")
    told = {"duplicates": "duplicates (episodes that were read before)"}
    rows = [
        [told.get(name, name), getattr(report, name)] for name in counts if getattr(report, name) or name == "episodes"
    ]
    rows += [[f"dialect {dialect}", n] for dialect, n in report.dialects.items()]
    rows += [[f"split {split}", n] for split, n in report.splits.items()]
    state = "made" if report.created else "unchanged: the store has this content already"
    console.table(["imported", "count"], rows, title=f"{report.version.ref}  {report.version.digest[:12]}  {state}")
    _show_methods(report.methods)
    for failure in report.rejected[:_LISTED]:
        console.warn(f"{failure.source}: {failure.reason}")
    if report.failures > _LISTED:
        console.note(
            f'all {report.failures:,}: sotopia-rl-data query {report.version.ref} "SELECT source, reason FROM failures"'
        )
    _list_skipped(report.skipped)
    if report.pseudonyms:
        speakers, replaced, left = (report.pseudonyms[name] for name in ("speakers", "replaced", "left"))
        console.note(f"{speakers:,} speakers have pseudonyms; {replaced:,} names in texts were replaced.")
        if left:
            console.note(
                f"{left:,} words that are also speakers' names were left, because they stand as ordinary words."
            )
    for warning in report.warnings:
        console.warn(warning)
    if "shard" in report.version.manifest.provenance:
        console.note("this is a part: `import --join` makes one version of all parts.")
        console.next_commands(f"sotopia-rl-data show {report.version.name}")
    elif report.episodes and not report.scored:
        console.note("no episode has a score: `evaluate` gives scores, or label with a schema that needs none.")
        console.next_commands(
            f"sotopia-rl-data show {report.version.name}",
            f"sotopia-rl-data evaluate {report.version.name} --judge gpt-4o",
            f"sotopia-rl-data label {report.version.name} --judge gpt-4o --schema utterance-quality",
        )
    elif report.examples:
        from sotopia_rl_data.query import sql

        select = "SELECT count(reward), count(*), count(DISTINCT md5(to_json(prompt))) FROM rewards"
        rewarded, rows, prompts = (column[0].as_py() for column in sql(report.version, select).columns)
        kind = "sft" if not rewarded else "dpo" if rows >= 2 * prompts else "rm"  # two or more answers to each prompt
        console.next_commands(
            f"sotopia-rl-data stats {report.version.name}",
            f"sotopia-rl-data report {report.version.name} -o report.html",
            f"sotopia-rl-data train {kind} --dataset {report.version.name} --model Qwen/Qwen2.5-0.5B-Instruct",
        )
    elif report.methods:
        console.next_commands(f"sotopia-rl-data show {report.version.name}", *_rewards_of(report))
    elif report.episodes:
        weights = weights_option(report.scored)
        console.next_commands(
            f"sotopia-rl-data show {report.version.name}",
            f"sotopia-rl-data label {report.version.name} --judge gpt-4o{weights}",
            f"sotopia-rl-data label {report.version.name} --judge lexical{weights}   # offline: a baseline, no key",
        )


@click.command()
@console.ref_argument("ref")
@click.option(
    "--to", "fmt", type=click.Choice(_EXPORTS), metavar="FORMAT", required=True, help="The format to write, as above."
)
@console.output_option("The folder to make; it must not exist, or be empty.", folder=True)
@click.option(
    "--evaluator", metavar="NAME", help="sotopia: whose scores are written, where several evaluators gave some."
)
@click.option("--where", metavar="SQL", help='For trainers: only rows for which this holds, such as "turn < 10".')
@click.option(
    "--threshold",
    type=float,
    metavar="REWARD",
    help="trl-kto: completions with a higher reward are desirable. Default: the median.",
)
@click.option(
    "--ledger",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="trl-preference: where the drafts of best-of-N are.  [default: STORE/.ledger]",
)
@console.store_option
@console.json_option
def export(
    ref: str,
    fmt: str,
    output: Path,
    evaluator: str | None,
    where: str | None,
    threshold: float | None,
    ledger: Path | None,
    store: Store,
    as_json: bool,
) -> None:
    """REF as files that another program reads.

    sotopia: EpisodeLog, EnvironmentProfile and AgentProfile records, laid out as the library's local storage, and
    episodes.jsonl, the rows of its own export. Each record is read back before it is written; what the format has no
    room for is counted by field. An episode that cannot be written is listed, and the exit code is 3.

    convokit: a corpus of ConvoKit, with the rewards of a labelled version as `meta` of its utterances.

    For trainers, a file for each split. trl-sft: prompt and completion of each utterance. trl-preference: the best and
    the worst completion of each prompt that has several, the drafts of `rollout --best-of` among them. trl-kto:
    completions with a label. openai, sharegpt: each agent's part of an episode as one chat. verl: prompts, with the
    scene and the reward in extra_info, in Parquet. openrlhf: prompt, response and reward. A missing reward is left out
    or NULL, never 0.

    \b
    Examples:
      sotopia-rl-data export demo/episodes --to sotopia -o ./demo-sotopia
      sotopia-rl-data export lab/calls-rewards --to convokit -o ./calls-corpus
      sotopia-rl-data export demo/episodes-rewards --to openai -o ./demo-chats --where '"return" > 2'
      sotopia-rl-data export lab/rollouts@v1.0.0 --to sotopia -o ~/.sotopia/data
    """
    from sotopia_rl_data.exporters.convokit import export_convokit
    from sotopia_rl_data.exporters.exporting import export_sotopia
    from sotopia_rl_data.exporters.training import export_training

    for option, value, fits in (
        ("--evaluator", evaluator, fmt == "sotopia"),
        ("--where", where, fmt not in _EPISODES),
        ("--threshold", threshold, fmt == "trl-kto"),
        ("--ledger", ledger, fmt == "trl-preference"),
    ):
        if value is not None and not fits:
            raise UsageError(f"{option} has no meaning for --to {fmt}.", f"leave {option} out")
    version = resolve(store, ref)
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        advance(done)

    if fmt not in _EPISODES:
        with console.progress(f"export to {fmt}", "row") as advance:
            written = export_training(
                version,
                fmt,
                output,
                where=where,
                threshold=threshold,
                ledger=ledger or store.ledger,
                progress=count,
            )
        _show_rows(written, as_json)
        return
    if fmt == "convokit":
        with console.progress("export to convokit", "episode") as advance:
            corpus = export_convokit(version, output, progress=count)
        if as_json:
            console.emit_json(asdict(corpus))
        else:
            counts = ("conversations", "utterances", "speakers")
            rows = [[name, getattr(corpus, name)] for name in counts]
            console.table(["exported", "count"], rows, title=f"{corpus.version}  {corpus.directory}")
        return
    with console.progress(f"export to {fmt}", "episode") as advance:
        report = export_sotopia(version, output, evaluator=evaluator, progress=count)
    if as_json:
        console.emit_json(asdict(report))
    else:
        _show_export(report)
    if report.failures:
        click.get_current_context().exit(console.WITH_FAILURES)


def _show_rows(report: TrainingReport, as_json: bool) -> None:
    if as_json:
        console.emit_json(asdict(report))
        return
    rows: list[list[object]] = [[f"rows of {split}", n] for split, n in report.rows.items()]
    rows += [[f"left out: {why}", n] for why, n in report.left_out.items()]
    if report.threshold is not None:
        rows.append(["desirable above", report.threshold])
    console.table(["exported", "count"], rows, title=f"{report.version}  {report.directory}")


def _show_export(report: ExportReport) -> None:
    rows: list[list[object]] = [[name, getattr(report, name)] for name in ("episodes", "environments", "agents")]
    rows.append(["read back equal", report.equal])
    rows += [[f"differs: {field}", count] for field, count in report.differs.items()]
    console.table(["exported", "count"], rows, title=f"{report.version}  {report.directory}")
    for reason in report.failures[:_LISTED]:
        console.warn(reason)
    if len(report.failures) > _LISTED:
        console.note(f"and {len(report.failures) - _LISTED:,} more: --json has all")
    console.next_commands(
        f"sotopia-rl-data import {shlex.quote(str(report.directory))} --name {report.version.partition('@')[0]}-again"
    )
