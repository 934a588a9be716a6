"""What the command line calls: a plain function for each trainer. It returns the run's record, which is also
`run.json`.

    options = {"dataset": "lab/rewards", "model": "Qwen/Qwen2.5-7B-Instruct", "output_dir": "runs/rm"}
    record = train_rm(configure(RMConfig, preset="paper", options=options))

Importing this module is cheap; torch and transformers are imported by the functions. The trainers themselves are built
in `reward_model/trainer.py`, `policies.py` and `preferences.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.code import check_installed
from sotopia_rl_data.display import Display
from sotopia_rl_data.shards import WHOLE, Shard
from sotopia_rl_data.trainers.run_folder import RunFolder, environment

if TYPE_CHECKING:
    from sotopia_rl_data.cluster.on_ray import RayWorkers
    from sotopia_rl_data.trainers.config import (
        PolicyDPOConfig,
        PolicyGRPOConfig,
        PolicySFTConfig,
        RMConfig,
        TrainerConfig,
    )
    from sotopia_rl_data.trainers.encoding import Cuts, Dialogues

_LONGEST_WAIT = timedelta(days=7)  # of processes for the slowest of them
TIMINGS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "num_tokens")
MUST_STAY = (  # settings that decide a run's rows, weights or steps: a resumed run must have the same
    "where", "split_by", "sentinels", "targets", "weigh_by_spread", "packing", "row_tokens",
    "tokens_per_device_batch",
    "max_length", "max_prompt_length", "max_completion_length", "chat_template", "template_kwargs",
    "completion_only_loss", "assistant_only_loss",
    "adapter", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "policy_adapter", "dtype",
    "seed", "data_seed", "optim", "learning_rate", "lr_scheduler_type", "weight_decay", "max_grad_norm",
    "beta", "loss_type", "temperature", "num_generations",
    "label_smoothing", "f_divergence_type", "f_alpha_divergence_coef", "discopop_tau", "use_weighting", "ld_alpha",
    "loss_weights",
    "reward_model", "rewards", "format_weight", "truncated_reward",
)  # fmt: skip
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate")


def check_libraries() -> None:
    """Raises UsageError where the `train` extra is not installed. Imports none of it."""
    check_installed("Training", *LIBRARIES)


def quiet_libraries(bars: bool) -> None:
    """For a command line: hide the libraries' warnings about their own use, and their progress bars unless `bars`.

    Raises UsageError where the `train` extra is not installed.
    """
    check_libraries()
    import warnings

    import datasets
    from huggingface_hub.utils.tqdm import disable_progress_bars
    from transformers.utils import logging

    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft)\.")
    if not bars:
        datasets.disable_progress_bars()
        disable_progress_bars()
        logging.disable_progress_bar()


def train_rm(config: RMConfig) -> dict[str, Any]:
    """Train a regression reward model on a dataset's rewards.

    The folder `config.output_dir` ends up with the best checkpoint (stock, or an adapter), its tokenizer, `run.json`,
    `metrics.jsonl` and `metrics.png`. Raises NotFound, UsageError, InputError.
    """
    from sotopia_rl_data.trainers.modeling import oom_hint
    from sotopia_rl_data.trainers.reward_model.head import check_same_units
    from sotopia_rl_data.trainers.reward_model.rows import prepare
    from sotopia_rl_data.trainers.reward_model.trainer import build_trainer, load_model

    run = TrainingRun(config, need_reward=True, targets=config.targets)
    prepared = prepare(run.data, config)
    if run.checkpoint:
        check_same_units(run.checkpoint, prepared.head)
    with oom_hint(_less_memory(config, "row_tokens")):
        trainer = build_trainer(config, prepared, load_model(config, prepared), run.callbacks)
        run.train(trainer)
        trainer.save_model()
        metrics = {"validation": _validation_metrics(trainer)}
        if "test" in trainer.all_rows:
            measured = trainer.evaluate(trainer.all_rows["test"], metric_key_prefix="test")
            metrics["test"] = _unprefixed(measured, "test")
    facts = {"head": prepared.head.to_config(), "packing": trainer.packing}
    return run.keep_record(trainer, prepared.cuts, facts, metrics)


def _less_memory(config: TrainerConfig, length: str) -> str:
    """A hint for a run that needs too much memory; `length` is the setting that makes rows shorter."""
    budget = getattr(config, "tokens_per_device_batch", None)
    batch = "tokens_per_device_batch" if budget else "per_device_train_batch_size"
    return (
        f"lower {batch} or {length} with --set (a higher gradient_accumulation_steps makes up for smaller batches), or "
        "try --set gradient_checkpointing=true or --set adapter=qlora"
    )


def plan(config: TrainerConfig, gpus: str = "1x80GB") -> dict[str, Any]:
    """What a training run would take on `gpus` (see `plan.py`). Trains and writes nothing."""
    from sotopia_rl_data.trainers.plan import plan_of

    return plan_of(config, gpus)


def train_sft(config: PolicySFTConfig) -> dict[str, Any]:
    """Behaviour cloning: train a policy on a dataset's completions. `config.where` chooses the rows to imitate.

    The folder `config.output_dir` and the errors are as in `train_rm`.
    """
    from sotopia_rl_data.trainers.encoding import tokenizer_of
    from sotopia_rl_data.trainers.modeling import oom_hint
    from sotopia_rl_data.trainers.policies import build_sft_trainer

    run = TrainingRun(config, need_reward=False)
    tokenizer = tokenizer_of(config)
    dialogues = run.dialogues(tokenizer, config.max_length)
    with oom_hint(_less_memory(config, "max_length")):
        trainer = build_sft_trainer(config, dialogues, tokenizer, run.callbacks)
        run.train(trainer)
        trainer.save_model()
        metrics = {"validation": _validation_metrics(trainer)}
    return run.keep_record(trainer, dialogues.cuts, {}, metrics)


def train_dpo(config: PolicyDPOConfig) -> dict[str, Any]:
    """DPO: train a policy (with its SFT adapter, if any) to find the best completion of a prompt likelier than the
    worst.

    The folder `config.output_dir` and the errors are as in `train_rm`; UsageError too where no prompt has several
    completions.
    """
    from sotopia_rl_data.trainers.data import check_splits
    from sotopia_rl_data.trainers.encoding import Encoder, tokenizer_of
    from sotopia_rl_data.trainers.modeling import oom_hint
    from sotopia_rl_data.trainers.pairs import paired, tokenised_pairs
    from sotopia_rl_data.trainers.policies import forget_reference
    from sotopia_rl_data.trainers.preferences import build_dpo_trainer

    run = TrainingRun(config, need_reward=True)
    run.data = paired(run.data, config.eval_strategy != "no")
    tokenizer = tokenizer_of(config)
    pairs = tokenised_pairs(run.data, Encoder(tokenizer, config.max_length, "dpo"), not config.disable_tqdm)
    check_splits(run.data, pairs.splits, config.eval_strategy != "no", lacks="has no pair that fits")
    with oom_hint(_less_memory(config, "max_length")):
        trainer = build_dpo_trainer(config, pairs, tokenizer, run.callbacks)
        run.train(trainer)
        metrics = {"validation": _validation_metrics(trainer)}  # against the reference, which is not saved
        forget_reference(trainer.accelerator.unwrap_model(trainer.model))
        trainer.save_model()
    facts = {
        "policy_adapter": config.policy_adapter,
        "pairs": {split: len(of_split) for split, of_split in pairs.splits.items()},
    }
    return run.keep_record(trainer, pairs.cuts, facts, metrics)


def train_grpo(config: PolicyGRPOConfig) -> dict[str, Any]:
    """Single-turn GRPO of a policy (with its SFT adapter, if any) over a dataset's prompts, rewarded by a reward model.

    The folder `config.output_dir` and the errors are as in `train_rm`.
    """
    from sotopia_rl_data.trainers.encoding import tokenizer_of
    from sotopia_rl_data.trainers.modeling import oom_hint
    from sotopia_rl_data.trainers.policies import build_grpo_trainer, forget_reference, load_rewards

    run = TrainingRun(config, need_reward=False)
    tokenizer = tokenizer_of(config)
    dialogues = run.dialogues(tokenizer, config.max_prompt_length)
    with oom_hint(_less_memory(config, "max_completion_length")):
        reward_model = load_rewards(config, dialogues)
        trainer = build_grpo_trainer(config, dialogues, tokenizer, reward_model, run.callbacks)
        run.train(trainer)
        forget_reference(trainer.accelerator.unwrap_model(trainer.model))
        trainer.save_model()
    facts = {
        "policy_adapter": config.policy_adapter,
        "reward_model": reward_model.record(),
        "held_out": {"judge": config.held_out_judge, "hacking": trainer.hacking and asdict(trainer.hacking)},
        "truncated": {"completions": trainer.truncated_completions, "groups": trainer.truncated_groups},
    }
    return run.keep_record(trainer, dialogues.cuts, facts, {"train": _mean_rewards(trainer.state.log_history)})


class TrainingRun:
    """What the trainers have in common: a run's configuration, rows, folder and record.

    The lengths in `config` are lowered to the model's context. `callbacks` write into the folder during the training,
    and end it where nothing is gained. Raises NotFound, UsageError and InputError for what cannot be trained on,
    resumed or released.
    """

    def __init__(self, config: TrainerConfig, *, need_reward: bool, targets: Sequence[str] = ()) -> None:
        from transformers import EarlyStoppingCallback

        from sotopia_rl_data.trainers.callbacks import CheckpointRecord, MetricsFile
        from sotopia_rl_data.trainers.data import load_rows
        from sotopia_rl_data.trainers.modeling import bound_to_context
        from sotopia_rl_data.trainers.reward_server import RewardServer, is_server

        if config.release_as:
            from sotopia_rl_data.trainers.release import check_release

            check_release(config.release_as, config.model, config.adapter)
        bound_to_context(config)
        self.config = config
        self.started = time.time()
        self.data = load_rows(
            config.dataset,
            store=config.store,
            targets=targets,
            where=config.where,
            split_by=config.split_by,
            sentinels=config.sentinels,
            need_reward=need_reward,
        )
        self.folder = RunFolder(config.output_dir)
        if config.process_index == 0:
            self.folder.take()
        fixed = {name: getattr(config, name) for name in MUST_STAY if hasattr(config, name)}
        rows = config.per_device_train_batch_size * config.gradient_accumulation_steps * config.world_size
        fixed["rows_a_step"] = rows  # however they are divided among passes and processes
        if is_server(fixed.get("reward_model") or ""):
            fixed["reward_server"] = RewardServer(fixed["reward_model"]).identity
        record = {"kind": config.kind, "model": config.model, "dataset": asdict(self.data.pinned), "config": fixed}
        self.folder.check_resumable(config.resume, record)
        self.checkpoint = self.folder.last_checkpoint() if config.resume else None
        self.callbacks: list[Any] = [MetricsFile(self.folder), CheckpointRecord(record)]
        if getattr(config, "patience", None) and config.eval_strategy != "no":
            self.callbacks.append(EarlyStoppingCallback(config.patience))

    def dialogues(self, tokenizer: Any, max_length: int | None) -> Dialogues:
        """What a policy is trained on: the rows whose prompts fit, by split. Raises as `check_splits` does."""
        from sotopia_rl_data.trainers.data import check_splits
        from sotopia_rl_data.trainers.encoding import Encoder, dialogues, tokenised_dialogues

        config, show = self.config, not self.config.disable_tqdm
        encoder = Encoder(tokenizer, max_length, config.kind)
        if config.kind == "sft" and not (config.packing or config.shuffle_dataset or config.assistant_only_loss):
            fitted = tokenised_dialogues(self.data, encoder, config.completion_only_loss is not False, show)
        else:  # TRL makes of messages what these settings ask for
            fitted = dialogues(self.data, encoder, config.kind == "sft", show)
        check_splits(self.data, fitted.splits, config.eval_strategy != "no")
        return fitted

    def train(self, trainer: Any) -> None:
        """Train, from the newest checkpoint where the run resumes and there is one."""
        from sotopia_rl_data.trainers.callbacks import show_progress

        show_progress(trainer)
        if self.checkpoint:
            trainer.args.eval_on_start = False  # the run's start has been evaluated
        self.outcome = trainer.train(resume_from_checkpoint=str(self.checkpoint) if self.checkpoint else None)

    def keep_record(
        self, trainer: Any, cuts: Cuts, facts: Mapping[str, Any], metrics: Mapping[str, Mapping[str, float]]
    ) -> dict[str, Any]:
        """The run's record, which the first process writes as `run.json`. `facts` are what only this kind of trainer
        has; `metrics` are by split, and an empty split is left out."""
        from sotopia_rl_data.trainers.config import changed

        state = trainer.state
        record = {
            "kind": self.config.kind,
            "model": self.config.model,
            "dataset": asdict(self.data.pinned),
            "rows": self.data.counts(),
            "splits_by": self.data.splits_by,
            "dropped": dict(self.data.dropped),
            "cut": asdict(cuts),
            "config": changed(self.config),
            "seed": self.config.seed,
            "seconds": round(time.time() - self.started, 1),
            **environment(),
            **facts,
            "train": {k: v for k, v in self.outcome.metrics.items() if k in ("train_loss", "train_runtime", "epoch")},
            "best": {
                "metric": self.config.metric_for_best_model,
                "value": state.best_metric,
                "step": _kept_step(state),
            },
            "metrics": {split: of_split for split, of_split in metrics.items() if of_split},
        }
        kept = self.folder.keep(record, trainer.is_world_process_zero())
        self.folder.let_go()
        return kept


def _kept_step(state: Any) -> int:
    """The step whose weights were kept: the best one, or else the last."""
    return int(state.best_global_step or state.global_step)


def _unprefixed(metrics: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Metrics under their plain names, without timings."""
    named = {k.removeprefix(f"{prefix}_"): v for k, v in metrics.items() if k.startswith(f"{prefix}_")}
    return {k: v for k, v in named.items() if k not in TIMINGS}


def _validation_metrics(trainer: Any) -> dict[str, float]:
    """Metrics of the validation split at the step that was kept: from the log, or else measured now."""
    if trainer.eval_dataset is None:
        return {}
    kept = _kept_step(trainer.state)
    logged = [row for row in trainer.state.log_history if row["step"] == kept and "eval_runtime" in row]
    return _unprefixed(logged[-1] if logged else trainer.evaluate(), "eval")


def _mean_rewards(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean reward over the first and the last tenth of the logged steps."""
    rewards = [row["reward"] for row in history if row.get("reward") is not None]
    tenth = max(1, len(rewards) // 10)
    if not rewards:
        return {}
    return {"reward_first": sum(rewards[:tenth]) / tenth, "reward_last": sum(rewards[-tenth:]) / tenth}


def score(
    dataset: str,
    reward_model: str,
    *,
    store: str | Path | None = None,
    out: str | None = None,
    shard: Shard | None = None,
    ledger: str | Path | None = None,
    display: Display | None = None,
    device: str | RayWorkers | None = None,
) -> dict[str, Any]:
    """Add a reward model's scores to `dataset` as a new version; of a `shard`, keep them in `ledger` (see `score.py`).
    `device` is by default a GPU, if any. Of several processes that `accelerate launch` starts, each scores its part, on
    a GPU of its own; when all have ended, the first goes on as a single one would, and finds the scores kept. Where
    `device` are workers, they score first."""
    check_installed("Scoring", *LIBRARIES)
    from sotopia_rl_data.trainers.modeling import oom_hint
    from sotopia_rl_data.trainers.reward_model.model import RewardModel
    from sotopia_rl_data.trainers.score import score_blocks_on, score_dataset, score_shard

    processes = launched_processes()
    with oom_hint("wait until other work on it has ended, or use the CPU, with CUDA_VISIBLE_DEVICES set to nothing"):
        own_gpu = processes.device if processes and processes.device.type != "cpu" else None
        workers = None if device is None or isinstance(device, str) else device
        model = RewardModel.load(reward_model, device=(device if isinstance(device, str) else None) or own_gpu)
        if workers is not None:
            score_blocks_on(workers, dataset, reward_model, model, store=store, ledger=ledger, display=display)
        if processes:
            own = (shard or WHOLE).part(processes.process_index + 1, processes.num_processes)
            shown = display if processes.is_main_process else None
            scored = score_shard(dataset, model, own, store=store, ledger=ledger, display=shown)
            processes.wait_for_everyone()
            if not processes.is_main_process:
                return scored
        if shard is not None:
            return score_shard(dataset, model, shard, store=store, ledger=ledger, display=display)
        return score_dataset(dataset, model, store=store, out=out, ledger=ledger, display=display)


def launched_processes() -> Any:
    """Accelerate's state of the processes that `accelerate launch` or `torchrun` started; None where this is the only
    one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    import torch
    from accelerate import PartialState  # type: ignore[import-untyped]

    return PartialState(cpu=not torch.cuda.is_available(), timeout=_LONGEST_WAIT)


def release(
    run: str | Path,
    repo: str,
    *,
    version: str | None = None,
    private: bool | None = None,
    message: str = "",
    allow_secrets: bool = False,
) -> dict[str, Any]:
    """Publish a run's model on the Hub: one commit, then a tag (see `sotopia_rl_data.trainers.release`)."""
    from sotopia_rl_data.hub.push import PushOptions
    from sotopia_rl_data.trainers.release import release_run

    options = PushOptions(private, message=message, allow_secrets=allow_secrets)
    released = release_run(run, repo, version, options)
    folder = RunFolder.existing(run)
    folder.write(folder.read() | {"release": released})
    return released


def merge(run: str | Path, out: str | Path, *, dtype: str | None = None) -> dict[str, Any]:
    """Write a run's model as one whole checkpoint (see `merging.py`)."""
    check_installed("Merging", *LIBRARIES)
    from sotopia_rl_data.trainers.merging import merge_run

    return merge_run(run, out, dtype=dtype)


def compare(
    runs: Sequence[str | Path],
    *,
    dataset: str | None = None,
    split: str = "test",
    store: str | Path | None = None,
    display: Display | None = None,
) -> dict[str, Any]:
    """Reward models on the same held-out rows (see `side_by_side.py`)."""
    check_installed("Scoring", *LIBRARIES)
    from sotopia_rl_data.trainers.side_by_side import compare_runs

    return compare_runs(runs, dataset=dataset, split=split, store=store, display=display)


def inspect_run(run: str | Path) -> dict[str, Any]:
    """What `train` recorded in the folder `run`, with the last logged metrics. Raises NotFound, InputError."""
    folder = RunFolder.existing(run)
    return folder.read() | {"logged": folder.metrics()[-1:]}
