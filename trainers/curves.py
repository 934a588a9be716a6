"""What a run writes as it goes: a line of `metrics.jsonl` each time, into each checkpoint what it stands on, and a
picture of the curves at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sotopia_rl_data.trainers.run import METRICS, PLOT, RunFolder, plain


class MetricsFile(TrainerCallback):
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


class Pin(TrainerCallback):
    """Writes `run.json` into each checkpoint: what it was trained from, on and as."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = plain(record)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            RunFolder(Path(args.output_dir) / f"checkpoint-{state.global_step}").write(self.record)


def draw(
    folder: RunFolder, keys: tuple[str, ...] = ("loss", "reward", "mse", "spearman", "pair_accuracy")
) -> Path | None:
    """`metrics.png`: one panel for each of `keys` that was logged, train and held-out curves together."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    rows = folder.metrics()
    panels = [k for k in keys if any(name in row for row in rows for name in (k, f"eval_{k}"))]
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
