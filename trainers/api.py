"""What the command line calls: one plain function a trainer. Each returns the run's record, which is also `run.json`.

Importing this module is cheap; torch and transformers are imported by the functions.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.code import check_installed
from sotopia_rl_data.display import Display
from sotopia_rl_data.trainers.run import RunFolder, environment

if TYPE_CHECKING:
    from sotopia_rl_data.trainers.data import Examples
    from sotopia_rl_data.trainers.encoding import Cuts

LOWER = (
    "lower {} with --set (gradient_accumulation_steps makes up for smaller batches), or --set "
    "gradient_checkpointing=true or adapter=qlora"
)
EFFORT = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "num_tokens")
AS_BEFORE = (  # what a run that is gone on with cannot change: which rows it sees, and which weights there are
    "where", "split_by", "sentinels", "targets", "adapter", "lora_r", "lora_target_modules", "policy_adapter",
    "reward_model",
)  # fmt: skip
NEEDS = ("torch", "transformers", "trl", "peft", "accelerate")


def calm() -> None:
    """For a command line: no library's warnings to its own callers, and no bars where nobody watches."""
    check_installed("Training", *NEEDS)
    import sys
    import warnings

    import datasets
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging

    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft)\.")
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
        disable_progress_bars()
        logging.disable_progress_bar()


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

    `options` are fields of `RMConfig` in `config.py`; `settings` are "key=value" texts, which win. The folder ends up
    with the best checkpoint (stock, or an adapter), its tokenizer, `run.json`, `metrics.jsonl` and `metrics.png`.
    """
    return _train_rm(_settled("rm", dataset, model, output, preset, config, settings, options))


def _train_rm(config: Any) -> dict[str, Any]:
    from sotopia_rl_data.trainers.modeling import oom_hint
    from sotopia_rl_data.trainers.prepare import prepare
    from sotopia_rl_data.trainers.rm import build_trainer, load_model

    started = time.time()
    found = _examples(config, need_reward=True, targets=config.targets)
    folder, writers = _opened("rm", config, found)
    prepared = prepare(found, config)
    with oom_hint(LOWER.format("row_tokens or per_device_train_batch_size")):
        trainer = build_trainer(config, prepared, load_model(config, prepared), writers)
        outcome = _trained(trainer, config.resume, folder)
        trainer.save_model()
        metrics = {"validation": _held_out(trainer), "test": _evaluate(trainer, prepared, "test")}
    record = {
        "kind": "rm",
        **_common(config, found, prepared.cuts, started),
        "head": prepared.head.to_config(),
        "packing": trainer.packing,
        **_outcome(config, trainer, outcome),
        "metrics": {split: found for split, found in metrics.items() if found},
    }
    return folder.keep(record, trainer.is_world_process_zero())


def train_sft(
    dataset: str,
    model: str,
    output: str | Path,
    *,
    preset: str | None = None,
    config: str | None = None,
    settings: Sequence[str] = (),
    **options: Any,
) -> dict[str, Any]:
    """Behaviour cloning: train `model` on the completions of `dataset`, into `output`. `where` chooses whom to imitate.

    `options` are fields of `PolicySFTConfig`; the rest as in `train_rm`.
    """
    return _train_sft(_settled("sft", dataset, model, output, preset, config, settings, options))


def _train_sft(config: Any) -> dict[str, Any]:
    from sotopia_rl_data.trainers.data import check_splits
    from sotopia_rl_data.trainers.encoding import Encoder, tokenizer_of
    from sotopia_rl_data.trainers.modeling import oom_hint
    from sotopia_rl_data.trainers.policies import dialogues
    from sotopia_rl_data.trainers.sft import build_trainer

    started = time.time()
    found = _examples(config, need_reward=False)
    folder, writers = _opened("sft", config, found)
    tokenizer = tokenizer_of(config)
    fitted = dialogues(found, Encoder(tokenizer, config.max_length), with_completion=True)
    check_splits(found, fitted.splits, config.eval_strategy != "no")
    with oom_hint(LOWER.format("per_device_train_batch_size or max_length")):
        trainer = build_trainer(config, fitted, tokenizer, writers)
        outcome = _trained(trainer, config.resume, folder)
        trainer.save_model()
        metrics = {"validation": _held_out(trainer)}
    record = {
        "kind": "sft",
        **_common(config, found, fitted.cuts, started),
        **_outcome(config, trainer, outcome),
        "metrics": {split: found for split, found in metrics.items() if found},
    }
    return folder.keep(record, trainer.is_world_process_zero())


def train_grpo(
    dataset: str,
    model: str,
    output: str | Path,
    *,
    reward_model: str,
    policy_adapter: str | None = None,
    preset: str | None = None,
    config: str | None = None,
    settings: Sequence[str] = (),
    **options: Any,
) -> dict[str, Any]:
    """Single-turn GRPO of `model` (with its SFT adapter) over the prompts of `dataset`, rewarded by `reward_model`.

    Both may be `id@revision`. `options` are fields of `PolicyGRPOConfig`; the rest as in `train_rm`.
    """
    options |= {"reward_model": reward_model, "policy_adapter": policy_adapter}
    return _train_grpo(_settled("grpo", dataset, model, output, preset, config, settings, options))


def _train_grpo(config: Any) -> dict[str, Any]:
    from sotopia_rl_data.trainers.data import check_splits
    from sotopia_rl_data.trainers.encoding import Encoder, tokenizer_of
    from sotopia_rl_data.trainers.grpo import build_trainer, check_fits, forget_reference
    from sotopia_rl_data.trainers.modeling import oom_hint
    from sotopia_rl_data.trainers.policies import dialogues
    from sotopia_rl_data.trainers.reward_model import RewardModel

    started = time.time()
    found = _examples(config, need_reward=False)
    folder, writers = _opened("grpo", config, found)
    tokenizer = tokenizer_of(config)
    fitted = dialogues(found, Encoder(tokenizer, config.max_prompt_length), with_completion=False)
    check_splits(found, fitted.splits, config.eval_strategy != "no")
    with oom_hint(LOWER.format("per_device_train_batch_size or max_completion_length")):
        judge = RewardModel.load(config.reward_model, device=config.device)
        check_fits(judge, fitted, config.max_completion_length)
        trainer = build_trainer(config, fitted, tokenizer, judge, writers)
        outcome = _trained(trainer, config.resume, folder)
        forget_reference(trainer.accelerator.unwrap_model(trainer.model))
        trainer.save_model()
    record = {
        "kind": "grpo",
        **_common(config, found, fitted.cuts, started),
        "policy_adapter": config.policy_adapter,
        "reward_model": {"identity": judge.identity, "head": judge.head.to_config()},
        **_outcome(config, trainer, outcome),
        "metrics": {"train": _rewards(trainer.state.log_history)},
    }
    return folder.keep(record, trainer.is_world_process_zero())


def score(
    dataset: str,
    reward_model: str,
    *,
    store: str | Path | None = None,
    out: str | None = None,
    display: Display | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Add a reward model's scores to `dataset` as a new version (see `score.py`). `options` go to its loading."""
    check_installed("Training", *NEEDS)
    from sotopia_rl_data.trainers.modeling import oom_hint
    from sotopia_rl_data.trainers.reward_model import RewardModel
    from sotopia_rl_data.trainers.score import score_dataset

    with oom_hint("let other work on it end, or use the CPU: CUDA_VISIBLE_DEVICES= sotopia-rl-data score …"):
        return score_dataset(dataset, RewardModel.load(reward_model, **options), store=store, out=out, display=display)


def release(
    run: str | Path, repo: str, *, version: str | None = None, private: bool | None = None, message: str = ""
) -> dict[str, Any]:
    """Publish a run's model on the Hub: one commit, then a tag (see `sotopia_rl_data.trainers.release`)."""
    from sotopia_rl_data.trainers.release import release_run

    released = release_run(run, repo, version=version, private=private, message=message)
    folder = RunFolder.existing(run)
    folder.write(folder.read() | {"release": released})
    return released


def inspect_run(run: str | Path) -> dict[str, Any]:
    """What `train` recorded in the folder `run`, with the last logged metrics. Raises NotFound, InputError."""
    folder = RunFolder.existing(run)
    return folder.read() | {"logged": folder.metrics()[-1:]}


def _rewards(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean reward over the first and the last tenth of the logged steps."""
    rewards = [row["reward"] for row in history if row.get("reward") is not None]
    share = max(1, len(rewards) // 10)
    if not rewards:
        return {}
    return {"reward_first": sum(rewards[:share]) / share, "reward_last": sum(rewards[-share:]) / share}


def _settled(
    kind: str, dataset: str, model: str, output: str | Path, preset: str | None, file: str | None,
    settings: Sequence[str], options: dict[str, Any],
) -> Any:  # fmt: skip
    """The configuration of a run, with lengths that the model's context holds."""
    check_installed("Training", *NEEDS)
    from sotopia_rl_data.trainers.config import configure
    from sotopia_rl_data.trainers.modeling import within_context

    options |= {"dataset": dataset, "model": model, "output_dir": str(output)}
    config = configure(kind, preset=preset, file=file, options=options, settings=settings)
    if config.release_as:
        from sotopia_rl_data.trainers.release import check_release

        check_release(config.release_as, config.model, config.adapter)
    return within_context(config)


def _examples(config: Any, need_reward: bool, targets: Sequence[str] = ()) -> Examples:
    from sotopia_rl_data.trainers.data import load_examples

    return load_examples(
        config.dataset,
        store=config.store,
        targets=targets,
        where=config.where,
        split_by=config.split_by,
        sentinels=config.sentinels,
        need_reward=need_reward,
    )


def _opened(kind: str, config: Any, found: Examples) -> tuple[RunFolder, list[Any]]:
    """The run's folder, free for it or to go on in, and what writes into it while it trains."""
    from sotopia_rl_data.trainers.curves import MetricsFile, Pin

    folder = RunFolder(config.output_dir)
    settings = {name: getattr(config, name) for name in AS_BEFORE if hasattr(config, name)}
    record = {"kind": kind, "model": config.model, "dataset": asdict(found.pinned), "config": settings}
    folder.check_resumable(config.resume, record)
    return folder, [MetricsFile(folder), Pin(record)]


def _outcome(config: Any, trainer: Any, outcome: Any) -> dict[str, Any]:
    """How training went, and which step was kept."""
    best = {"metric": config.metric_for_best_model, "value": trainer.state.best_metric}
    return {
        "train": {k: v for k, v in outcome.metrics.items() if k in ("train_loss", "train_runtime", "epoch")},
        "best": best | {"step": trainer.state.best_global_step or trainer.state.global_step},
    }


def _plain(metrics: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Metrics under their plain names, without what they took."""
    named = {k.removeprefix(f"{prefix}_"): v for k, v in metrics.items() if k.startswith(f"{prefix}_")}
    return {k: v for k, v in named.items() if k not in EFFORT}


def _held_out(trainer: Any) -> dict[str, float]:
    """Metrics of the validation split for the step that was kept: as they were logged, else measured now."""
    if trainer.eval_dataset is None:
        return {}
    kept = trainer.state.best_global_step or trainer.state.global_step
    logged = [row for row in trainer.state.log_history if row["step"] == kept and "eval_runtime" in row]
    return _plain(logged[-1] if logged else trainer.evaluate(), "eval")


def _evaluate(trainer: Any, prepared: Any, split: str) -> dict[str, float]:
    """Metrics of one split under their plain names."""
    if not prepared.samples[split]:
        return {}
    return _plain(trainer.evaluate(trainer.all_rows[split], metric_key_prefix=split), split)


def _trained(trainer: Any, resume: bool, folder: RunFolder) -> Any:
    """What training gave, from the newest checkpoint where to `resume` is asked for and there is one."""
    from sotopia_rl_data.trainers.progress import show_progress

    show_progress(trainer)
    found = folder.last_checkpoint() if resume else None
    return trainer.train(resume_from_checkpoint=str(found) if found else None)


def _common(config: Any, found: Examples, cuts: Cuts, started: float) -> Mapping[str, Any]:
    """What every run's record says."""
    from sotopia_rl_data.trainers.config import changed

    return {
        "model": config.model,
        "dataset": asdict(found.pinned),
        "rows": found.counts(),
        "splits_by": found.splits_by,
        "dropped": dict(found.dropped),
        "cut": asdict(cuts),
        "config": changed(config),
        "seed": config.seed,
        "seconds": round(time.time() - started, 1),
        **environment(),
    }
