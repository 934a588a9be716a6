"""The part of a dataset card that says where a version comes from: what its manifest knows, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sotopia_rl_data.cards.markdown import cell, code, count, plain, table
from sotopia_rl_data.schema import Manifest

_REASONS = 10
_FITTED = ("low", "high", "mean", "deviation", "count")


def provenance(manifest: Manifest) -> str:
    """Parents, sources, judges, wording, rewards, failures: each where the manifest knows it."""
    known, recipe = manifest.provenance, manifest.recipe
    facts = [
        *origin(known),
        *rollout(recipe.get("rollout"), known),
        *labels(recipe.get("labels"), recipe, known),
        *_prompts(recipe),
        *rewards(recipe),
    ]
    if "seed" in recipe:
        facts.append(
            "Splits: by a hash of the environment (seed "
            f"{recipe['seed']}), so that no environment is in two of them, and an appended one moves none."
        )
    facts += _remarks(known)
    parts = ["\n".join(f"- {fact}" for fact in facts), *_tables(manifest)]
    return "\n\n".join(part for part in parts if part) or "The manifest names no source."


def origin(known: Mapping[str, Any]) -> Iterator[str]:
    for parent in known.get("parents", []):
        yield f"Made from {code(parent['name'])} {plain(parent['version'])}, digest {code(parent['digest'][:16])}."
    for source in known.get("sources", []):
        names = ", ".join(code(name) for name in source.get("names", [])[:3])
        more = " …" if source["files"] > 3 else ""
        yield (
            f"Imported from {count(source['files'], 'file')} of the format {plain(source['format'])} "
            f"({count(source['bytes'], 'byte')}): {names}{more}."
        )
    if known.get("where"):
        yield f"Only those that satisfy {code(known['where'])}."
    if known.get("dialects"):
        dialects = ", ".join(f"{plain(name)} ({number:,})" for name, number in known["dialects"].items())
        yield f"Message dialects: {dialects}."


def rollout(played: Mapping[str, Any] | None, known: Mapping[str, Any]) -> Iterator[str]:
    """Which policies played each other, by which rules, and how episodes ended."""
    if not played:
        return
    a, b = (f"{code(policy['model'])}{_sampled(policy)}" for policy in (played["a"], played["b"]))
    places = ", in each other's place too" if played["swap"] else ""
    often = f", {count(played['repeat'], 'time')} each" if played["repeat"] > 1 else ""
    yield f"Self-play: {a} against {b}{places}{often}."
    turns = count(played["turns"], "turn")
    yield f"Rules: the sotopia library's dialect {code(played['dialect'])}, at most {turns}; seed {played['seed']}."
    yield from _prompts({"layout": played["prompts"]})
    if "best_of" in played:
        scorer = code(played["reward_model"])
        yield f"Of {played['best_of']} drafts a turn, the one that {scorer} scored highest was kept."
    if known.get("ended"):
        yield "Why episodes ended: " + ", ".join(f"{plain(why)} ({n:,})" for why, n in known["ended"].items()) + "."


def _sampled(policy: Mapping[str, Any]) -> str:
    """The temperature that a policy was sampled at, where one was set."""
    temperature = policy["sampling"].get("temperature")
    return "" if temperature is None else f" at temperature {temperature:g}"


def labels(labels: Mapping[str, Any] | None, recipe: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    if not labels:
        return
    dimensions = ", ".join(plain(d) for d in labels.get("dimensions", []))
    wording = ""
    if labels.get("judges"):
        levels = ""
        if "scale" in recipe and "rubric" not in known:
            rates_importance = (recipe.get("rewards") or {}).get("rule") in ("direct", "scaled")
            levels = f", {'importance in levels' if rates_importance else 'levels'} 0 to {recipe['scale']}"
        samples = labels.get("samples", 1)
        often = f", {samples} times" if samples > 1 else ""
        shown = f", episodes shown in the wording {code(labels['wording'])}" if labels.get("wording") else ""
        wording = f", asked {plain(labels.get('ask', ''))}{often}{levels}{shown}"
    schema = f"{code(labels['schema'])} version {labels.get('schema_version', 1)}"
    yield f"Attribution schema {schema} on {dimensions}{wording}."
    for criterion in known.get("rubric", {}).get("dimensions", ()):
        low, high = criterion.get("ends") or (0, recipe.get("scale", "the highest level"))
        yield f"{code(criterion['name'])}, {low} to {high}: {plain(criterion['description'])}"
    if labels.get("evaluator"):
        yield f"Episode scores: those of the evaluator {code(labels['evaluator'])}."
    if known.get("wording_sha256"):
        yield f"The judges' wording has the SHA-256 {code(known['wording_sha256'])}."


def _prompts(recipe: Mapping[str, Any]) -> Iterator[str]:
    layout = recipe.get("layout")
    if isinstance(layout, Mapping):
        template, sha256 = layout.get("template"), layout.get("sha256")
        by = f" by the template {code(template)}" if template else ""
        digest = f", SHA-256 {code(sha256)}" if sha256 else ""
        yield f"Prompts: layout {code(layout['layout'])}{by}{digest}."


def rewards(recipe: Mapping[str, Any]) -> Iterator[str]:
    rewards = recipe.get("rewards")
    if isinstance(rewards, Mapping):
        weights = ", ".join(f"{plain(d)} × {w:g}" for d, w in rewards.get("weights", {}).items() if w)
        gamma = f" with γ = {rewards['gamma']:g}" if "gamma" in rewards else ""
        fitted = "the rows of all splits" if rewards.get("fit") == "all" else "the train split"
        times = ", times ten" if rewards.get("units") == "0-10" else ""
        yield (
            f"Rewards: rule {code(rewards['rule'])}{gamma}, each dimension normalised by {code(rewards['normaliser'])} "
            f"fitted on {fitted}, then the weighted mean of {weights}{times}."
        )


def _remarks(known: Mapping[str, Any]) -> Iterator[str]:
    """The judges' remarks (that one is a baseline, for instance), models and forms that were not as asked for, the
    verdict of a bias audit, and where every call is kept."""
    for judge in known.get("judges", []):
        remark = judge.get("remark")
        if remark:
            yield f"{plain(remark[:1].upper() + remark[1:])}."
        if sum(bool(name) for name in (judge.get("returned_models") or {})) > 1:
            yield f"More than one model answered for the judge {code(judge['judge'])}; see the table."
        for form in judge.get("forms") or {}:
            yield f"The judge {code(judge['judge'])} was asked with {plain(form)}."
    verdict = known.get("audit")
    if isinstance(verdict, Mapping):
        yield f"Bias audit: {plain(verdict['verdict'])}. {plain(verdict['sentence'])}"
    for file in known.get("ledger", []):
        yield f"Every call behind the labels, without addresses and keys: {code(file['path'])}."


def _tables(manifest: Manifest) -> Iterator[str]:
    known = manifest.provenance
    if known.get("judges"):
        yield table(
            ["judge", "calls", "models that answered", "tokens in", "cached", "tokens out", "cost"],
            [_judge(judge) for judge in known["judges"]],
        )
    rewards = known.get("rewards", {})
    fitted: Mapping[str, Mapping[str, Any]] = rewards.get("statistics", {}) if isinstance(rewards, Mapping) else {}
    if fitted:
        used = [name for name in _FITTED if any(name in values for values in fitted.values())]
        yield table(
            ["dimension", "normaliser", *used, "from"],
            [
                [dimension, values.get("normaliser"), *(values.get(name) for name in used), values.get("source")]
                for dimension, values in fitted.items()
            ],
        )
    if known.get("failures"):
        listed = sorted(known["failures"].items(), key=lambda item: (-item[1], item[0]))
        yield table(["what has no label", "how often"], listed[:_REASONS])


def _judge(judge: Mapping[str, Any]) -> list[Any]:
    usage = judge.get("usage") or {}
    models = ", ".join(f"{name} ({number:,})" for name, number in (judge.get("returned_models") or {}).items())
    cost = judge.get("cost_usd")
    return [
        judge["judge"],
        judge.get("calls"),
        models or None,
        usage.get("input"),
        usage.get("cached"),
        usage.get("output"),
        None if cost is None else f"{cell(float(cost))} USD",
    ]
