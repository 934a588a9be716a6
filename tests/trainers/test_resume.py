"""A run is resumed as the run that it is: whatever decides its rows, weights or steps must be as it was."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytest.importorskip("trl", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = [pytest.mark.train, pytest.mark.slow]

from fixtures.training import make_dataset, toy_model, train_rm
from transformers import TrainerState, logging

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.trainers import config
from sotopia_rl_data.trainers.api import TrainingRun
from sotopia_rl_data.trainers.settings import CLASSES

logging.disable_progress_bar()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("resume")
    make_dataset(root, episodes=10, environments=10, turns=2)
    toy_model(root / "model")
    return root


def run(root: Path, kind: str, *settings: str) -> TrainingRun:
    options = {"dataset": "toys/rewards", "store": str(root), "model": str(root / "model")}
    options["output_dir"] = str(root / kind)
    options |= {"reward_model": str(root / "model")} if kind == "grpo" else {}
    chosen: Any = getattr(config, CLASSES[kind])
    return TrainingRun(config.configure(chosen, preset="tiny", options=options, settings=settings), need_reward=False)


@pytest.fixture(scope="module")
def checkpoints(root: Path) -> dict[str, Path]:
    """A checkpoint of each kind, as far as a run that goes on reads it."""
    found = {}
    for kind in CLASSES:
        first = run(root, kind)
        found[kind] = root / kind / "checkpoint-1"
        found[kind].mkdir()
        for callback in first.callbacks:
            callback.on_save(first.config, TrainerState(global_step=1), None)
    return found


LENGTHS = {"grpo": "max_prompt_length", "rm": "max_length", "sft": "max_length", "dpo": "max_length"}
CHANGES = [
    *[(kind, "seed=7", "seed=42; this run has seed=7") for kind in CLASSES],
    *[(kind, f"{LENGTHS[kind]}=512", f"{LENGTHS[kind]}=4096; this run has {LENGTHS[kind]}=512") for kind in CLASSES],
    *[(kind, "gradient_accumulation_steps=2", "rows_a_step=") for kind in CLASSES],
    *[(kind, "learning_rate=0.5", "learning_rate=0.001; this run has learning_rate=0.5") for kind in CLASSES],
    ("rm", "packing=none", "packing=auto; this run has packing=none"),
    ("rm", "row_tokens=1024", "row_tokens=8192; this run has row_tokens=1024"),
    ("sft", "packing=true", "packing=False; this run has packing=True"),
    ("dpo", "beta=0.5", "beta=0.1; this run has beta=0.5"),
    ("dpo", "label_smoothing=0.1", "label_smoothing=0.0; this run has label_smoothing=0.1"),
    ("dpo", "f_divergence_type=js_divergence", "f_divergence_type=reverse_kl; this run"),
    ("dpo", "use_weighting=true", "use_weighting=False; this run has use_weighting=True"),
    ("dpo", "ld_alpha=0.5", "ld_alpha=None; this run has ld_alpha=0.5"),
    ("grpo", "max_completion_length=8", "max_completion_length=16; this run has max_completion_length=8"),
    ("grpo", "num_generations=2", "num_generations=4; this run has num_generations=2"),
]


@pytest.mark.parametrize(("kind", "setting", "told"), CHANGES)
def test_a_run_with_another_setting_is_refused(
    root: Path, checkpoints: dict[str, Path], kind: str, setting: str, told: str
):
    with pytest.raises(UsageError) as refused:
        run(root, kind, "resume=true", setting)
    assert f"{checkpoints[kind]} was trained with {told}" in refused.value.message
    assert "with --output" in refused.value.hint


@pytest.mark.parametrize("kind", CLASSES)
def test_a_run_as_it_was_goes_on_also_with_its_step_divided_otherwise(
    root: Path, checkpoints: dict[str, Path], kind: str
):
    assert run(root, kind, "resume=true", "logging_steps=5").checkpoint == checkpoints[kind]
    divided = (f"per_device_train_batch_size={2 if kind == 'grpo' else 1}", "gradient_accumulation_steps=2")
    assert run(root, kind, "resume=true", *divided).checkpoint == checkpoints[kind]


def test_with_a_budget_of_tokens_the_batches_of_a_step_stay(root: Path):
    settings = ("output_dir=" + str(root / "budget"), "tokens_per_device_batch=4096")
    first = run(root, "rm", *settings)
    checkpoint = root / "budget" / "checkpoint-1"
    checkpoint.mkdir()
    first.callbacks[1].on_save(first.config, TrainerState(global_step=1), None)
    assert run(root, "rm", *settings, "resume=true").checkpoint == checkpoint
    with pytest.raises(UsageError, match="batches_a_step=1; this run has batches_a_step=2") as refused:
        run(root, "rm", *settings, "resume=true", "gradient_accumulation_steps=2")
    assert refused.value.hint.startswith("set gradient_accumulation_steps so that")


@pytest.mark.parametrize("forgets", [False, True], ids=["of rows", "from before there were budgets"])
def test_a_run_whose_batches_had_rows_is_not_resumed_with_a_budget(root: Path, tmp_path: Path, forgets: bool):
    settings = ("output_dir=" + str(tmp_path), "per_device_train_batch_size=2", "gradient_accumulation_steps=4")
    first = run(root, "rm", *settings)
    record = tmp_path / "checkpoint-1" / "run.json"
    record.parent.mkdir()
    first.callbacks[1].on_save(first.config, TrainerState(global_step=1), None)
    if forgets:
        kept = json.loads(record.read_text())
        del kept["config"]["tokens_per_device_batch"]
        record.write_text(json.dumps(kept))
    with pytest.raises(UsageError, match="was trained with 8 rows a step; this run fills each batch") as refused:
        run(root, "rm", settings[0], "resume=true", "tokens_per_device_batch=4096", "gradient_accumulation_steps=8")
    assert refused.value.hint.startswith("set per_device_train_batch_size and gradient_accumulation_steps as they were")
    assert run(root, "rm", *settings, "resume=true").checkpoint == record.parent


def test_two_processes_do_not_train_into_one_folder(root: Path, tmp_path: Path):
    """The lock is gone with the run, or with its process."""

    def is_free() -> bool:
        handle = os.open(tmp_path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with pytest.raises(UsageError, match="Another process is training into") as refused:
                run(root, "rm", f"output_dir={tmp_path}")
            assert refused.value.hint.endswith("--output DIR")
            return True
        except BlockingIOError:
            return False
        finally:
            os.close(handle)

    assert is_free()
    one = run(root, "rm", f"output_dir={tmp_path}")
    run(root, "rm", f"output_dir={tmp_path}")  # the same process may begin anew, as after an error
    assert not is_free()
    one.folder.let_go()
    assert is_free()


def test_a_checkpoint_of_an_earlier_version_is_held_to_what_it_says(root: Path):
    """Its record names fewer settings."""
    first = run(root, "rm", "output_dir=" + str(root / "earlier"))
    checkpoint = root / "earlier" / "checkpoint-1"
    checkpoint.mkdir()
    first.callbacks[1].on_save(first.config, TrainerState(global_step=1), None)
    record = json.loads((checkpoint / "run.json").read_text())
    for name in ("seed", "max_length", "rows_a_step"):
        del record["config"][name]
    (checkpoint / "run.json").write_text(json.dumps(record))
    assert run(root, "rm", "output_dir=" + str(root / "earlier"), "resume=true", "seed=7").checkpoint == checkpoint


def test_a_step_that_is_divided_otherwise_goes_on_to_the_same_steps(root: Path, tmp_path: Path):
    options: dict[str, Any] = {"preset": "tiny", "store": str(root)}
    quiet = ("disable_tqdm=true", "save_total_limit=5", "resamples=0", "packing=none", "lr_scheduler_type=constant")
    whole = train_rm("toys/rewards", str(root / "model"), tmp_path / "run", settings=[*quiet, "max_steps=4"], **options)
    halved = ("per_device_train_batch_size=1", "gradient_accumulation_steps=2", "resume=true")
    (tmp_path / "run" / "checkpoint-4" / "run.json").unlink()  # as if it had ended after two
    again = train_rm(
        "toys/rewards", str(root / "model"), tmp_path / "run", settings=[*quiet, *halved, "max_steps=4"], **options
    )
    assert again["metrics"]["test"]["mse"] == pytest.approx(whole["metrics"]["test"]["mse"], rel=1e-5)
