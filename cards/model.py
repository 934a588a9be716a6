"""The model card's skeleton: a training run's record in (`run.json`), a Card out. The trainers fill in the record.

What is known of the data is its name, version, commit and digest; the results go into the front matter's `model-index`
with the dataset's commit, so that a leaderboard knows which rows they were measured on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cards.markdown import code, fill, plain, table
from sotopia_rl_data.store.readme import BLOCK_HERE, Card

_KINDS = {
    "rm": ("A reward model", "text-classification"),
    "sft": ("A behaviour-cloned policy", "text-generation"),
    "grpo": ("A policy trained by single-turn GRPO", "text-generation"),
}
_TAGS = ("sotopia", "sotopia-rl", "social-intelligence")


def model_card(record: Mapping[str, Any], title: str) -> Card:
    """The card of a run.

    `record` has `kind` (rm, sft, grpo), `model` (what was trained from), `dataset` (name, version, digest, commit or
    None), and perhaps `rows` by split, `metrics` (split -> name -> number), `config`, `seed`, `command`.
    """
    what, task = _KINDS.get(record["kind"], ("A model", "text-generation"))
    dataset = record["dataset"]
    return Card(
        machine={
            "base_model": record["model"],
            "datasets": [dataset["name"]],
            "pipeline_tag": task,
            "library_name": "transformers",
            "model-index": _model_index(record, title, task),
        },
        block=fill(
            "model/block.md",
            {
                "dataset": _dataset(record),
                "metrics": _metrics(record),
                "settings": "\n".join(f"- {line}" for line in _settings(record)),
            },
        ),
        front={"license": "unknown", "language": ["en"], "tags": list(_TAGS)},
        prose=fill(
            "model/prose.md",
            {
                "title": plain(title),
                "summary": f"{what} for social dialogue, trained from {code(record['model'])}.",
                "block": BLOCK_HERE,
            },
        ),
    )


def _dataset(record: Mapping[str, Any]) -> str:
    dataset = record["dataset"]
    commit = f", commit {code(dataset['commit'])}" if dataset.get("commit") else ""
    said = f"{code(dataset['name'])} {plain(dataset['version'])}{commit}, digest {code(dataset['digest'][:16])}."
    rows = record.get("rows") or {}
    return said + (f"\n\n{table(list(rows), [list(rows.values())])}" if rows else "")


def _metrics(record: Mapping[str, Any]) -> str:
    metrics: Mapping[str, Mapping[str, float]] = record.get("metrics") or {}
    names = list(dict.fromkeys(name for of in metrics.values() for name in of))
    if not names:
        return "Nothing was measured."
    return table(["metric", *metrics], [[code(name), *(of.get(name) for of in metrics.values())] for name in names])


def _settings(record: Mapping[str, Any]) -> Iterator[str]:
    for name, value in (record.get("config") or {}).items():
        yield f"{code(name)}: {code(str(value))}"
    if record.get("seed") is not None:
        yield f"seed: {code(str(record['seed']))}"
    if record.get("command"):
        yield f"command: {code(record['command'])}"


def _model_index(record: Mapping[str, Any], title: str, task: str) -> list[dict[str, Any]]:
    """The results as the Hub reads them: one entry a number, with the dataset's split and revision."""
    dataset = record["dataset"]
    results = [
        {
            "task": {"type": task},
            "dataset": {
                "name": dataset["name"],
                "type": dataset["name"],
                "split": split,
                "revision": dataset.get("commit") or dataset["version"],
            },
            "metrics": [{"type": name, "value": value, "name": name} for name, value in of.items()],
        }
        for split, of in (record.get("metrics") or {}).items()
    ]
    return [{"name": title, "results": results}]
