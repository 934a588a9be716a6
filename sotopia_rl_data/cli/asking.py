"""What the commands that ask models share: `label`, `evaluate`, `audit` and `rollout`.

First their options, then how these become what the library takes, then running the command, and what is shown of it:
counts, a row for each judge with its tokens and USD, and the date of the prices.

    models    --judges --key --extra             sampling   --temperature --max-tokens
    costs        --dry-run --budget --prices
    batches   --batch --poll --no-wait           pace         --concurrency --rpm --tpm --timeout
    kept      --ledger                           again        --retry-failed
    sharded   --shard --ask-only                 workers    --on --worker-gpus
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sotopia_rl_data.cli import console
from sotopia_rl_data.errors import UnderWay, UsageError

if TYPE_CHECKING:
    from sotopia_rl_data.asking.estimate import Estimate
    from sotopia_rl_data.asking.judges_file import NamedModels
    from sotopia_rl_data.asking.plan import AskOptions, Batching, Workers
    from sotopia_rl_data.asking.providers import ModelName
    from sotopia_rl_data.asking.report import AskedReport, AskingReport, RunReport
    from sotopia_rl_data.costs.bill import Bill
    from sotopia_rl_data.costs.bill import Line as BillLine
    from sotopia_rl_data.labelers.coverage import Coverage
    from sotopia_rl_data.labelers.plan import Elicitation
    from sotopia_rl_data.labelers.wordings import OtherWording
    from sotopia_rl_data.shards import Shard

F = TypeVar("F", bound=Callable[..., Any])
Report = TypeVar("Report", bound="AskingReport")

_FORMS = "gpt-4o, claude-…, openai:MODEL[@URL], anthropic:MODEL[@URL], transformers:PATH_OR_ID, "
_OTHERS = "replay:LEDGER, lexical (offline), path/to/file.py:Name. Repeat for several."


# --- options ----------------------------------------------------------------------------------------------------------

kept = click.option(
    "--ledger",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where raw answers are kept: a folder, or s3://BUCKET/PREFIX.  [default: STORE/.ledger]",
)
again = click.option("--retry-failed", is_flag=True, help="Ask once more, and only, what was answered unusably before.")


def judges_option(also: str = "") -> Callable[[F], F]:
    """`--judge`, repeatable; `also` are forms that this command alone takes."""
    return click.option("--judge", "judges", multiple=True, metavar="SPEC", help=_FORMS + also + _OTHERS)


def _named(_ctx: click.Context, _param: click.Parameter, value: Path | None) -> NamedModels | None:
    from sotopia_rl_data.asking.judges_file import read_judges

    return None if value is None else read_judges(value)


def _by_host(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    from sotopia_rl_data.asking.keys import is_variable

    pairs = [value.partition("=") for value in values]
    if not all(host and variable for host, _, variable in pairs):
        hint = "write --key HOST=VARIABLE, where VARIABLE is the environment variable that holds the key"
        raise UsageError("--key needs a host and a variable.", hint)  # without the value, which may be a key itself
    if not all(is_variable(variable) for _, _, variable in pairs):
        hint = "export the variable that holds the key, and write its name: --key HOST=LAB_KEY"
        raise UsageError("What --key names is neither a variable that is set nor a name in capitals.", hint)
    return {host: variable for host, _, variable in pairs}


def models(command: F) -> F:
    """`--judges`, `--key` and `--extra`."""
    file = click.Path(dir_okay=False, path_type=Path)
    entries = "A YAML file of models by name, each with its URL, key, parameters and price."
    holder = "The variable that holds the key of a server: gpu7:8000=LAB_KEY; none: it takes none."
    also = "Sent as it is: reasoning_effort=low, provider.sort=price. Repeat for several."
    return _together(
        click.option("--judges", "named", type=file, metavar="FILE", callback=_named, help=entries),
        click.option("--key", "keys", multiple=True, metavar="HOST=VARIABLE", callback=_by_host, help=holder),
        click.option("--extra", multiple=True, metavar="KEY=VALUE", help=also),
    )(command)


def sampling(default: float) -> Callable[[F], F]:
    """`--temperature` and `--max-tokens` of a command whose models are asked at this temperature by default."""
    usual = f"Sent to the models.  [default: {default:g}, where they take one]"
    return _together(
        click.option("--temperature", type=float, help=usual),
        click.option("--max-tokens", type=click.IntRange(1), help="The longest answer."),
    )


def wording(default: str = "v2") -> Callable[[F], F]:
    """`--wording`."""
    how = f"How judges are shown an episode. Answers are kept by wording.  [default: {default}]"
    return click.option("--wording", type=click.Choice(["v1", "v2"]), help=how)


def packing(default: str | None, help_: str) -> Callable[[F], F]:
    """`--ask`."""
    forms = click.Choice(["per-dimension", "packed"])
    return click.option("--ask", type=forms, default=default, show_default=True, help=help_)


def dimensions_and_scale(command: F) -> F:
    """`--dimensions` and `--scale`."""
    which = "SOTOPIA-EVAL's, or some of the rubric's.  [default: goal,relationship,knowledge; all of a rubric's]"
    levels = "The highest level: 3, 5 or 10; the lowest is 0."
    scale = click.option("--scale", default=3, show_default=True, help=levels)
    return _together(click.option("--dimensions", metavar="D,…", help=which), scale)(command)


def pace(what: str, patience: str = "180; 80 for the first of all") -> Callable[[F], F]:
    """`--concurrency`, `--rpm`, `--tpm` and `--timeout` of a command that has `what` in flight; `patience` is the
    default of the last, in seconds."""
    limit = f"{what} in flight at most.  [default: the models' own]"
    longest = f"The longest wait for one answer.  [default: {patience}]"
    above = click.FloatRange(0, min_open=True)
    return _together(
        click.option("--concurrency", type=click.IntRange(1), help=limit),
        click.option("--rpm", type=above, metavar="N", help="Requests a minute at most.  [default: what 429s teach]"),
        click.option("--tpm", type=above, metavar="N", help="Tokens a minute at most, in and out."),
        click.option("--timeout", type=above, metavar="SECONDS", help=longest),
    )


def prices_option(told: str) -> Callable[[F], F]:
    """`--prices FILE`."""
    file = click.Path(dir_okay=False, path_type=Path)
    return click.option("--prices", type=file, envvar="SOTOPIA_RL_DATA_PRICES", show_envvar=True, help=told)


def costs(what: str) -> Callable[[F], F]:
    """`--dry-run`, `--budget` and `--prices` of a command that makes `what`."""
    return _together(
        click.option("--dry-run", is_flag=True, help="Say what it would ask and cost; send nothing, write no version."),
        capped(f"what {what} cost, all runs together"),
    )


def capped(what: str) -> Callable[[F], F]:
    """`--budget`, a cap on `what`, and `--prices`."""
    return _together(
        click.option("--budget", type=float, metavar="USD", help=f"A hard cap on {what}."),
        prices_option("Prices of your own, over the built-in list."),
    )


def batches(command: F) -> F:
    """`--batch`, `--poll` and `--no-wait`."""
    cheap = "Ask through the provider's batch API: half the price, within a day."
    leave = "With --batch: submit and leave. The same command again goes on."
    look = "Between looks at batches.  [default: 60]"
    return _together(
        click.option("--batch", is_flag=True, help=cheap),
        click.option("--poll", type=click.FloatRange(1), metavar="SECONDS", help=look),
        click.option("--no-wait", is_flag=True, help=leave),
    )(command)


def _shard(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Shard | None:
    from sotopia_rl_data.shards import Shard

    return None if value is None else Shard.parse(value)


def shard_option(help_: str) -> Callable[[F], F]:
    """`--shard I/N`."""
    return click.option("--shard", metavar="I/N", callback=_shard, help=help_)


def sharded(command: F) -> F:
    """`--shard` and `--ask-only`."""
    return _together(
        shard_option("Ask about part I of N of the episodes, the same share of the work each. With --ask-only."),
        click.option("--ask-only", is_flag=True, help="Ask and keep the answers; make no version."),
    )(command)


def _workers(context: click.Context, _param: click.Parameter, value: str | None) -> Workers | None:
    if value is None:
        return None
    from sotopia_rl_data.cluster.on_ray import RayWorkers

    return RayWorkers.parse(value, context.params.get("worker_gpus") or 0.0)


_ON = "Do this on the nodes of a Ray cluster: ray, or ray://HOST:10001.  [default: in this process]"
on_option = click.option("--on", "workers", metavar="RAY", callback=_workers, help=_ON)


def workers(command: F) -> F:
    """`--on` and `--worker-gpus`."""
    gpus = "With --on: the GPUs of a worker, for local models; 0.5: two share one."
    return _together(
        on_option,
        click.option("--worker-gpus", type=click.FloatRange(0), is_eager=True, metavar="N", help=gpus),
    )(command)


def _together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """One decorator for several options, listed in this order."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def is_from_file(name: str) -> bool:
    """Whether the command's option of this name was not given and has its value from the config file."""
    return click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.DEFAULT_MAP


_calls = _together(models, sampling(0), pace("Calls"), costs("these calls"), again, kept)
OF_CALLS = [str(option.name) for option in click.command()(_calls(lambda: None)).params]
"""The parameters of these options."""


def is_given(name: str) -> bool:
    """Whether the command's option of this name was given with it."""
    return click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def all_but(read: Iterable[str]) -> set[str]:
    """The parameters of the command that are not among those that are `read`."""
    return {str(option.name) for option in click.get_current_context().command.params}.difference(read)


def check_unread(unread: Container[str], why: str) -> None:
    """Raises UsageError for an option that was given with the command and is among the `unread`; `why` goes on after
    its flag."""
    for option in click.get_current_context().command.params:
        if option.name in unread and is_given(str(option.name)):
            flag = option.opts[0]
            raise UsageError(f"{flag} {why}.", f"leave {flag} out")


# --- from options to what the library takes ---------------------------------------------------------------------------


def ask_options(options: dict[str, Any]) -> AskOptions:
    """How a command asks. Takes the options above out of `options`, those that the command has. Raises UsageError."""
    from sotopia_rl_data.asking.pacing import Pacing
    from sotopia_rl_data.asking.plan import AskOptions

    limits = {"rpm": options.pop("rpm"), "tpm": options.pop("tpm"), "timeout_s": options.pop("timeout")}
    if limits["timeout_s"] is not None:
        limits["silence_s"] = max(limits["timeout_s"], Pacing().silence_s)
    batching = None
    if "batch" in options:
        batching = _batching(options.pop("batch"), options.pop("poll"), options.pop("no_wait"))
    return AskOptions(
        retry_failed=options.pop("retry_failed", False),
        concurrency=options.pop("concurrency"),
        pacing=Pacing(**{name: value for name, value in limits.items() if value is not None}),
        batching=batching,
        budget=options.pop("budget"),
        prices=options.pop("prices"),
        model_prices=options["named"].prices if options["named"] else {},
        ledger=options.pop("ledger"),
        workers=workers_of(options),
    )


def workers_of(options: dict[str, Any]) -> Workers | None:
    """The workers that ask. Raises UsageError."""
    found: Workers | None = options.pop("workers", None)
    if options.pop("worker_gpus", None) is not None and found is None:
        raise UsageError("--worker-gpus applies only to workers, and --on is missing.", "add --on ray")
    return found


def shard_to_ask(options: dict[str, Any], dry_run: bool) -> Shard | None:
    """The part that is only to be asked about; None where it is everything, for a version. Takes the options that say
    so out of `options`. Raises UsageError."""
    from sotopia_rl_data.shards import WHOLE

    shard, ask_only = options.pop("shard"), options.pop("ask_only")
    if shard is not None and not ask_only and not dry_run:
        raise UsageError(
            "A shard makes no version: it asks its part of the questions, and the answers go into the ledger.",
            "add --ask-only; when all shards are done, merge their ledgers and run the command without --shard and "
            "--ask-only; to merge: sotopia-rl-data ledger merge --help",
        )
    return shard or (WHOLE if ask_only else None)


def _batching(batch: bool, poll: float | None, no_wait: bool) -> Batching | None:
    """How to wait for batches; None without `--batch`."""
    from sotopia_rl_data.asking.plan import Batching

    if not batch and (no_wait or poll is not None):
        option = "--no-wait" if no_wait else "--poll"
        raise UsageError(f"{option} applies only to batches, and --batch is missing.", f"add --batch, or omit {option}")
    if not batch:
        return None
    return Batching(wait=not no_wait) if poll is None else Batching(poll_s=poll, wait=not no_wait)


def model_of(spec: str, options: dict[str, Any]) -> str | ModelName:
    """What `spec` stands for: a model of the judges file, a model with the key that `--key` names for its server, or
    itself. Raises UsageError."""
    from sotopia_rl_data import plugins
    from sotopia_rl_data.asking.providers import parse_model, server_of

    named = options["named"].models.get(spec) if options["named"] else None
    model = named or (None if plugins.is_file(spec) else parse_model(spec))
    if model is None:
        return spec
    key = options["keys"].get(server_of(model))
    return replace(model, key=key) if key else named or spec


def sampling_of(options: dict[str, Any]) -> dict[str, Any] | None:
    """The sampling parameters that override the models' defaults; None where none is set. Takes their options out of
    `options`. Raises UsageError."""
    from sotopia_rl_data.asking.extra import extra_of

    temperature, max_tokens = options.pop("temperature"), options.pop("max_tokens")
    if temperature is not None and not 0 <= temperature < math.inf:
        raise UsageError(
            f"The temperature is {temperature:g}, but must be 0 or more.", "give, for example, --temperature 0"
        )
    parameters = {"temperature": temperature, "max_tokens": max_tokens}
    given = {name: value for name, value in parameters.items() if value is not None}
    return given | extra_of(options.pop("extra")) or None


def elicitation_of(options: dict[str, Any]) -> Elicitation:
    """What a command asks of its judges. Takes the options that say so out of `options`. Raises UsageError."""
    from sotopia_rl_data.labelers.plan import Elicitation

    return Elicitation(
        judges=[model_of(spec, options) for spec in options.pop("judges")],
        schema=options.pop("schema", None),
        scale=options.pop("scale", None),
        evaluator=options.pop("evaluator", None),
        samples=options.pop("samples", 1),
        only=options.pop("only", None),
        dimensions=listed(options.pop("dimensions")),
        packing=options.pop("ask", None),
        sampling=sampling_of(options),
        wording=options.pop("wording", None),
    )


def listed(text: str | None) -> list[str] | None:
    """The parts of a list with commas, such as `goal,relationship`; None where the option is not given."""
    return [part.strip() for part in text.split(",") if part.strip()] if text else None


# --- running ----------------------------------------------------------------------------------------------------------


@contextmanager
def progress(doing: str, unit: str, options: AskOptions, as_json: bool) -> Iterator[AskOptions]:
    """The options with a bar that shows how far the run inside the block is. A run that leaves batches under way says
    so and ends the command."""
    try:
        with console.progress(doing, unit) as advance:
            yield replace(options, progress=advance)
    except UnderWay as pending:
        if as_json:
            console.emit_json({"under_way": {"requests": pending.requests, "batches": pending.batches}})
        else:
            console.note(f"{pending.message} Next: {pending.hint}.")
        raise click.exceptions.Exit(console.DONE) from pending


def announce(told: Coverage | OtherWording) -> None:
    """Say what is to be known before anything is asked."""
    console.note(told.sentence)


def ask_only(doing: str, unit: str, options: AskOptions, as_json: bool, ask: Callable[..., AskedReport]) -> None:
    """Have `ask`, which takes `options`, ask and make no version; show what it reports."""
    with progress(doing, unit, options, as_json) as watched:
        asked = ask(options=watched)
    show(asked, _show_asked, as_json)


def show(report: Report, on_screen: Callable[[Report], None], as_json: bool) -> None:
    """Show a command's report; the exit code is 3 where some of it failed, or some records of a file were rejected."""
    if as_json:
        console.emit_json(report.as_dict())
    else:
        on_screen(report)
    rejected: int = getattr(report, "rejected", 0)
    if report.failures or rejected:
        click.get_current_context().exit(console.WITH_FAILURES)


def dry_run(options: AskOptions, unit: str, estimate: Callable[[AskOptions], Estimate], as_json: bool) -> None:
    """Say what a run would ask and cost."""
    with console.progress("counting", unit) as advance:
        forecast = estimate(replace(options, progress=advance))
    if as_json:
        console.emit_json(forecast.as_dict())
    else:
        show_estimate(forecast, options.batching is not None)


# --- showing ----------------------------------------------------------------------------------------------------------


def show_run(title: str, lacking: str, report: RunReport, counts: Sequence[tuple[str, Any]], *following: str) -> None:
    """A run that is done: its counts under `title`, what it cost, what has no `lacking` ("label") and why, and the
    commands that may follow."""
    state = "made" if report.created else "unchanged: the store has this content already"
    heading = f"{report.version}  {report.digest[:12]}  {state}"
    _show_asking(title, lacking, report, counts, heading)
    unusable: int = getattr(report, "unusable", 0)
    retry = []
    context = click.get_current_context()
    words = context.meta.get(console.WORDS)
    if unusable and words:
        retry = [f"sotopia-rl-data {shlex.join(_retried(context, words))}   # {unusable:,} unusable answers"]
    console.next_commands(*following, *retry)


def _show_asked(report: AskedReport) -> None:
    """A run that only asked: its counts, what it cost, what has no usable answer and why, and what makes a version of
    the answers."""
    from sotopia_rl_data.store.bucket import is_address

    heading = f"asked, and no version made: the answers are in {report.ledger}"
    counts = [("shard", report.shard), ("episodes", report.episodes)]
    _show_asking("asked", "usable answer", report, counts, heading)
    is_part = report.shard != "1/1"
    # not the store's own, in which the whole command looks, nor one that all machines share
    if Path(report.ledger).name != ".ledger" and not is_address(report.ledger):
        others = "   # with the ledgers of the other shards" if is_part else ""
        console.next_commands(f"sotopia-rl-data ledger merge {shlex.quote(report.ledger)}{others}")
    console.note(
        "When all shards are done, the same command without --shard and --ask-only makes the version."
        if is_part
        else "The same command without --ask-only makes the version."
    )


def _show_asking(
    title: str, lacking: str, report: AskingReport, counts: Sequence[tuple[str, Any]], heading: str
) -> None:
    """The counts of a run that asked, its bill, its failures and warnings."""
    rows = [*counts, ("calls", report.calls), ("asked", report.asked), ("hits", report.hits)]
    rare = {
        "repeated (equal to other calls, asked once)": report.repeated,
        "unreachable": report.unreachable,
        "repaired": getattr(report, "repaired", 0),
        "unusable": getattr(report, "unusable", 0),
    }
    rows += [(name, count) for name, count in rare.items() if count] + [("seconds", report.seconds)]
    console.table([title, ""], rows, title=heading)
    show_bill(report.bill)
    if report.failures:
        console.table([f"what has no {lacking}", "rows"], list(report.failures.items()))
    for warning in report.warnings:
        console.warn(warning)


def _retried(context: click.Context, words: Sequence[str]) -> list[str]:
    """The words of this command with --retry-failed, and without --version, whose number this run has taken."""
    options = [option for option in context.command.params if isinstance(option, click.Option)]
    before_value = {flag for option in options if not option.is_flag for flag in option.opts}
    start = words.index(str(context.info_name)) + 1
    found, left = [*words[:start], "--retry-failed"], iter(words[start:])
    for word in left:
        if word == "--":
            found += [word, *left]
            break
        taken = [word, next(left)] if word in before_value else [word]
        if word.partition("=")[0] not in ("--version", "--retry-failed"):
            found += taken
    return found


def show_estimate(estimate: Estimate, in_batches: bool) -> None:
    """What a run would ask and cost. Nothing was sent and nothing written."""
    for sentence in getattr(estimate, "sentences", ()):
        console.note(sentence)
    names = ["calls", "hits", "in_batches", "asked"]
    if not any(line.in_batches for line in estimate.lines):
        names.remove("in_batches")
    rows = []
    for line in estimate.lines:
        tokens: list[int | str | None] = [None, None, None]
        if line.usage is not None:
            tokens = [line.usage.input, _share(line.usage.cached, line.usage.input), line.usage.output]
        rows.append([line.judge, *(getattr(line, name) for name in names), *tokens, _usd(line.cost), _usd(line.most)])
    sums = [sum(getattr(line, name) for line in estimate.lines) for name in names]
    if len(rows) > 1:
        rows.append(["total", *sums, None, None, None, _usd(estimate.total), _usd(estimate.most)])
    columns = ["judge or policy", *(name.replace("_", " ") for name in names)]
    columns += ["tokens in", "of these cached", "tokens out", "USD", "at most"]
    by = " in batches" if in_batches else ""
    console.table(columns, rows, title=f"What this run would cost, at the prices of {estimate.as_of}{by}")
    for note in _notes(estimate, in_batches):
        console.note(note)


def _notes(estimate: Estimate, in_batches: bool) -> Iterator[str]:
    """What a reader of the estimate must know."""
    yield "Nothing was asked, and no version written. Second tries at unusable answers are not counted."
    if any(line.hits for line in estimate.lines):
        yield "Hits: answers that the ledger has, which cost nothing."
    if estimate.most:
        yield "At most: what it costs if nothing is read from a cache and every answer is as long as it may be."
    most_calls, episodes = getattr(estimate, "most_calls", 0), getattr(estimate, "episodes", 0)
    if most_calls:
        yield (
            f"How long a dialogue gets is a guess: {most_calls:,} calls if each of the {episodes:,} episodes "
            "goes to the turn limit."
        )
    if in_batches and estimate.most:
        yield (
            f"Where a --budget leaves less than {_usd(estimate.most)} USD for these calls, beside what is spent and "
            "under way, they go in several rounds of batches. A --max-tokens close to what an answer takes lets more "
            "of them go at once."
        )
    if any(line.asked and line.cost is None for line in estimate.lines):
        yield "A model without a known price: give its prices in a file with --prices."
    if not most_calls and any(line.asked and line.usage is not None and not line.measured for line in estimate.lines):
        yield (
            "Tokens are counted roughly (4 bytes in, 2 out), without what a model thinks before it answers. Once some "
            "questions are answered (--only), the count is scaled by what those answers took."
        )


def show_bill(bill: Bill) -> None:
    """What the labels cost, all runs together. Nothing where no judge used tokens."""
    used = [line for line in bill.lines if line.usage.input or line.usage.output or _doubtful(line)]
    if not used:
        return
    rows = [
        [
            line.judge,
            line.calls,
            line.usage.input,
            line.usage.cached,
            line.usage.output,
            *map(_usd, (line.input, line.cached, line.written, line.output, line.failed, line.repaired, line.total)),
        ]
        for line in used
    ]
    columns = ["judge", "calls", "tokens in", "cached", "out", "USD in", "USD cached", "USD written", "USD out"]
    columns += ["USD of failed", "USD of repaired", "USD in all"]
    total = "" if bill.total is None else f": {_usd(bill.total)} USD"
    console.table(columns, rows, title=f"the bill, all runs together, at the prices of {bill.as_of}{total}")
    doubtful = sum(_doubtful(line) for line in used)
    if doubtful:
        console.note(
            f"{doubtful:,} calls brought no tokens (timeouts, lost connections): up to {_usd(bill.maybe)} USD more."
        )


def _doubtful(line: BillLine) -> int:
    """Calls that may have cost something though no answer came. None where the judge costs nothing."""
    return line.maybe_calls if line.maybe else 0


def _usd(value: float | None) -> str | None:
    """Money to a hundredth of a cent, or to three digits where it is less."""
    if value is None:
        return None
    return f"{value:,.4f}" if value >= 0.01 or value == 0 else f"{value:.3g}"


def _share(part: int, whole: int) -> str | None:
    return f"{part / whole:.0%}" if whole else None


def usual_dimensions() -> set[str]:
    """Those that `label` weighs where nothing else is said."""
    from sotopia_rl_data.labelers.plan import DEFAULT_PRESET
    from sotopia_rl_data.rewards.recipe import preset

    return set(preset(DEFAULT_PRESET).weights)


def weights_option(scored: Collection[str] | None) -> str:
    """What `label` needs for episodes with scores on these dimensions (None: all): nothing, where the usual ones are
    among them."""
    if scored is None or usual_dimensions() <= set(scored):
        return ""
    return f" --weights {shlex.quote(','.join(f'{name}=1' for name in scored))}"
