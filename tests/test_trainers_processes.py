"""Two processes are one: the same step over gloo as in a single process; the shipped launch configurations parse."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("accelerate", reason="needs the train extra")
pytestmark = pytest.mark.train

from train_toys import make_dataset

from trainers.tiny import make_tiny

ROOT = Path(__file__).parent.parent
TRAIN = """
import sys
import torch
torch.set_num_threads(1)
from trainers.commands import train_rm
out, batch, store, model = sys.argv[1:5]
settings = ["disable_tqdm=true", "max_steps=3", "eval_steps=3", "save_steps=3", "optim=sgd", "learning_rate=0.05",
            f"per_device_train_batch_size={batch}", *sys.argv[5:]]
train_rm("toys/rewards", model, out, preset="tiny", store=store, settings=settings)
"""


def launch(tmp_path: Path, out: str, batch: int, processes: int, *settings: str) -> dict[str, Any]:
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    command = [sys.executable, str(script)]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [
            sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes),
            "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
            "--main_process_port", str(port), str(script),
        ]  # fmt: skip
    arguments = [str(tmp_path / out), str(batch), str(tmp_path), str(tmp_path / "model"), *settings]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*command, *arguments], env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads((tmp_path / out / "run.json").read_text()))


def losses(tmp_path: Path, out: str) -> list[float]:
    rows = [json.loads(line) for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["tree", "none"])
def test_two_processes_give_the_loss_and_the_metrics_of_one(tmp_path: Path, packing: str):
    make_dataset(tmp_path, episodes=20, turns=5)
    make_tiny(tmp_path / "model", hidden=32, layers=2)
    one = launch(tmp_path, "one", 4, 1, f"packing={packing}")
    two = launch(tmp_path, "two", 2, 2, f"packing={packing}")
    assert two["packing"]["rows"] == packing
    assert losses(tmp_path, "two") == pytest.approx(losses(tmp_path, "one"), abs=1e-5)
    for split in ("validation", "test"):
        for metric in ("mse", "mae", "spearman", "pair_accuracy", "mse_low"):
            assert two["metrics"][split][metric] == pytest.approx(one["metrics"][split][metric], abs=1e-5), metric


@pytest.mark.parametrize("name", ["ddp", "fsdp", "deepspeed_zero2", "deepspeed_zero3"])
def test_the_shipped_configurations_are_ones_that_accelerate_reads(name: str):
    from accelerate.commands.config.config_args import load_config_from_file

    found = load_config_from_file(str(ROOT / "trainers" / "accelerate" / f"{name}.yaml"))
    assert found.num_processes == 8
    assert found.distributed_type.value == {"ddp": "MULTI_GPU", "fsdp": "FSDP"}.get(name, "DEEPSPEED")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp", "deepspeed_zero2", "deepspeed_zero3"])
def test_the_shipped_configurations_start_where_the_hardware_allows(tmp_path: Path, name: str):
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    if name.startswith("deepspeed"):
        pytest.importorskip("deepspeed")
    make_dataset(tmp_path, episodes=20, turns=4)
    make_tiny(tmp_path / "model", hidden=32, layers=2)
    (tmp_path / "train.py").write_text(TRAIN)
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--config_file",
        str(ROOT / "trainers" / "accelerate" / f"{name}.yaml"), str(tmp_path / "train.py"), str(tmp_path / "out"), "2",
        str(tmp_path), str(tmp_path / "model"), "use_cpu=false",
    ]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
