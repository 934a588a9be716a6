"""What a report about credit should say, filled in from what a bench knows.

After what the survey of credit assignment (Zhang, arXiv 2604.09459) and its guide to methods ask for, in our own words
and for credit to utterances. What a bench cannot know is "not measured here".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sotopia_rl_data.agreement.opinions import REWARD_MODEL
from sotopia_rl_data.credit.bench import COUNTERFACTUAL, PLAYED, SHAPLEY, Bench, BenchLine
from sotopia_rl_data.store import Version


class Point(NamedTuple):
    """What should be reported, and what is known of it."""

    question: str
    answer: str


def checklist(bench: Bench, games: Version, labels: Sequence[Version] = ()) -> list[Point]:
    """The points, in order. `games` and `labels` are the versions that the bench was about."""
    lines = [line for line in bench.lines if line.method.judge not in bench.planted]
    return [
        *_claim(lines),
        *_setting(bench, games),
        *_comparisons(bench, lines),
        *_uncertainty(bench, lines),
        Point("Versions", ", ".join(f"{one.ref} ({one.digest[:12]})" for one in (games, *labels))),
        Point("How judges were asked", "; ".join(filter(None, map(_asked, labels))) or "nobody was asked"),
        Point("Whether training on it helps", "not measured here: train on it, and compare the policies"),
        Point(
            "Whether it holds for other dialogues",
            "not measured here: moves are scripted and their words are made; for people's dialogues see `agreement "
            "--outcome`",
        ),
    ]


def markdown(points: Sequence[Point]) -> str:
    """The points as a list in Markdown."""
    return "\n".join(f"- **{point.question}**: {point.answer}." for point in points)


def _claim(lines: Sequence[BenchLine]) -> Iterator[Point]:
    played = sorted({line.method.schema for line in lines if line.method.schema in PLAYED})
    yield Point(
        "What credit is measured against",
        "Q − V of what was said, in points of its agent's score, with what the agent knew, under the policies that "
        "played the games"
        + ("; counterfactual credit against Q − V with all that is true" if COUNTERFACTUAL in played else "")
        + ("; Shapley values against the true ones" if SHAPLEY in played else "")
        + "; the truth comes from dynamic programming",
    )
    yield Point("What gets credit", "each utterance, among those of the same agent in the same dialogue")
    models = sorted({line.method.judge for line in lines if line.method.schema == REWARD_MODEL})
    asked = {line.method.judge for line in lines if line.method.schema not in PLAYED}
    judges = sorted(asked - {"", *models})
    kinds = [
        ("opinions, which need not be causes", judges),
        ("differences that playing anew makes, which are causes under the named policy", played),
        ("predictions", models),
        ("rules on the score alone", sorted({line.method.rule for line in lines if not line.method.judge})),
    ]
    yield Point("What kind of claim it is", "; ".join(f"{kind}: {', '.join(who)}" for kind, who in kinds if who))
    needs = "a dialogue and its score, and no state to go back to"
    yield Point(
        "What it needs", needs + (f"; {', '.join(played)}: dialogues that can be played anew" if played else "")
    )


def _setting(bench: Bench, games: Version) -> Iterator[Point]:
    made = games.manifest.recipe.get("games", {})
    yield Point(
        "The tasks",
        f"{bench.episodes:,} scripted dialogue games (haggling, errands) of 4 to 20 turns, {bench.utterances:,} "
        f"utterances, seed {made.get('seed', 'unknown')}, rules {made.get('rules', 'unknown')}; with chance, secrets "
        "and known shares of mistakes; each agent's pivotal turn is known",
    )


def _comparisons(bench: Bench, lines: Sequence[BenchLine]) -> Iterator[Point]:
    costs = {(one.method.schema, one.method.judge, one.method.labels): one.method for one in lines if one.method.judge}
    told = [
        f"{schema} by {judge}: {_number(method.calls)} calls"
        + ("" if method.calls is None else f" ({method.calls / bench.episodes:,.1f} a dialogue)")
        + f", {_number(method.usd)} USD ({ref})"
        for (schema, judge, ref), method in sorted(costs.items())
    ]
    told.append("methods are not held to equal calls")
    yield Point("What it costs", "; ".join(told) if costs else "nothing: no judge was asked")
    rules = [line.method.rule for line in lines if not line.method.judge]
    yield Point("Baselines", f"the score shared out without a judge, at no call: {', '.join(rules)}")
    yield Point("The bound", "an oracle that answers the same schema, on the same scale, under the same rule")
    yield Point(
        "What could have shown it wrong",
        f"judges with planted faults: {', '.join(bench.planted)}"
        if bench.planted
        else "not measured: `credit bench --planted all`",
    )


def _uncertainty(bench: Bench, lines: Sequence[BenchLine]) -> Iterator[Point]:
    yield Point(
        "Uncertainty",
        f"95 % intervals of {bench.resamples:,} resamples of whole dialogues, seed {bench.seed}"
        if bench.resamples
        else "not measured: --resamples is 0",
    )
    constant = max((line.nearness.constant for line in lines), default=0)
    missing = [line for line in lines if line.nearness.answered < bench.utterances]
    yield Point(
        "What is left out",
        f"{constant:,} agents whose turns are all worth the same; of utterances that a method gave no credit: "
        + ("; ".join(f"{bench.utterances - one.nearness.answered:,} by {_name(one)}" for one in missing) or "none"),
    )
    leaning = [f"{_name(line)}: {line.nearness.leans_on}" for line in lines if line.nearness.leans_on]
    yield Point(
        "What else explains the errors",
        f"of place, length and politeness: {'; '.join(leaning) or 'none that stands out'}",
    )


def _name(line: BenchLine) -> str:
    return " ".join(dict.fromkeys(filter(None, (line.method.schema, line.method.rule, line.method.judge))))


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.4g}"


def _asked(label: Version) -> str:
    labels = label.manifest.recipe.get("labels") or {}
    sampling = {one["judge"]: one.get("sampling") or {} for one in labels.get("judges", [])}
    judges = [f"{judge} {', '.join(f'{k} {v}' for k, v in of.items())}".strip() for judge, of in sampling.items()]
    if not judges:
        return ""
    wording = str(label.manifest.provenance.get("wording_sha256", ""))[:12]
    told = [*judges, *_replayed(label), *([f"wording {wording}"] if wording else [])]
    return f"{labels['schema']} ({labels.get('samples', 1)} × {', '.join(told)})"


def _replayed(label: Version) -> Iterator[str]:
    """Who played anew, and how much."""
    for name, value in label.manifest.recipe.get("replay", {}).items():
        if isinstance(value, dict):
            sampling = ", ".join(f"{k} {v}" for k, v in (value.get("sampling") or {}).items())
            yield f"{name} {value['model']}" + (f" ({sampling})" if sampling else "")
        elif value is not None:
            yield f"{name} {value}"
