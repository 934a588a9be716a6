"""Commands that tell from stored rows how far labels can be trusted: agreement, report, curate."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import console
from sotopia_rl_data.cli.asking import usual_dimensions
from sotopia_rl_data.hub.resolve import resolve

if TYPE_CHECKING:
    from sotopia_rl_data.agreement import Agreement
    from sotopia_rl_data.agreement.measure import Figure
    from sotopia_rl_data.store import Store, Version

_MEASURES = ("pearson", "spearman", "kendall", "kappa", "alpha", "pair_accuracy", "mean_difference")
_SPARE = ("kendall", "spearman", "pair_accuracy", "kappa", "mean_difference", "alpha", "labels")
"""What a narrow screen can do without, the first to go first."""
_MOST_PAIRS = 24  # lines of pairs and dimensions
_SHORT = {"pair_accuracy": "pairs", "mean_difference": "difference"}


def _dimensions_option(command: console.F) -> console.F:
    return click.option("--dimensions", metavar="D,…", help="Only these.  [default: all]")(command)


def _dimensions(text: str | None) -> list[str] | None:
    """Full names of SOTOPIA-EVAL's dimensions, from any spelling; other names (of a rubric, a reward) unchanged."""
    from sotopia_rl_data.dimensions import SOTOPIA_EVAL

    known = {name.lower(): one.name for one in SOTOPIA_EVAL for name in (one.name, one.short)}
    names = [part.strip() for part in text.split(",")] if text else []
    return [known.get(name.lower(), name) for name in names if name] or None


@click.command()
@console.refs_argument()
@click.option(
    "--of",
    type=click.Choice(["attributions", "rewards"]),
    default="attributions",
    show_default=True,
    help="Compare what judges said, or what each version made of it.",
)
@_dimensions_option
@click.option(
    "--measure", type=click.Choice(_MEASURES), default="pearson", show_default=True, help="Of the matrix and the plot."
)
@click.option("--outcome", metavar="COLUMN", help="Compare with how dialogues came out: a score, or a number kept.")
@click.option("--annotation", metavar="COLUMN", help="Compare with a number that is kept of each turn.")
@click.option("--against", metavar="NAME", help="List only the pairs with this opinion, or with this judge's.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the matrix: FILE.png, .svg or .pdf."
)
@click.option(
    "--resamples", type=click.IntRange(0), default=1000, show_default=True, help="Of episodes; 0: no intervals."
)
@click.option("--seed", default=0, show_default=True, help="Of the resampling.")
@console.wide_option
@console.store_option
@console.json_option
def agreement(
    refs: tuple[str, ...],
    of: Any,
    dimensions: str | None,
    measure: str,
    outcome: str | None,
    annotation: str | None,
    against: str | None,
    plot: Path | None,
    resamples: int,
    seed: int,
    wide: bool,
    store: Store,
    as_json: bool,
) -> None:
    """How far opinions agree: judges, samples, schemas, people, reward models, versions. Calls no model.

    An opinion is a (judge, sample, schema) of a REF; scores of whole episodes (`evaluate`) are not read.
    Every figure has a 95 % interval from resampled episodes, and is given for each dimension and overall.

    \b
    Examples:
      sotopia-rl-data agreement lab/episodes-rewards --plot agreement.png
      sotopia-rl-data agreement lab/by-gpt lab/by-people --against human --json
      sotopia-rl-data agreement lab/run@v1.0.0 lab/run@v1.1.0 --of rewards
      sotopia-rl-data agreement lab/calls-rewards --outcome solved
    """
    from sotopia_rl_data.agreement import agreement as measured
    from sotopia_rl_data.errors import UsageError

    result = measured(
        [resolve(store, ref) for ref in dict.fromkeys(refs)],
        dimensions=_dimensions(dimensions),
        of=of,
        resamples=resamples,
        seed=seed,
        outcome=outcome,
        annotation=annotation,
    )
    others = {opinion.name for opinion in result.opinions if against in (None, opinion.name, opinion.judge)}
    if not others:
        raise UsageError(
            f"The versions have no opinion {against!r} to compare against.",
            f"name one of: {', '.join(shlex.quote(opinion.name) for opinion in result.opinions)}",
        )
    if plot is not None:
        from sotopia_rl_data.agreement.plot import plot as draw

        draw(result, plot, measure)
    if as_json:
        fields = result.as_dict()
        fields["pairs"] = [pair for pair in fields["pairs"] if others & {pair["a"], pair["b"]}]
        console.emit_json(fields)
    else:
        _show_agreement(result, measure, others, wide)
        if plot is not None:
            console.note(f"drawn: {plot}")
        if of == "attributions" and outcome is annotation is None:
            console.next_commands(f"sotopia-rl-data curate {shlex.join(refs)} -o disputed.csv")


def _show_agreement(result: Agreement, measure: str, others: Set[str], wide: bool) -> None:
    """The figures of every pair with one of `others`."""
    from sotopia_rl_data.agreement import OVERALL

    names = [opinion.name for opinion in result.opinions]
    numbers = {name: str(number) for number, name in enumerate(names, 1)}
    console.table(
        ["opinion", "labels", "mean", "sd"],
        [[f"{numbers[o.name]}  {o.name}", o.units, o.mean, o.sd] for o in result.opinions],
        title=", ".join(result.refs),
    )
    pairs = [pair for pair in result.pairs if others & {pair.a, pair.b}]
    if len(names) > 2 and len(others) == len(names):
        matrix = result.matrix(measure)
        rows = [
            [numbers[a], *("" if a == b else value for b, value in zip(names, row, strict=True))]
            for a, row in zip(names, matrix, strict=True)
        ]
        console.table([f"{measure}, {OVERALL}", *numbers.values()], rows)
    parts = Counter((pair.a, pair.b) for pair in pairs)
    # over one dimension, the overall figures are that dimension's
    pairs = [pair for pair in pairs if pair.dimension != OVERALL or parts[pair.a, pair.b] > 2]
    if len(pairs) > _MOST_PAIRS and not wide:
        pairs = [pair for pair in pairs if pair.dimension == OVERALL or parts[pair.a, pair.b] == 2]
        console.note("overall; each dimension: with --wide, or --dimensions")
    rows = [
        [numbers[pair.a], numbers[pair.b], pair.dimension, pair.units, *(_figure(pair.figures[m]) for m in _MEASURES)]
        for pair in pairs
    ]
    shown = console.table(
        ["a", "b", "dimension", "labels", *(_SHORT.get(name, name) for name in _MEASURES)],
        rows,
        spare=() if wide else [_SHORT.get(name, name) for name in _SPARE if name != measure],
    )
    if len(names) > 2:
        together = [one for one in result.together if len(result.dimensions) > 1 or one.dimension != OVERALL]
        console.table(
            ["all opinions together", "labels", "alpha"],
            [[one.dimension, one.units, _figure(one.alpha)] for one in together],
        )
    units = "reward"
    if result.scale:
        units = "levels"
    elif any(opinion.judge for opinion in result.opinions):
        units = "shares of each scale"
    if result.ranges:
        units = f"levels on {', '.join(result.ranges)}, else in {units}"
    signs = []
    if "pairs" in shown:
        signs.append("pairs: of two utterances of an episode, how often a and b put the same one first")
    if "difference" in shown:
        signs.append(f"difference: a − b, in {units}")
    if any(figure.low is not None for pair in pairs for figure in pair.figures.values()):
        signs.append(f"in brackets: {result.level:.0%} intervals from {result.resamples:,} draws of episodes")
    if signs:
        console.note("; ".join(signs))


def _figure(figure: Figure) -> str | None:
    """A value with its interval, as 0.78 [.74 .81]."""
    if figure.value is None:
        return None
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3f}"
    low, high = (f"{limit:.2f}".replace("0.", ".", 1) for limit in (figure.low, figure.high))
    return f"{figure.value:.2f} [{low} {high}]"


@click.command()
@console.refs_argument()
@console.output_option("The CSV to write.")
@click.option("--top", type=click.IntRange(1), default=100, show_default=True, help="How many lines.")
@click.option(
    "--by",
    type=click.Choice(["utterance", "episode"]),
    default="utterance",
    show_default=True,
    help="Rank labels one by one, or episodes by the mean of theirs.",
)
@_dimensions_option
@console.store_option
@console.json_option
def curate(
    refs: tuple[str, ...],
    output: Path,
    top: int,
    by: Any,
    dimensions: str | None,
    store: Store,
    as_json: bool,
) -> None:
    """Where to spend the next dollar: what opinions disagree about most, as a list that goes back into labelling.

    \b
    Examples:
      sotopia-rl-data curate lab/episodes-rewards -o disputed.csv --top 200
      sotopia-rl-data label lab/episodes --only disputed.csv --judge gpt-4o
      sotopia-rl-data annotate template lab/episodes --only disputed.csv -o annotations.csv
    """
    from sotopia_rl_data.curate import curate as disputed
    from sotopia_rl_data.curate import write_list

    versions = [resolve(store, ref) for ref in dict.fromkeys(refs)]
    rows = disputed(versions, top=top, by=by, dimensions=_dimensions(dimensions))
    write_list(rows, output)
    if as_json:
        console.emit_json({"file": str(output), "rows": len(rows), "widest": rows[0].spread if rows else None})
        return
    if not rows:
        console.note(f"All opinions agree on everything, so {output} has only its header.")
        return
    console.table(
        ["episode", "agent", "turn", "dimension", "why", "spread"],
        [[row.episode_id, row.agent, row.turn, row.dimension, row.why, row.spread] for row in rows[:10]],
        title=f"{output}: {len(rows):,} lines, the widest disagreement first",
    )
    parents = versions[0].manifest.provenance.get("parents") or [{"name": versions[0].name}]
    evaluator, weights = _labelled_with(versions[0])
    only = f"{parents[0]['name']} --only {shlex.quote(str(output))}{evaluator}"
    weighed = shlex.quote(",".join(f"{name}={weight}" for name, weight in weights.items()))
    asked = shlex.quote(",".join(weights))
    console.next_commands(
        f"sotopia-rl-data label {only}{f' --weights {weighed}' if weights else ''} --judge gpt-4o",
        f"sotopia-rl-data annotate template {only}{f' --dimensions {asked}' if weights else ''} -o annotations.csv",
    )


def _labelled_with(version: Version) -> tuple[str, dict[str, Any]]:
    """What a version was labelled with: the option that names whose scores, and the weights, if not the usual ones."""
    recipe = version.manifest.recipe
    labels, rewards = (recipe[name] if isinstance(recipe.get(name), dict) else {} for name in ("labels", "rewards"))
    evaluator, weights = labels.get("evaluator"), rewards.get("weights")
    usual = not isinstance(weights, dict) or weights.keys() == usual_dimensions()
    return f" --evaluator {shlex.quote(str(evaluator))}" if evaluator else "", {} if usual else weights


@click.command()
@console.ref_argument("ref")
@console.output_option("The HTML to write.")
@click.option(
    "--utterances",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    help="Shown at most, in whole episodes drawn at random.",
)
@click.option("--seed", default=0, show_default=True, help="Of the drawing.")
@console.store_option
@console.json_option
def report(ref: str, output: Path, utterances: int, seed: int, store: Store, as_json: bool) -> None:
    """One self-contained page to look at: distributions, agreement, failures, cost, every dialogue in colour.

    It opens from disk and loads nothing. Filters by environment, agent, reward, disagreement and words move every
    picture; a click on an utterance shows what each opinion said.

    \b
    Example:
      sotopia-rl-data report demo/episodes-rewards -o report.html
    """
    from sotopia_rl_data.report import write_report

    version = resolve(store, ref)
    counts = write_report(version, output, utterances=utterances, seed=seed)
    if as_json:
        console.emit_json({"file": str(output), "version": version.ref, **counts})
        return
    console.table(["report", "count"], list(counts.items()), title=f"{version.ref} -> {output}")
