"""What a stranger publishes: refused with a sentence, or taken as a whole version that every reading command can read.

Each is pulled by somebody who has an older version of the same dataset, in the store and in huggingface_hub's cache.
Whatever happens, no byte of these changes, and nothing is written anywhere else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from fixtures.flat_calls import label
from fixtures.hostile_files import not_files
from fixtures.hostile_releases import Files, Hostile, loaded, releases, signed
from fixtures.hub import HubToys
from fixtures.hub_client import Done
from fixtures.reading_commands import READING, contents, read_everywhere, run_unharmed

from sotopia_rl_data.errors import SotopiaDataError
from sotopia_rl_data.importers import samples_path
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.store import Store
from sotopia_rl_data.store import manifest as manifests
from sotopia_rl_data.store.digest import version_digest

pytestmark = pytest.mark.invented  # what was pulled is removed before what was printed of it could be run
REPO, SEED = "lab/victim", 14
# Two minutes of CPU, which may be an hour where the machine is busy: the limits that count are those of each command.
WHOLE = [pytest.mark.long, pytest.mark.timeout(7_200)]
LOCAL = [command for command in READING if command[0] in ("list", "log", "show", "stats", "query", "verify", "card")]


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubToys]:
    toys = HubToys(tmp_path_factory.mktemp("hub"), xet=False)
    yield toys
    toys.stop()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Files]:
    """Two versions as their publisher has them."""
    store = Store(tmp_path_factory.mktemp("publisher"))
    import_dataset(store, [samples_path()], "lab/episodes")
    files = []
    for rule in ("direct", "scaled"):
        label(store, "lab/episodes", judges=["lexical"], schema=rule, out=REPO)
        version = store.resolve(REPO)
        files.append(
            {p.relative_to(version.dir).as_posix(): p.read_bytes() for p in version.dir.rglob("*") if p.is_file()}
        )
    return files


class Victim:
    """A store with the older version, pulled from the Hub, and the commands as its owner runs them."""

    def __init__(self, toys: HubToys, older: Files, folder: Path) -> None:
        self.toys, self.folder = toys, folder
        self.store = Store(folder / "store")
        toys.server.plant(REPO, older, tag="v1.0.0")
        self.run("pull", f"{REPO}@v1.0.0")
        (folder / "beside").write_text("beside")

    def run(self, *command: str) -> Done:
        return run_unharmed(self.toys.run, list(command), self.store.root)

    def state(self) -> tuple[dict[str, str], dict[str, str]]:
        return contents(self.folder), contents(self.toys.run.hf_home)

    def take(self, release: Hostile) -> bool:
        """Publish and pull the release; whether it is now a version. If so, everything is read, and it is removed."""
        self.toys.server.plant(REPO, release.files)
        (mine, cached) = self.state()
        pulled = self.run("pull", REPO)
        new = [version for version in self.store.versions(REPO) if version != "v1.0.0"]
        assert (pulled.code == 0) == bool(new) or "unchanged" in pulled.out, (release.name, pulled)
        assert "contradicts itself" not in pulled.err, (release.name, "nothing behind the digest was tried")
        for version in new:
            accepted = self.store.version(REPO, version)
            read_everywhere(self.toys.run, accepted, f"{REPO}@v1.0.0", self.store.root, self.folder / "out")
            shutil.rmtree(self.store.root / REPO / version)
        (mine_after, cached_after) = self.state()
        assert mine_after == mine, release.name
        assert {path: cached_after.get(path) for path in cached} == cached, release.name
        return bool(new)

    def find(self, release: Hostile, instead: Mapping[str, Callable[[Path], object]] | None = None) -> None:
        """The release as a folder of the store, as if it had been copied there: read, or said to be damaged. `instead`
        makes something else in the place of some files."""
        folder = self.store.root / REPO / "v1.1.0"
        for path, data in release.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        for path, make in (instead or {}).items():
            (folder / path).unlink()
            make(folder / path)
        before = self.state()
        for command in LOCAL:
            named = {"NAME": REPO, "REF": REPO, "EPISODE": "sample"}
            done = self.run(*(named.get(word, word.replace("CONFIG", "rewards")) for word in command))
            assert done.code == 0 or command[0] not in ("list", "log"), (release.name, done)
        assert self.state() == before, release.name
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def victim(toys: HubToys, made: list[Files], tmp_path_factory: pytest.TempPathFactory) -> Victim:
    return Victim(toys, made[0], tmp_path_factory.mktemp("victim"))


@pytest.fixture(scope="module")
def every(made: list[Files]) -> list[Hostile]:
    return list(releases(made[1], made[0], SEED, 10_000))


@pytest.mark.slow
def test_most_hostile_releases_are_refused_by_no_digest(made: list[Files], every: list[Hostile]) -> None:
    assert signed(loaded(made[1])) == json.dumps(loaded(made[1])).encode()
    behind = 0
    for release in every:
        with suppress(SotopiaDataError):
            manifest = manifests.parse(release.files["manifest.json"], release.name)
            assert version_digest(manifests.split_digests(manifest.configs), manifest.recipe) == manifest.digest
            behind += 1
    assert behind > len(every) / 2


@pytest.mark.slow
def test_the_release_they_are_made_from_is_taken(victim: Victim, made: list[Files]) -> None:
    assert victim.take(Hostile("good", made[1]))


@pytest.mark.slow
@pytest.mark.parametrize("count", [12, pytest.param(10_000, marks=WHOLE)])
def test_a_hostile_release_is_refused_or_whole(victim: Victim, every: list[Hostile], count: int) -> None:
    assert len(every) >= 200
    taken = [victim.take(release) for release in every[:count]]
    assert 0 < sum(taken) < len(taken)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README: aliases", "manifest: 20 MB", "rewards: 20,000,000 NULLs in a few bytes"])
def test_what_is_made_to_be_costly_costs_little(victim: Victim, every: list[Hostile], name: str) -> None:
    victim.take(next(release for release in every if release.name == name))


@pytest.mark.slow
@pytest.mark.parametrize("count", [8, pytest.param(10_000, marks=WHOLE)])
def test_a_damaged_store_is_read_as_far_as_it_is_whole(victim: Victim, every: list[Hostile], count: int) -> None:
    for release in every[-count:]:
        victim.find(release)


@pytest.mark.slow
@pytest.mark.parametrize("kind", not_files())
@pytest.mark.parametrize("path", ["manifest.json", "README.md", "rewards/train-00000-of-00001.parquet"])
def test_what_is_no_file_in_a_store_is_told_and_not_opened(
    victim: Victim, made: list[Files], kind: str, path: str
) -> None:
    victim.find(Hostile(f"{kind} at {path}", made[1]), {path: not_files()[kind]})
