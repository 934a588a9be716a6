"""What the command line calls: one plain function a trainer. Each returns the run's record, which is also `run.json`.

Importing this module is cheap; torch and transformers are imported by the functions.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.errors import UsageError

if TYPE_CHECKING:
    from trainers.data import Examples

NEEDS = ("torch", "transformers", "trl", "peft", "accelerate")


def check_installed() -> None:
    """Raises UsageError where the `train` extra is not installed."""
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"Training needs {', '.join(missing)}, which is not installed.", "pip install '.[train]'")


def train_rm(
    dataset: str,
    model: str,
    output: str | Path,
    *,
    preset: str | None = None,
    config: str | None = None,
    settings: Sequence[str] = (),
    **options: Any,
) -> dict[str, Any]:
    """Train a regression reward model on `dataset`'s rewards, from `model` (a directory or id), into `output`.

    `options` are fields of `trainers.config.RMConfig`; `settings` are "key=value" texts, which win. The folder ends up
    with the best checkpoint (stock, or an adapter), its tokenizer, `run.json`, `metrics.jsonl` and `metrics.png`.
    """
    check_installed()
    from trainers.config import configure

    options |= {"dataset": dataset, "model": model, "output_dir": str(output)}
    settled = configure("rm", preset=preset, file=config, options=options, settings=settings)
    return _train_rm(settled)


def _train_rm(config: Any) -> dict[str, Any]:
    from trainers.data import load_examples
    from trainers.modeling import memory_told
    from trainers.prepare import prepare
    from trainers.rm import build_trainer, load_model
    from trainers.run import MetricsFile, RunFolder

    started = time.time()
    found = load_examples(
        config.dataset,
        store=config.store,
        targets=config.targets,
        where=config.where,
        split_by=config.split_by,
        sentinels=config.sentinels,
    )
    folder = RunFolder(config.output_dir)
    prepared = prepare(found, config)
    with memory_told():
        trainer = build_trainer(config, prepared, load_model(config, prepared), [MetricsFile(folder)])
        outcome = trainer.train(resume_from_checkpoint=_checkpoint(config, folder))
        trainer.save_model()
        metrics = {split: _evaluate(trainer, prepared, split) for split in ("validation", "test")}
    record = {
        "kind": "rm",
        **_common(config, found, started),
        "head": prepared.head.to_config(),
        "packing": trainer.packing,
        "cut": {"turns": prepared.turns_cut, "prompts": prepared.rows_cut, "too_long": prepared.too_long},
        "train": {k: v for k, v in outcome.metrics.items() if k in ("train_loss", "train_runtime", "epoch")},
        "best": {"metric": config.metric_for_best_model, "value": trainer.state.best_metric}
        | {"step": trainer.state.best_global_step or trainer.state.global_step},
        "metrics": {split: found for split, found in metrics.items() if found},
    }
    return folder.keep(record, trainer.is_world_process_zero())


def _evaluate(trainer: Any, prepared: Any, split: str) -> dict[str, float]:
    """Metrics of one split under their plain names."""
    if not prepared.samples[split]:
        return {}
    found = trainer.evaluate(trainer.all_rows[split], metric_key_prefix=split)
    return {k.removeprefix(f"{split}_"): v for k, v in found.items() if k.startswith(f"{split}_")}


def _checkpoint(config: Any, folder: Any) -> str | None:
    """The checkpoint to go on from, where `resume` is asked for and there is one."""
    found = folder.last_checkpoint() if config.resume else None
    return str(found) if found else None


def _common(config: Any, found: Examples, started: float) -> Mapping[str, Any]:
    """What every run's record says."""
    from dataclasses import asdict

    from trainers.config import changed
    from trainers.run import environment

    return {
        "model": config.model,
        "dataset": asdict(found.pinned),
        "rows": found.counts(),
        "splits_by": found.splits_by,
        "dropped": dict(found.dropped),
        "config": changed(config),
        "seed": config.seed,
        "seconds": round(time.time() - started, 1),
        **environment(),
    }
