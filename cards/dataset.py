"""The dataset card: a version's manifest and figures in, a Card out.

Nothing is guessed: what the manifest and the rows do not say is left out, and the licence is `unknown` until a person
writes it. The card holds no date and no commit of the code, so the same version has the same card.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import yaml

from sotopia_rl_data.cards.croissant import croissant, responsible_ai
from sotopia_rl_data.cards.markdown import TEMPLATES, code, count, fill, plain, table
from sotopia_rl_data.cards.numbers import Numbers, draw_correlations, draw_distributions, numbers
from sotopia_rl_data.cards.provenance import provenance
from sotopia_rl_data.hub.leaks import without_paths
from sotopia_rl_data.schema import Manifest
from sotopia_rl_data.store import Version, readme
from sotopia_rl_data.store.readme import BLOCK_HERE, Card, dataset_info

REWARDS_PICTURE, CORRELATIONS_PICTURE = f"{readme.ASSETS}/rewards.png", f"{readme.ASSETS}/correlations.png"
_MEASURES = ("values", "NULL", "mean", "sd", "min", "25 %", "median", "75 %", "max")
_FEW_ENVIRONMENTS = 30
_NO_LIMITS = "None that its numbers show."
_TAGS = ("sotopia", "sotopia-rl", "social-intelligence", "dialogue", "credit-assignment", "llm-as-a-judge")


def dataset_card(version: Version, repo: str | None = None, *, credit: str = "") -> Card:
    """The card of `version`, as the dataset `repo` (None: its own name). Reads all of its rows. `credit` is a section
    in Markdown that says how right its credit is, if that is known."""
    figures = numbers(version)
    manifest = replace(version.manifest, provenance=without_paths(dict(version.manifest.provenance)))
    name = repo or manifest.name
    pictures = {}
    if figures.histograms:
        pictures[REWARDS_PICTURE] = draw_distributions(figures.histograms)
    if figures.correlations:
        pictures[CORRELATIONS_PICTURE] = draw_correlations(figures.correlations)
    infos = dataset_info(version)
    responsible = responsible_ai(manifest, figures, list(_limits(manifest, figures)))
    words = name.rpartition("/")[2].replace("-", " ").replace("_", " ").strip()
    title = words[:1].upper() + words[1:]
    return Card(
        machine=readme.machine(manifest.configs, infos),
        block=_block(manifest, figures, name, title, credit),
        front=_front(manifest, title),
        prose=fill(
            "dataset/prose.md", {"title": plain(title), "summary": _summary(manifest, figures), "block": BLOCK_HERE}
        ),
        pictures=pictures,
        croissant=croissant(
            replace(manifest, name=name),
            infos,
            _summary(manifest, figures),
            _wording(manifest),
            _citation(manifest, name, title),
            responsible,
        ),
    )


def _front(manifest: Manifest, title: str) -> dict[str, Any]:
    """The front matter that a new README begins with. From then on people edit it, and cards leave it alone."""
    judged = bool(manifest.provenance.get("judges"))
    rewards = "rewards" in manifest.configs
    return {
        "license": manifest.recipe.get("license", "unknown"),
        "language": ["en"],
        "pretty_name": title,
        "annotations_creators": ["machine-generated" if judged else "no-annotation"],
        "source_datasets": ["original"],
        "task_categories": ["text-generation", *(["reinforcement-learning"] if rewards else [])],
        "tags": [*_TAGS, *(["reward-model"] if rewards else [])],
    }


def _summary(manifest: Manifest, figures: Numbers) -> str:
    counts = figures.stats.episodes
    dialogues = count(counts["episodes"], "social dialogue") if counts else ""
    if "rewards" not in manifest.configs:
        return f"{dialogues} between agents with goals of their own, each with what every agent saw and did."
    if "rollout" in manifest.recipe:
        return (
            f"{dialogues} from self-play between agents with goals of their own, and for each of their utterances the "
            "prompt and the completion as they were served. Nothing has rewarded them yet."
        )
    if not counts:
        return "Prompts and completions from social dialogues, each with a reward."
    if "rubric" in manifest.provenance:
        what = f"what a judge finds of it by the rubric {code(manifest.provenance['rubric']['name'])}"
    else:
        what = (
            "how much of the episode's outcome a judge attributes to it, over several dimensions of social intelligence"
        )
    return f"{dialogues} between agents with goals of their own, and for each of their utterances a reward: {what}."


def _block(manifest: Manifest, figures: Numbers, name: str, title: str, credit: str) -> str:
    configs = readme.data_files(manifest.configs)
    default = next(config["config_name"] for config in configs if config.get("default"))
    pinned, split = f"datasets/{name}@{manifest.version}", next(iter(manifest.configs[default]))
    source = f"FROM 'hf://{pinned}/{default}/{split}-*.parquet'"
    query = ["SELECT count(*)", source]
    if default == "rewards" and "turn" in manifest.columns["rewards"]:
        query = ["SELECT turn, avg(reward)", source, "GROUP BY turn ORDER BY turn"]
    lines = [f'{default} = load_dataset("{name}", revision="{manifest.version}")']
    lines += [
        f'{config["config_name"]} = load_dataset("{name}", "{config["config_name"]}", revision="{manifest.version}")'
        for config in configs
        if config["config_name"] != default
    ]
    rows = sum(part.rows for splits in manifest.configs.values() for part in splits.values())
    return fill(
        "dataset/block.md",
        {
            "name": name,
            "version": manifest.version,
            "digest": manifest.digest[:16],
            "rows_said": count(rows, "row"),
            "rows": readme.rows_table(manifest),
            "configs": "\n".join(_configs(manifest, default)),
            "hf_lines": "\n".join(lines),
            "duckdb_query": "\n".join(query),
            "first_file": f"{pinned}/{manifest.configs[default][split].files[0].path}",
            "ref": f"{name}@{manifest.version}",
            "default": default,
            "provenance": provenance(manifest),
            "statistics": "\n\n".join(_statistics(figures)),
            "agreement": _agreement(figures),
            "credit": credit,
            "limits": "\n".join(f"- {limit}" for limit in _limits(manifest, figures)) or _NO_LIMITS,
            "citation": _citation(manifest, name, title),
            "papers": (TEMPLATES / "dataset/papers.bib").read_text("utf-8").strip(),
        },
    )


def _citation(manifest: Manifest, name: str, title: str) -> str:
    """How to cite the version, as BibTeX."""
    return fill(
        "dataset/citation.bib",
        {
            "key": "".join(c for c in name.rpartition("/")[2] if c.isalnum()) + manifest.version.replace(".", "_"),
            "title": title,
            "url": f"https://huggingface.co/datasets/{name}",
            "version": manifest.version,
            "digest": manifest.digest[:16],
        },
    )


def _configs(manifest: Manifest, default: str) -> Iterator[str]:
    wording = _wording(manifest)
    for config, splits in manifest.configs.items():
        note = ""
        if config == default:
            note = " (default)"
        elif not any(part.rows for part in splits.values()):
            note = " (empty)"
        yield f"- **`{config}`**{note}: {wording[config]}"


def _wording(manifest: Manifest) -> dict[str, str]:
    """What a row of each config is."""
    wording = yaml.safe_load((TEMPLATES / "dataset/configs.yaml").read_text("utf-8"))
    weights = (manifest.recipe.get("rewards") or {}).get("weights", {})
    weighted = ""
    if weights:
        weighted = f" (the weighted mean of {', '.join(plain(name) for name, weight in weights.items() if weight)})"
    kinds = {config: config for config in manifest.configs}
    if "rewards" in kinds and "episode_id" not in manifest.columns["rewards"]:
        kinds["rewards"] = "examples"
    return {config: wording[kind].replace("{weighted}", weighted) for config, kind in kinds.items()}


def _statistics(figures: Numbers) -> Iterator[str]:
    counts = figures.stats.episodes
    if counts:
        yield (
            f"{count(counts['episodes'], 'episode')} in {count(counts['environments'], 'environment')}, "
            f"{count(counts['utterances'], 'utterance')}, {count(counts['scores'], 'episode score')}."
        )
    shown = {c: of["all"] for c, of in figures.stats.columns.items() if not c.startswith("norm_") and c != "spread"}
    if shown:
        rows = [
            [code(c), d.count, d.nulls, d.mean, d.sd, d.min, d.q25, d.median, d.q75, d.max] for c, d in shown.items()
        ]
        yield table(["column", *_MEASURES], rows)
    if figures.histograms:
        yield f"![Distributions of the reward and of the normalised dimensions]({REWARDS_PICTURE})"
    if figures.correlations:
        yield "How the reward and the dimensions, before normalisation, go together (Pearson's r over utterances):"
        yield f"![Correlations of the dimensions]({CORRELATIONS_PICTURE})"
    if figures.scores:
        yield "Episode scores, as the evaluator gave them:"
        yield table(
            ["dimension", "evaluator", "scores", "mean", "min", "max"],
            [[code(s.dimension), code(s.evaluator), s.count, s.mean, s.low, s.high] for s in figures.scores],
        )


def _agreement(figures: Numbers) -> str:
    if not figures.agreement:
        return ""
    rows = [[a.dimension, a.a, a.b, a.utterances, a.pearson, a.spearman, a.difference] for a in figures.agreement]
    head = ["dimension", "judge", "judge", "utterances", "Pearson", "Spearman", "mean difference"]
    return (
        "\n## Agreement\n\nBetween the opinions on the same utterance, on the judges' own scale:\n\n"
        + table(head, rows)
        + "\n"
    )


def _limits(manifest: Manifest, figures: Numbers) -> Iterator[str]:
    """What is weak about this version, as its own numbers show."""
    reward = figures.stats.columns.get("reward", {}).get("all")
    if reward is not None and reward.nulls:
        total = reward.count + reward.nulls
        share = f"{reward.nulls / total:.1%}"
        yield f"{count(reward.nulls, 'utterance')} of {total:,} ({share}) have no reward: NULL, not zero."
    unsure = manifest.provenance.get("where_unsure")
    if isinstance(unsure, dict) and "labelled_by" in manifest.columns.get("rewards", {}):
        yield (
            f"Judges were asked where reward models were unsure: {unsure.get('judged')} of {unsure.get('rows')} "
            "rewards are theirs, and the others are predictions (`labelled_by`). A mean over all rows is right only "
            "with the correction by 1 / `chance`."
        )
    judges = manifest.provenance.get("judges", [])
    for judge in judges:
        remark = judge.get("remark", "").replace("`", "")
        if remark:
            yield f"{plain(remark[:1].upper() + remark[1:])}."
    if len(judges) == 1 and (manifest.recipe.get("labels") or {}).get("samples", 1) == 1:
        yield "One judge was asked once: nothing here says how far another would have agreed."
    rewards = manifest.provenance.get("rewards")
    for warning in rewards.get("warnings", []) if isinstance(rewards, dict) else []:
        yield plain(warning)
    counts = figures.stats.episodes
    if counts and counts["environments"] < _FEW_ENVIRONMENTS:
        yield f"Only {count(counts['environments'], 'environment')}: what holds here need not hold in other situations."
    if figures.stats.failures:
        total = sum(figures.stats.failures.values())
        yield f"{count(total, 'thing')} could not be imported or labelled; `failures` names each with its reason."
    if "rewards" in manifest.configs and "episode_id" not in manifest.columns["rewards"]:
        yield "The rows name neither episode nor speaker: utterances of one dialogue cannot be put together again."
