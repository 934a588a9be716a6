"""`--on ray`: a Ray cluster of three nodes on this machine, one of them killed in the midst.

pip install -e '.[ray]' && pytest -m long tests/cluster
"""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.flat_calls import label, plan_of, rollout
from fixtures.labelling import boats, put, sim
from fixtures.places import ROOT
from fixtures.thread_workers import PRICES, cost

from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.cluster.on_ray import RayWorkers
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.rollouts.scenarios import scenes_of
from sotopia_rl_data.store import Store

ray = pytest.importorskip("ray", reason="needs the ray extra: pip install -e '.[ray]'")

pytestmark = pytest.mark.long
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}
CLIENTS = 23_456  # the port of `ray://` on the head
PLUGIN = """
import json, os
class Seen:
    id = "seen"
    async def answer(self, question):
        with open({file!r}, "a") as file:
            file.write(os.environ.get("CUDA_VISIBLE_DEVICES", "") + "\\n")
        return json.dumps({{}})
"""


class Nodes:
    """The cluster, and those of its nodes that can be killed."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {**NODE, "include_dashboard": False, "ray_client_server_port": CLIENTS, "num_gpus": 1}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.others = [self.cluster.add_node(**NODE) for _ in range(2)]

    def kill_one(self) -> None:
        self.cluster.remove_node(self.others.pop(), allow_graceful=False)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    nodes = Nodes()
    yield nodes
    nodes.cluster.shutdown()


@pytest.fixture
def connected(nodes: Nodes) -> Iterator[Nodes]:
    ray.init(address=nodes.cluster.address, log_to_driver=False, logging_level="error")
    yield nodes
    ray.shutdown()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def labelled(folder: Path, *more: str, judge: str = "lexical", **variables: str) -> subprocess.CompletedProcess[str]:
    """The bundled samples, labelled by the command line, in a store of their own."""
    command = [sys.executable, "cli.py", "label", "--judge", judge, "--store", str(folder / "store"), "--json"]
    environment = os.environ | variables
    return subprocess.run([*command, *more], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("judge", ["lexical", "file"])
def test_a_command_on_the_cluster_makes_the_version_of_one_process(judge: str, nodes: Nodes, tmp_path: Path):
    if judge == "file":
        file = tmp_path / "toy.py"
        file.write_text(PLUGIN.format(file=str(tmp_path / "seen")))
        judge = f"{file}:Seen"

    there = labelled(tmp_path, "--on", f"ray://127.0.0.1:{CLIENTS}", judge=judge)
    here = labelled(tmp_path / "here", judge=judge)
    assert there.returncode == here.returncode == 3, there.stderr + here.stderr  # some have no episode score
    digests = [re.search(r'"digest": "(\w+)"', done.stdout) for done in (there, here)]
    assert digests[0]
    assert digests[1]
    assert digests[0][1] == digests[1][1]


def test_a_key_that_only_this_machine_has_reaches_the_nodes_and_none_of_their_logs(nodes: Nodes, tmp_path: Path):
    key = "sk-lab-0123456789abcdef0123456789abcdef"
    with running(key=key) as provider:
        host = provider.url.removeprefix("http://")
        on = ["--on", f"ray://127.0.0.1:{CLIENTS}", "--key", f"{host}=LAB_KEY"]
        done = labelled(tmp_path, *on, judge=sim(provider), LAB_KEY=key)
        assert done.returncode in (0, 3), done.stderr
        log = provider.log()
        assert log["answered"] == log["requests"] > 0
    assert key not in done.stdout + done.stderr
    logs = Path(nodes.cluster.head_node.get_session_dir_path()) / "logs"
    files = [path for path in logs.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if key.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("is_in_the_environment", [False, True])
def test_an_address_where_no_cluster_is_ends_the_run_soon_with_a_sentence(is_in_the_environment: bool, tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        if is_in_the_environment:
            done = labelled(tmp_path, "--on", "ray", RAY_ADDRESS=place)
        else:
            done = labelled(tmp_path, "--on", f"ray://{place}")
    assert done.returncode == 1
    assert "There is no Ray cluster at 127.0.0.1:" in done.stderr
    assert ("unset it" in done.stderr) == is_in_the_environment
    assert "Traceback" not in done.stderr


def test_a_node_that_is_killed_costs_what_it_had_in_flight(
    connected: Nodes, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    episodes, cap = 1_000, 4_000.0
    put(store, boats(episodes))
    prices = tmp_path / "prices.yaml"
    prices.write_text(PRICES)
    with running(latency=0.3, limit=100) as provider:
        until = time.monotonic() + 300

        def kill_later() -> None:
            while provider.log()["answered"] < episodes and time.monotonic() < until:
                time.sleep(0.1)
            connected.kill_one()

        killer = threading.Thread(target=kill_later)
        killer.start()
        caplog.set_level(logging.WARNING, "sotopia_rl_data.cluster")
        asked: dict[str, Any] = {"judges": [sim(provider)], "preset": "goal-only", "sampling": {"max_tokens": 200}}
        began = time.monotonic()
        made = label(store, "lab/episodes", workers=RayWorkers(), budget=cap, prices=prices, **asked)
        took = time.monotonic() - began
        killer.join()
        lost = [int(number) for number in re.findall(r"was lost with (\d+) calls in flight", caplog.text)]
        log = provider.log()
        assert log["distinct"] == 2 * episodes
        assert len(lost) == 1
        assert log["paid_twice"] <= lost[0]
        assert log["requests"] / took <= 100
        assert log["statuses"].get("429", 0) < 0.2 * log["requests"]
        assert cost(provider) <= cap
        assert made.asked == 2 * episodes
        alone = Store(tmp_path / "alone")
        put(alone, boats(episodes))
        assert label(alone, "lab/episodes", **asked).digest == made.digest


def test_a_rollout_with_a_policy_that_needs_no_model_is_played_on_the_cluster(
    connected: Nodes, store: Store, tmp_path: Path
):
    scenes = list(scenes_of("samples"))
    for where, workers in ((store, RayWorkers()), (Store(tmp_path / "alone"), None)):
        rollout(where, plan_of(scenes, a="scripted:warm", b="scripted:firm"), "lab/play", workers=workers)
    assert store.resolve("lab/play").digest == Store(tmp_path / "alone").resolve("lab/play").digest


def test_workers_share_a_gpu_and_too_many_gpus_are_refused(connected: Nodes, store: Store, tmp_path: Path):
    put(store, boats(6))
    file, seen = tmp_path / "toy.py", tmp_path / "seen"
    file.write_text(PLUGIN.format(file=str(seen)))
    label(store, "lab/episodes", judges=[f"{file}:Seen"], preset="goal-only", workers=RayWorkers(gpus=0.5))
    assert set(seen.read_text().split()) == {"0"}  # the only GPU that the cluster says to have
    with pytest.raises(UsageError, match="a CPU and 2 GPUs"):
        label(store, "lab/episodes", judges=[f"{file}:Seen"], preset="goal-only", workers=RayWorkers(gpus=2), samples=2)


def test_a_cluster_with_another_version_of_the_program_is_named(nodes: Nodes, tmp_path: Path):
    other = tmp_path / "sotopia_rl_data-9.9.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: sotopia-rl-data\nVersion: 9.9\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = labelled(tmp_path, "--on", f"ray://127.0.0.1:{CLIENTS}", PYTHONPATH=path)
    assert done.returncode == 2
    assert re.search(r"has sotopia-rl-data \S+ on Python .* and this machine has 9.9 on", done.stderr)
    assert "install sotopia-rl-data 9.9 on every node" in done.stderr
    assert Store(tmp_path / "store").names() == ["samples"]  # the bundled episodes, which are imported first


def test_an_import_on_the_cluster_is_the_import_of_one_process(connected: Nodes, store: Store):
    for name, more in (("lab/there", ["--on", "ray"]), ("lab/here", [])):
        done = CliRunner().invoke(cli, ["import", "--name", name, "--store", str(store.root), *more])
        assert done.exit_code == 0, done.output
    assert store.resolve("lab/there").digest == store.resolve("lab/here").digest


@pytest.mark.train
def test_a_reward_model_scores_on_the_cluster_what_it_scores_in_one_process(
    connected: Nodes, store: Store, tmp_path: Path
):
    pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
    from fixtures.training import make_dataset, toy_model, train_rm

    from sotopia_rl_data.trainers import api

    ref, model = make_dataset(store.root, episodes=200), str(tmp_path / "rm")  # 1,200 rows: three blocks
    train_rm(ref, toy_model(tmp_path / "base"), tmp_path / "rm", preset="tiny", store=str(store.root))
    there, here = (
        api.score(ref, model, store=store.root, out=f"lab/{name}", ledger=tmp_path / name, device=device)
        for name, device in (("there", RayWorkers()), ("here", "cpu"))
    )
    assert there["rows"] == here["rows"] == 1_200
    assert store.resolve(there["ref"]).digest == store.resolve(here["ref"]).digest
