"""The model card: a training run's record in (`run.json`), a Card out.

The data is named by name, version, commit and digest. The results go into the front matter's `model-index` with the
dataset's commit, so that a leaderboard knows which rows they were measured on. For people, each figure stands beside
its interval and its baselines. A run keeps these flat (`mse`, `mse_low`, `mse_high`, `mean_mse`, `turn_mse`), as
loggers need them; `scorecard` puts the interval and the baselines next to their metric again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sotopia_rl_data.cards.markdown import code, count, fill, plain, table
from sotopia_rl_data.store.readme import BLOCK_HERE, Card

BASELINES = {
    "mean": "train mean",
    "turn": "train mean by turn",
    "reference": "the reference",
    "length": "length alone",
}
NAMES = {
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "r2": "R²",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "pair_accuracy": "pair accuracy",
    "calibration_error": "calibration error",
    "loss": "loss",
    "accuracy": "pairs told apart",
    "margin": "margin of implicit rewards",
    "chosen_reward": "implicit reward, chosen",
    "rejected_reward": "implicit reward, rejected",
    "mean_token_accuracy": "token accuracy",
    "num_tokens": "tokens seen",
    "reward_first": "mean reward, first steps",
    "reward_last": "mean reward, last steps",
}
_KINDS = {
    "rm": ("A reward model", "text-classification"),
    "sft": ("A behaviour-cloned policy", "text-generation"),
    "dpo": ("A policy trained on preferences by DPO", "text-generation"),
    "grpo": ("A policy trained by single-turn GRPO", "text-generation"),
}
_TAGS = ("sotopia", "sotopia-rl", "social-intelligence")
# Fields that the table of settings leaves out: they do not change what is learned, or the card shows them elsewhere.
_NO_SETTING = (
    "output_dir", "store", "dataset", "model", "policy_adapter", "reward_model", "seed", "resume", "report_to", "debug",
    "disable_tqdm", "dataloader_pin_memory", "accelerator_config", "do_eval", "use_cpu", "log_level", "logging_steps",
    "save_steps", "save_strategy", "save_total_limit", "activation_checkpointing", "pad_to_multiple_of",
)  # fmt: skip


def model_card(record: Mapping[str, Any], title: str) -> Card:
    """The card of a run.

    `record` has `kind` (rm, sft, dpo, grpo), `model` (the base model), `dataset` (name, version, digest, commit or
    None), and may have `rows` and `pairs` by split, `dropped` and `cut`, `metrics` (split -> name -> number), `best`,
    `head`, `reward_model`, `policy_adapter`, `config`, `seed`, `packages`, `command`, `release`, `merged`.
    """
    what, task = _KINDS.get(record["kind"], ("A model", "text-generation"))
    adapter = _has_adapter(record)
    return Card(
        machine={
            **_base(record["model"], adapter),
            "datasets": [record["dataset"]["name"]],
            "pipeline_tag": task,
            "library_name": "peft" if adapter else "transformers",
            "model-index": _model_index(record, title, task),
        },
        block=fill(
            "model/block.md",
            {
                "dataset": _dataset(record),
                "metrics": _metrics(record),
                "use": _use(record, title),
                "settings": "\n\n".join(_settings(record)),
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


def _base(model: str, adapter: bool) -> dict[str, str]:
    """`base_model` as the Hub knows it: an id without its revision; nothing for a local directory."""
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        return {}
    name = model.partition("@")[0]
    return {"base_model": name, "base_model_relation": "adapter" if adapter else "finetune"}


def _dataset(record: Mapping[str, Any]) -> str:
    dataset = record["dataset"]
    commit = f", commit {code(dataset['commit'])}" if dataset.get("commit") else ""
    parts = [f"{code(dataset['name'])} {plain(dataset['version'])}{commit}, digest {code(dataset['digest'][:16])}."]
    rows, pairs = record.get("rows") or {}, record.get("pairs")
    if rows:
        more = [["pairs", *(pairs.get(split, 0) for split in rows)]] if pairs else []
        parts.append(table(["", *rows], [["utterances", *rows.values()], *more]))
    return "\n\n".join([*parts, *_left_out(record)])


def _left_out(record: Mapping[str, Any]) -> Iterator[str]:
    """The rows that were left out or cut, and how the data was divided where it had no splits."""
    cut = record.get("cut") or {}
    dropped = [f"{count(rows, 'row')} with {why}" for why, rows in (record.get("dropped") or {}).items() if rows]
    if cut.get("too_long"):
        dropped.append(f"{count(cut['too_long'], 'row')} too long")
    parts = [f"Left out: {', '.join(dropped)}."] if dropped else []
    if cut.get("prompts"):
        parts.append(f"{count(cut['prompts'], 'prompt')} lost {count(cut['turns'], 'turn')} of their history to fit.")
    if record.get("splits_by") not in (None, "dataset"):
        parts.append(f"The dataset had no splits; it was divided by {plain(record['splits_by'])}.")
    if parts:
        yield " ".join(parts)


def _metrics(record: Mapping[str, Any]) -> str:
    metrics = {split: of for split, of in (record.get("metrics") or {}).items() if of}
    if not metrics:
        return "Nothing was measured."
    tables = [f"On {plain(split)}:\n\n{table(*scorecard(of))}" for split, of in metrics.items()]
    return "\n\n".join([*tables, *_explained(record)])


def _explained(record: Mapping[str, Any]) -> Iterator[str]:
    best = record.get("best") or {}
    if record["kind"] == "rm":
        yield (
            "In the units of the dataset's reward, on environments that training never saw. Beside each figure is what "
            "a model without language reaches: the train split's mean, and its mean at each turn. Intervals resample "
            "whole episodes."
        )
    if record["kind"] == "dpo":
        yield (
            "On held-out pairs: the best and the worst completion of a prompt. A completion's implicit reward is β "
            "times the gain of its log-likelihood over the reference; a pair is told apart where the chosen one's is "
            "higher. Of the reference it is said how often it finds the chosen one the likelier. Length alone prefers "
            "the longer one, or the shorter one, as most train pairs do. Intervals resample pairs."
        )
    if record["kind"] == "grpo":
        yield (
            "Mean of all rewards together over the first and the last tenth of the steps: what it was trained to "
            "raise, on what it was trained on, by the model that it was trained against."
        )
    elif best.get("value") is not None and best.get("metric"):
        yield f"The weights are those of step {best['step']}, the best by {code(best['metric'])} on validation."


def _use(record: Mapping[str, Any], title: str) -> str:
    """A few lines of code that load the model and use it."""
    released = record.get("release")
    name = f"{title}@{released['version']}" if released else f"./{title}"
    where = f'"{title}", revision="{released["version"]}"' if released else f'"./{title}"'
    if record["kind"] != "rm":
        return fill("model/use_policy.md", {"where": where})
    return fill("model/use_rm.md", {"name": name, "stock": _stock_use(record, where)})


def _stock_use(record: Mapping[str, Any], where: str) -> str:
    """The lines of code that give a reward model's score without this project; "" where its units are not known."""
    merged, head = record.get("merged"), record.get("head")
    if merged:
        offset = f" less {merged['offset']!r}, which its head has no bias to hold" if merged["offset"] else ""
        return fill("model/merged_rm.md", {"where": where, "offset": offset, "dtype": merged["dtype"]})
    if not head:
        return ""
    adapter = _has_adapter(record)
    if len(head["targets"]) == 1:
        reward = f"float(logits[0]) * {head['std'][0]!r} + {head['mean'][0]!r}"
    else:
        total = sum(head["weights"])
        parts = zip(head["weights"], head["std"], head["mean"], strict=True)
        terms = [f"{w / total!r} * (float(logits[{k}]) * {std!r} + {mean!r})" for k, (w, std, mean) in enumerate(parts)]
        reward = " + ".join(terms)
    values = {
        "package": "peft" if adapter else "transformers",
        "class": f"Auto{'Peft' if adapter else ''}ModelForSequenceClassification",
        "where": where,
        "count": str(len(head["targets"])),
        "reward": reward,
    }
    return fill("model/stock_rm.md", values)


def _has_adapter(record: Mapping[str, Any]) -> bool:
    """Whether the model is an adapter and not a whole checkpoint."""
    return not record.get("merged") and (record.get("config") or {}).get("adapter", "none") != "none"


def _settings(record: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        [code(name), code(f"{value:g}" if isinstance(value, float) else str(value))]
        for name, value in _all_settings(record)
    ]
    yield table(["setting", "value"], rows)
    packages = record.get("packages") or {}
    if packages:
        yield f"With {', '.join(f'{plain(name)} {plain(version)}' for name, version in packages.items())}."
    if record.get("command"):
        yield f"```\n{' '.join(record['command'].split())}\n```"


def _all_settings(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings that decide what is learned."""
    for name in ("policy_adapter", "seed"):
        if record.get(name) is not None:
            yield name, record[name]
    if record.get("reward_model"):
        yield "reward_model", record["reward_model"]["identity"]
    if record.get("packing"):
        yield "rows", "packed by shared prefixes" if record["packing"]["rows"] == "tree" else "one an utterance"
    yield from ((k, v) for k, v in (record.get("config") or {}).items() if k not in _NO_SETTING and v is not None)


def _model_index(record: Mapping[str, Any], title: str, task: str) -> list[dict[str, Any]]:
    """The results as the Hub reads them: an entry for each figure, with the dataset's split and revision."""
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
            "metrics": [{"type": m.name, "value": m.value, "name": m.title} for m in metrics_of(of)],
        }
        for split, of in (record.get("metrics") or {}).items()
    ]
    return [{"name": title, "results": results}]


def eval_results(record: Mapping[str, Any]) -> str:
    """The figures on held-out rows as the file in `.eval_results/` from which a model's page and the leaderboard of a
    benchmark dataset read them: a task for each split and metric (`test_spearman`). Empty where the dataset has no
    commit on the Hub, or nothing was held out."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    dataset = record["dataset"]
    entries = [
        EvalResultEntry(dataset["name"], f"{split}_{metric.name}", metric.value, dataset_revision=dataset["commit"])
        for split, metrics in (record.get("metrics") or {}).items()
        if dataset.get("commit") and split != "train"
        for metric in metrics_of(metrics)
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False) if entries else ""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `interval` is (low, high) at 95 %; `baselines` has the same metric of each baseline."""

    name: str
    value: float
    interval: tuple[float, float] | None
    baselines: Mapping[str, float]

    @property
    def title(self) -> str:
        return in_words(self.name)


def in_words(metric: str) -> str:
    """A metric's name as people read it, after the head's name where the model has several heads."""
    for name in sorted(NAMES, key=len, reverse=True):
        if metric == name:
            return NAMES[name]
        if metric.endswith(f"_{name}"):
            return f"{metric.removesuffix(name).strip('_')}: {NAMES[name]}"
    return metric.replace("_", " ")


def metrics_of(metrics: Mapping[str, float]) -> list[Metric]:
    """The metrics of one split, in the order they were measured, each with its interval and baselines."""
    return [_metric(name, metrics) for name in metrics if not _is_part_of_another(name, metrics)]


def scorecard(metrics: Mapping[str, float]) -> tuple[list[str], list[list[str | float | None]]]:
    """(columns, rows) of one split: metric, value, and as far as there are any the 95 % interval and the baselines."""
    measured = metrics_of(metrics)
    with_interval = any(metric.interval for metric in measured)
    baselines = [name for name in BASELINES if any(name in metric.baselines for metric in measured)]
    columns = ["metric", "value"]
    if with_interval:
        columns.append("95 % interval")
    columns += [BASELINES[name] for name in baselines]
    rows: list[list[str | float | None]] = []
    for metric in measured:
        row: list[str | float | None] = [metric.title, metric.value]
        if with_interval:
            row.append(None if metric.interval is None else "{:.3g} to {:.3g}".format(*metric.interval))
        rows.append([*row, *(metric.baselines.get(name) for name in baselines)])
    return columns, rows


def _metric(name: str, metrics: Mapping[str, float]) -> Metric:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    baselines = {b: metrics[f"{b}_{name}"] for b in BASELINES if f"{b}_{name}" in metrics}
    return Metric(name, metrics[name], None if low is None or high is None else (low, high), baselines)


def _is_part_of_another(name: str, metrics: Mapping[str, float]) -> bool:
    """Whether this is an interval's bound or a baseline of another metric."""
    starts = [name.removeprefix(f"{b}_") for b in BASELINES if name.startswith(f"{b}_")]
    ends = [name.removesuffix(end) for end in ("_low", "_high") if name.endswith(end)]
    return any(other in metrics for other in [*starts, *ends])
