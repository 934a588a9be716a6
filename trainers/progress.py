"""Progress in the terminal: the library's bar, and one short line where it would print thirty numbers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from transformers import PrinterCallback, ProgressCallback

TRAIN = ("loss", "reward", "reward_std", "kl", "completions/mean_length", "learning_rate")
HELD_OUT = ("eval_loss", "eval_mse", "eval_spearman", "eval_pair_accuracy", "eval_reward")


def line(step: int, logs: Mapping[str, Any]) -> str:
    """What of a logged row is worth a glance; "" for nothing. Held-out errors stand beside their baselines."""
    parts = [f"{key.rpartition('/')[2]} {_short(logs[key])}" for key in TRAIN if logs.get(key) is not None]
    parts += [_held_out(key, logs) for key in HELD_OUT if logs.get(key) is not None]
    return f"step {step}  {'  '.join(parts)}" if parts else ""


def _held_out(key: str, logs: Mapping[str, Any]) -> str:
    text = f"{key.replace('eval_', 'validation ')} {_short(logs[key])}"
    low, high = logs.get(f"{key}_low"), logs.get(f"{key}_high")
    if low is not None and high is not None:
        text += f" [{_short(low)}, {_short(high)}]"
    beside = {b: logs.get(key.replace("eval_", f"eval_{b}_")) for b in ("mean", "turn")}
    known = ", ".join(f"{name} {_short(value)}" for name, value in beside.items() if value is not None)
    return f"{text} ({known})" if known and key == "eval_mse" else text


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class Progress(ProgressCallback):
    """The bar, with our lines; in a pipe or with the bar disabled, the lines alone, on stderr."""

    def __init__(self, bar: bool) -> None:
        super().__init__()
        self.bar = bar

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar:
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar:
            super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        if self.bar:
            super().on_prediction_step(*args, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar:
            super().on_train_end(args, state, control, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        text = line(state.global_step, logs or {})
        if not text or not state.is_world_process_zero:
            return
        if self.training_bar is not None:
            self.training_bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr)


def show_progress(trainer: Any) -> None:
    """Put our lines in the place of the library's."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(Progress(bar=not trainer.args.disable_tqdm and sys.stderr.isatty()))
