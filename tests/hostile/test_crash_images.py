"""A crash at any moment that leaves a trace: from an image of each, every writing command goes on to the same end.

`fixtures/crash_images.py` saves what lies on the disk before each rename, link, unlink and fsync of one run of a
command, and before each file that Python opens to write. Every image must be a whole store, and the same command, run
on it, must end as the uninterrupted one did.

    command                                     images           goes on from      kill -9
    import, label, rewards, evaluate,
    annotate import, rollout, audit, pull,
    push-to-hub, ledger compact                 each is whole    each of them      ten, in the second half of a run
    train rm, score                             each is whole    each of them      ten, over the whole run
"""

from __future__ import annotations

import csv
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fixtures import crash_images
from fixtures.hub import HubToys
from fixtures.places import ROOT
from fixtures.warm_processes import WarmProcess, warm

from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.hashing import file_sha256
from sotopia_rl_data.importers import samples_path
from sotopia_rl_data.store import Store
from sotopia_rl_data.store.verify import verify

pytestmark = pytest.mark.slow

WHERE = "episode_id IN ('sample-boat-sale-3', 'sample-mothers-house-3')"
GOAL = ["--dimensions", "goal", "--preset", "goal-only"]
STEPS = ["disable_tqdm=true", "use_cpu=true", "max_steps=4", "save_steps=2", "eval_steps=2", "resamples=0"]
TRAIN = ["train", "rm", "--dataset", "toys/rewards", "--model", "MODEL", "--preset", "tiny", "-o", "FOLDER/run"]
TRAIN += ["--resume", *(part for setting in STEPS for part in ("--set", setting))]
SCORE = ["score", "toys/rewards", "--reward-model", "FOLDER/run", "--out", "toys/scored"]
COMMANDS = {
    "import": ["import", "SAMPLES", "--name", "lab/again", "--where", WHERE],
    "label": ["label", "lab/episodes", "--judge", "SIM", "--out", "lab/more", *GOAL],
    "rewards": ["rewards", "lab/labels", "--preset", "goal-only", "--normaliser", "zscore", "--out", "lab/remade"],
    "evaluate": ["evaluate", "lab/episodes", "--judge", "SIM", "--dimensions", "goal"],
    "annotate import": ["annotate", "import", "FOLDER/form.csv", "lab/played"],
    "rollout": ["rollout", "--a", "SIM", "--pairs", "1", "--turns", "4", "--out", "lab/rolled"],
    "audit": [
        "audit",
        "lab/episodes",
        "--judge",
        "SIM",
        "--episodes",
        "2",
        "--dimensions",
        "goal",
        "--out",
        "lab/audited",
    ],
    "ledger compact": ["ledger", "compact"],
    "pull": ["pull", "lab/published"],
    "push": ["push-to-hub", "lab/labels", "--repo", "lab/pushed", "--check", "files"],
}
LEAST = {"ledger compact": 2, "push": 2, "annotate import": 3}  # images; of other commands at least 4


@dataclass
class Bench:
    """A folder with a store and all that the commands need, and how to run them on copies of it."""

    folder: Path
    toys: HubToys
    provider: Running

    def words(self, command: list[str], folder: Path) -> list[str]:
        sim = f"openai:sim-judge@{self.provider.openai_url}"
        named = {"SAMPLES": str(samples_path()), "SIM": sim, "MODEL": str(self.folder / "model")}
        words = [named.get(word, word.replace("FOLDER", str(folder))) for word in command]
        return [*words, "--store", str(folder / "store")]

    def run(self, command: list[str], folder: Path | None = None) -> str:
        folder = folder or self.folder
        done = self.toys.run(*self.words(command, folder), check=False)
        assert done.code in (0, 3), (command, done.code, done.err[-3000:])
        return done.out

    def start(self, command: list[str], folder: Path) -> subprocess.Popen[str]:
        """The command as a process of its own, not waited for."""
        return self.toys.run.start(*self.words(command, folder))

    def filmed(self, command: list[str], folder: Path, images: Path) -> None:
        """Run a command on `folder` in a process of its own, with an image of each moment."""
        words = self.words(command, folder)
        environment = self.toys.run.environment | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        call = [sys.executable, crash_images.__file__, str(folder), str(images), *words]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode in (0, 3), done.stderr[-3000:]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    toys = HubToys(tmp_path_factory.mktemp("hub"), xet=False)
    with running() as provider:
        made = Bench(folder, toys, provider)
        made.run(["import", "SAMPLES", "--name", "lab/episodes", "--where", WHERE])
        made.run(["label", "lab/episodes", "--judge", "lexical", "--out", "lab/labels"])
        made.run(["label", "lab/episodes", "--judge", "SIM", "--out", "lab/judged"])  # fills the ledger
        made.run(["rollout", "--a", "SIM", "--pairs", "1", "--turns", "2", "--out", "lab/played"])
        made.run(["push-to-hub", "lab/labels", "--repo", "lab/published", "--check", "files"])
        fill_form(made)
        yield made
    toys.stop()


def fill_form(bench: Bench) -> None:
    """A form for people, filled in by a rule."""
    path = bench.folder / "form.csv"
    bench.run(["annotate", "export", "lab/played", "-o", str(path), "--dialogues", "2", "--dimensions", "goal"])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"score": number % 11} for number, row in enumerate(rows))


def outcome(store: Store) -> dict[str, str]:
    """The digest of every version."""
    return {f"{name}@{v}": store.version(name, v).digest for name in store.names() for v in store.versions(name)}


def check_whole(store: Store) -> None:
    for name in store.names():
        readable, damaged = store.history(name)
        assert not damaged, damaged
        for version in readable:
            assert verify(version).problems == ()


def images_of(bench: Bench, command: list[str], source: Path, folder: Path) -> list[Path]:
    """The images of a run of `command` on a copy of `source`, which it leaves in `folder`/end."""
    shutil.copytree(source, folder / "end")
    (folder / "images").mkdir()
    bench.filmed(command, folder / "end", folder / "images")
    return sorted((folder / "images").iterdir())


def drawn_from(images: list[Path], count: int | None) -> list[Path]:
    return images if count is None else random.Random(count).sample(images, min(count, len(images)))


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("count", [1, pytest.param(None, marks=pytest.mark.long)], ids=["some", "all"])
def test_from_every_moment_the_same_command_finishes(
    bench: Bench, name: str, count: int | None, tmp_path: Path
) -> None:
    images = images_of(bench, COMMANDS[name], bench.folder, tmp_path)
    assert len(images) >= LEAST.get(name, 4), [path.name for path in images]
    expected = outcome(Store(tmp_path / "end/store"))
    for image in drawn_from(images, count):
        store = Store(image / "store")
        check_whole(store)
        bench.run(COMMANDS[name], image)
        assert outcome(store) == expected, image.name
        check_whole(store)
        assert not [path for path in store.root.glob(".staging/*") if path.is_dir()], image.name


Process = subprocess.Popen[str] | WarmProcess
Start = Callable[[list[str], Path], Process]


def kill_ten_times(start: Start, command: list[str], source: Path, folder: Path, earliest: float) -> None:
    """Run a command on a copy of `source`, `folder`/end, to its end; on another one, `folder`/killed, ten times until a
    kill -9, and then to its end. The `earliest` kill comes after this share of the time that a whole run takes."""
    end, killed, draw = folder / "end", folder / "killed", random.Random(command[0])
    for copy in (end, killed):
        shutil.copytree(source, copy)
    began = time.monotonic()
    run_whole(start(command, end))
    took = time.monotonic() - began
    for _ in range(10):
        process = start(command, killed)
        until = time.monotonic() + took * draw.uniform(earliest, 1.0)
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        process.kill()
        process.communicate()
        check_whole(Store(killed / "store"))
    run_whole(start(command, killed))
    assert outcome(Store(killed / "store")) == outcome(Store(end / "store"))
    check_whole(Store(killed / "store"))


def run_whole(process: Process) -> None:
    told = process.communicate()
    assert process.returncode in (0, 3), told


@pytest.mark.long
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_ten_times_the_same_command_finishes(bench: Bench, name: str, tmp_path: Path) -> None:
    earliest = 0.5  # the first half of a run is imports
    kill_ten_times(bench.start, COMMANDS[name], bench.folder, tmp_path, earliest)


@pytest.mark.train
@pytest.mark.long
@pytest.mark.timeout(1_800)  # nine minutes at a load of 30
def test_training_and_scoring_killed_ten_times_finish_too(bench: Bench, tmp_path: Path) -> None:
    from fixtures.training import make_dataset, toy_model

    make_dataset(tmp_path / "start/store", episodes=20, turns=5)
    toy_model(bench.folder / "model")
    with warm(bench.toys.run.environment | {"OMP_NUM_THREADS": "1"}) as parent:

        def start(command: list[str], folder: Path) -> WarmProcess:
            return WarmProcess(parent, bench.words(command, folder))

        kill_ten_times(start, TRAIN, tmp_path / "start", tmp_path / "train", 0.1)
        weights = {file_sha256(tmp_path / "train" / way / "run/model.safetensors") for way in ("end", "killed")}
        assert len(weights) == 1
        kill_ten_times(start, SCORE, tmp_path / "train/end", tmp_path / "score", 0.1)


@pytest.mark.train
@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_training_and_scoring_go_on_from_every_moment(bench: Bench, tmp_path: Path) -> None:
    from fixtures.training import make_dataset, toy_model

    start = tmp_path / "start"
    make_dataset(start / "store", episodes=20, turns=5)
    toy_model(bench.folder / "model")
    trained, scored = tmp_path / "trained", tmp_path / "scored"
    images = images_of(bench, TRAIN, start, trained)
    weights = file_sha256(trained / "end/run/model.safetensors")
    for image in images:
        check_whole(Store(image / "store"))
        bench.run(TRAIN, image)
        assert file_sha256(image / "run/model.safetensors") == weights, image.name
    images = images_of(bench, SCORE, trained / "end", scored)
    expected = outcome(Store(scored / "end/store"))
    for image in images:
        check_whole(Store(image / "store"))
        bench.run(SCORE, image)
        assert outcome(Store(image / "store")) == expected, image.name
