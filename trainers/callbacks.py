"""What a run writes and shows while it trains.

It writes each logged line into `metrics.jsonl`, the run's record into each checkpoint, and at the end a picture of the
curves. The terminal gets one short line where the library would print thirty numbers.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from sotopia_rl_data.trainers.run_folder import METRICS, PLOT, RunFolder, plain

log = logging.getLogger(__name__)

TRAIN_SHOWN = ("loss", "rewards/margins", "reward", "reward_std", "kl", "completions/mean_length", "learning_rate")
HELD_OUT_SHOWN = (
    "eval_loss",
    "eval_mse",
    "eval_spearman",
    "eval_pair_accuracy",
    "eval_accuracy",
    "eval_reward",
    "eval_judge",
)


class MetricsFile(TrainerCallback):  # type: ignore[misc]  # mypy skips transformers
    """Writes each logged line to `metrics.jsonl` as it comes, and the picture at the end."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.folder.keep_until(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        row = {"step": state.global_step, "epoch": state.epoch, "time": round(time.time(), 3), **logs}
        with (self.folder.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain(row)) + "\n")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            draw(self.folder)


class CheckpointRecord(TrainerCallback):  # type: ignore[misc]  # mypy skips transformers
    """Writes `run.json` into each checkpoint: the kind of run, the base model, the dataset and the fixed settings."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = plain(record)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            RunFolder(Path(args.output_dir) / f"checkpoint-{state.global_step}").write(self.record)


def draw(
    folder: RunFolder,
    keys: tuple[str, ...] = ("loss", "reward", "judge", "mse", "spearman", "pair_accuracy", "accuracy"),
) -> Path | None:
    """`metrics.png`: one panel for each of `keys` that was logged, train and held-out curves together."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    rows = folder.metrics()
    panels = [k for k in keys if any(row.get(name) is not None for row in rows for name in (k, f"eval_{k}"))]
    if not panels:
        return None
    figure = Figure(figsize=(4.2 * len(panels), 3.2), layout="constrained")
    for axis, key in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, label in ((key, "train"), (f"eval_{key}", "validation")):
            points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else "", label=label)
        axis.set_xlabel("step")
        axis.set_title(key.replace("_", " "))
        axis.legend(frameon=False)
        axis.grid(alpha=0.3)
    figure.savefig(folder.path / PLOT, dpi=120)
    return folder.path / PLOT


def log_line(step: int, logs: Mapping[str, Any]) -> str:
    """The most telling numbers of a logged row on one line; "" where it has none. The held-out error stands beside its
    baselines."""
    parts = [f"{key.rpartition('/')[2]} {_short(logs[key])}" for key in TRAIN_SHOWN if logs.get(key) is not None]
    parts += [_held_out(key, logs) for key in HELD_OUT_SHOWN if logs.get(key) is not None]
    return f"step {step}  {'  '.join(parts)}" if parts else ""


def _held_out(key: str, logs: Mapping[str, Any]) -> str:
    text = f"{key.replace('eval_', 'validation ')} {_short(logs[key])}"
    low, high = logs.get(f"{key}_low"), logs.get(f"{key}_high")
    if low is not None and high is not None:
        text += f" [{_short(low)}, {_short(high)}]"
    names = {"eval_mse": ("mean", "turn"), "eval_accuracy": ("reference", "length")}.get(key, ())
    baselines = {name: logs.get(key.replace("eval_", f"eval_{name}_")) for name in names}
    known = ", ".join(f"{name} {_short(value)}" for name, value in baselines.items() if value is not None)
    return f"{text} ({known})" if known else text


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class PlainLines(PrinterCallback):  # type: ignore[misc]  # mypy skips transformers
    """Our lines on stderr, without a progress bar: for a pipe, or where the bar is disabled."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        text = log_line(state.global_step, logs or {})
        if text and state.is_world_process_zero:
            print(text, file=sys.stderr)


class LinesAboveBar(ProgressCallback):  # type: ignore[misc]  # mypy skips transformers
    """The library's progress bar, with our lines above it."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        text = log_line(state.global_step, logs or {})
        if text and self.training_bar is not None:  # only the first process has a bar
            self.training_bar.write(text, file=sys.stderr)


def show_progress(trainer: Any) -> None:
    """Replace the library's lines by ours."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    if not log.isEnabledFor(logging.WARNING):  # --quiet sets such a level
        return
    has_bar = not trainer.args.disable_tqdm and sys.stderr.isatty()
    trainer.add_callback(LinesAboveBar() if has_bar else PlainLines())
