"""Two processes are one: the same step over gloo as in a single process; the shipped launch configurations parse."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fixtures.places import ROOT

pytest.importorskip("accelerate", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = pytest.mark.train

import psutil
from fixtures.training import make_dataset, train_rm
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sotopia_rl_data.store import Store
from sotopia_rl_data.trainers.tiny import make_tiny

PACKINGS = ("tree", "none")
TRAIN = """
import sys
import torch
torch.set_num_threads(1)
from sotopia_rl_data.trainers.api import train_rm
from sotopia_rl_data.trainers.config import RMConfig, configure
store, out, batch, packings, *settings = sys.argv[1:]
settings += ["disable_tqdm=true", "max_steps=3", "eval_steps=3", "save_steps=3", "optim=sgd", "learning_rate=0.05",
             f"per_device_train_batch_size={batch}"]
for packing in packings.split(","):  # one after the other: starting processes is what takes long
    options = {"dataset": "toys/rewards", "model": store + "/model", "output_dir": f"{out}/{packing}", "store": store}
    train_rm(configure(RMConfig, preset="tiny", options=options, settings=[*settings, f"packing={packing}"]))
"""


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def python(*command: str, **more: str) -> str:
    """What the command says in all."""
    env = {**ENVIRONMENT, **more}
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def kill_when(command: Sequence[str], is_time: Callable[[], bool]) -> None:
    """Start a command, and kill it with all processes that it starts as soon as it is time."""
    process = subprocess.Popen(
        [sys.executable, *command],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 300
        while not is_time():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        for one in (*psutil.Process(process.pid).children(recursive=True), process):
            one.kill()
        process.wait()


def kept(ledger: Path) -> int:
    """How many scores are in a ledger."""
    return sum(path.read_text().count("\n") for path in ledger.glob("journal-*.jsonl"))


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def two_processes() -> tuple[str, ...]:
    """What starts a script, or a module, as two processes with the shipped configuration, in full precision."""
    shipped = str(ROOT / "trainers" / "accelerate" / "ddp.yaml")
    plain = ("--num_processes", "2", "--mixed_precision", "no", "--main_process_port", free_port())
    return ("-m", "accelerate.commands.launch", "--config_file", shipped, *plain)


def losses(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, a model, and the script that trains on them."""
    root = tmp_path_factory.mktemp("toys")
    make_dataset(root, episodes=20, turns=5)
    make_tiny(root / "model", hidden=32, layers=2)
    (root / "train.py").write_text(TRAIN)
    return root


@pytest.mark.slow
def test_two_processes_give_the_loss_and_the_metrics_of_one(toys: Path, monkeypatch: pytest.MonkeyPatch):
    """Over gloo, with the shipped configuration of several GPUs, in full precision."""
    script, packings = str(toys / "train.py"), ",".join(PACKINGS)
    monkeypatch.setattr(sys, "argv", [script, str(toys), str(toys / "one"), "4", packings])
    exec(compile(TRAIN, script, "exec"), {})  # in this process, which has imported it all
    python(*two_processes(), script, str(toys), str(toys / "two"), "2", packings)
    for packing in PACKINGS:
        one, two = (json.loads((toys / name / packing / "run.json").read_text()) for name in ("one", "two"))
        assert two["packing"]["rows"] == packing
        assert losses(toys / "two" / packing) == pytest.approx(losses(toys / "one" / packing), abs=1e-5)
        for split in ("validation", "test"):
            for metric in ("mse", "mae", "spearman", "pair_accuracy", "mse_low"):
                assert two["metrics"][split][metric] == pytest.approx(one["metrics"][split][metric], abs=1e-5), metric


GRPO = """
import sys
import torch
torch.set_num_threads(1)
from sotopia_rl_data.trainers.api import train_grpo
from sotopia_rl_data.trainers.config import PolicyGRPOConfig, configure
root, judge = sys.argv[1:]
quick = ["disable_tqdm=true", "max_steps=2", "eval_strategy=steps", "eval_steps=1", "truncated_reward=below",
         "max_completion_length=2", "per_device_train_batch_size=2", "num_generations=4", "beta=0",
         "held_out_prompts=8", f"held_out_judge={judge}"]
options = {"dataset": "toys/rewards", "model": root + "/model", "store": root, "output_dir": root + "/grpo",
           "reward_model": root + "/rm"}
train_grpo(configure(PolicyGRPOConfig, preset="tiny", options=options, settings=quick))
"""


JUDGE = """
class Lengths:
    def __call__(self, prompts, completions, **columns):
        return [float(len(completion[-1]["content"])) for completion in completions]
"""


@pytest.mark.long
def test_groups_and_held_out_prompts_are_those_of_all_processes(toys: Path):
    """A group of four is spread over two processes, and so are the prompts that are evaluated."""
    settings = ["disable_tqdm=true", "max_steps=1", "eval_strategy=no", "save_strategy=no"]
    train_rm("toys/rewards", str(toys / "model"), toys / "rm", preset="tiny", store=str(toys), settings=settings)
    (toys / "grpo.py").write_text(GRPO)
    (toys / "judge.py").write_text(JUDGE)
    python(*two_processes(), str(toys / "grpo.py"), str(toys), f"{toys}/judge.py:Lengths")
    record = json.loads((toys / "grpo/run.json").read_text())
    assert record["truncated"] == {"completions": 8, "groups": 2}  # none ends within two tokens
    evaluations = [json.loads(line) for line in (toys / "grpo/held_out.jsonl").read_text().splitlines()]
    assert [evaluation["step"] for evaluation in evaluations] == [0, 1, 2]
    assert [len(evaluation["scores"]) for evaluation in evaluations] == [8, 8, 8]


@pytest.mark.slow
def test_two_processes_score_a_part_each_and_make_the_version_of_one(tmp_path: Path):
    """Killed while they score, they go on where they were; the first one writes the version."""
    rows, store = 1_800, Store(tmp_path / "store")
    dataset = make_dataset(store.root, episodes=rows // 5, turns=5)
    make_tiny(tmp_path / "model", hidden=32, layers=2)
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=1).save_pretrained(
        tmp_path / "rm"
    )
    AutoTokenizer.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "rm")
    command = (
        "-m",
        "sotopia_rl_data",
        "score",
        dataset,
        "--reward-model",
        f"{tmp_path}/rm",
        "--store",
        str(store.root),
    )
    python(*command, "--out", "toys/alone", "--ledger", str(tmp_path / "alone"))
    two = (*two_processes(), *command, "--out", "toys/two", "--ledger", str(tmp_path / "two"))
    kill_when(two, lambda: kept(tmp_path / "two") > 0)
    before = kept(tmp_path / "two")
    said = python(*two)
    assert said.count(f"{rows:,} scores by") == 1  # the first process alone says so
    assert 0 < before < rows
    assert kept(tmp_path / "two") <= rows + 512  # of the block that a kill fell into, some are scored again
    assert len(list((tmp_path / "two").glob("journal-*.jsonl"))) >= 2
    assert store.resolve("toys/two").digest == store.resolve("toys/alone").digest


PAIRS_AND_BUDGET = """
import sys
import torch
torch.set_num_threads(1)
from sotopia_rl_data.trainers import api, config
root, out, accumulation, batch = sys.argv[1:]
quick = ["disable_tqdm=true", "adapter=none", "max_steps=2", "eval_steps=2", "save_steps=2", "optim=sgd",
         "learning_rate=0.05", f"gradient_accumulation_steps={accumulation}"]
options = {"model": root + "/model", "store": root}
for kind, more in (("rm", ["max_length=512", "tokens_per_device_batch=1024"]),
                   ("sft", ["max_length=512", "tokens_per_device_batch=1024"]),
                   ("dpo", [f"per_device_train_batch_size={batch}", "per_device_eval_batch_size=3"])):
    chosen = {"rm": config.RMConfig, "sft": config.PolicySFTConfig, "dpo": config.PolicyDPOConfig}[kind]
    options |= {"dataset": "toys/pairs" if kind == "dpo" else "toys/rewards", "output_dir": f"{out}/{kind}"}
    getattr(api, f"train_{kind}")(config.configure(chosen, preset="tiny", options=options, settings=[*quick, *more]))
"""


@pytest.mark.long
def test_filled_batches_and_pairs_over_two_processes_are_those_of_one(toys: Path):
    """A step of two batches, one after the other or in two processes; the last batch of held-out pairs is not full."""
    make_dataset(toys, "toys/pairs", episodes=44, environments=22, turns=1, splits=half_held_out)
    (toys / "pairs.py").write_text(PAIRS_AND_BUDGET)
    python(str(toys / "pairs.py"), str(toys), str(toys / "once"), "2", "2")
    python(*two_processes(), str(toys / "pairs.py"), str(toys), str(toys / "twice"), "1", "2")
    preferred = ("loss", "accuracy", "margin", "reference_accuracy")
    measured = {"rm": ("mse", "spearman"), "sft": (), "dpo": preferred}  # sft: transformers averages held-out batches
    for kind, metrics in measured.items():
        one, two = (json.loads((toys / name / kind / "run.json").read_text()) for name in ("once", "twice"))
        assert losses(toys / "twice" / kind) == pytest.approx(losses(toys / "once" / kind), abs=1e-5)
        for metric in metrics:
            validation = one["metrics"]["validation"][metric]
            assert two["metrics"]["validation"][metric] == pytest.approx(validation, abs=1e-5), (kind, metric)
    assert one["pairs"]["validation"] % 3 == 2


def half_held_out(row: dict[str, str]) -> str:
    return "train" if int(row["environment_id"].removeprefix("env-")) % 2 else "validation"


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_a_launch_that_shards_the_weights_is_seen(monkeypatch: pytest.MonkeyPatch, kind: str):
    """Only the environment says so; a model that no process holds whole must not be moved or compared."""
    from sotopia_rl_data.trainers.config import RMConfig, configure
    from sotopia_rl_data.trainers.modeling import is_sharded

    config = configure(RMConfig, settings=["use_cpu=true"])
    assert not is_sharded(config)
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    assert is_sharded(config)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "deepspeed_zero2", "deepspeed_zero3"])
def test_the_shipped_configurations_are_ones_that_accelerate_reads(name: str):
    from accelerate.commands.config.config_args import load_config_from_file

    found = load_config_from_file(str(ROOT / "trainers" / "accelerate" / f"{name}.yaml"))
    assert found.num_processes == 8
    assert found.distributed_type.value == {"ddp": "MULTI_GPU", "fsdp": "FSDP"}.get(name, "DEEPSPEED")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp", "deepspeed_zero2", "deepspeed_zero3"])
def test_the_shipped_configurations_start_where_the_hardware_allows(toys: Path, name: str):
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    if name.startswith("deepspeed"):
        pytest.importorskip("deepspeed", reason="pip install deepspeed")
    config = str(ROOT / "trainers" / "accelerate" / f"{name}.yaml")
    launch = ("-m", "accelerate.commands.launch", "--num_processes", "2", "--config_file", config)
    python(*launch, str(toys / "train.py"), str(toys), str(toys / name), "2", "tree", "use_cpu=false")
