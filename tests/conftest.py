"""What all tests share: no test reaches beyond 127.0.0.1, one Hub server and client for each way of transfer, and who
may run beside whom when `make test` has several workers.
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fixtures.places import RECORDED
from hypothesis import HealthCheck, settings

# The machine may be busy with other things: how long drawing an example took is no fault of a test.
settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")
os.environ["HF_HUB_OFFLINE"] = "1"  # in this process; those that talk to the test's own Hub have their own environment
os.environ["SOTOPIA_RL_DATA_CONFIG"] = ""  # the defaults of whoever runs the tests are not read
# as where the environment is activated; tests of how the program spells itself elsewhere say so
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background jobs ignore it, and tests press Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker a core


@pytest.hookimpl(trylast=True)  # once there is a folder for temporary files
def pytest_configure(config: pytest.Config) -> None:
    """What trainers and `datasets` keep between runs is kept for one run of the tests."""
    os.environ["HF_DATASETS_CACHE"] = str(config._tmp_path_factory.getbasetemp() / "datasets-cache")
    if config.getoption("--run-printed"):
        from fixtures.printed import RunPrinted

        heard = RunPrinted(config)
        config.pluginmanager.register(heard)
        heard.listen()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--draw 5 --seed COMMIT`: of the tests that are selected, run five, others for each commit."""
    parser.addoption("--draw", type=int, help="run only this many of the selected tests, drawn at random by --seed")
    parser.addoption("--run-printed", action="store_true", help="run every command that the program prints in a test")
    parser.addoption("--seed", default="", help="any text; the same text draws the same tests")


@pytest.hookimpl(trylast=True)  # after `-m` and `-k` have selected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what is drawn. Those that want the machine to themselves come last, so that nobody waits for them."""
    count = config.getoption("--draw")
    if count is not None and count < len(items):
        drawn = set(random.Random(config.getoption("--seed")).sample(range(len(items)), count))
        config.hook.pytest_deselected(items=[item for place, item in enumerate(items) if place not in drawn])
        items[:] = [item for place, item in enumerate(items) if place in drawn]
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Under several workers, a test marked `alone` runs while no other does; waiting is no part of its time."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    shared = item.config._tmp_path_factory.getbasetemp().parent  # one folder for all workers of a run
    with _turn(shared, item.get_closest_marker("alone") is not None):
        return (yield)


@contextmanager
def _turn(folder: Path, alone: bool) -> Iterator[None]:
    """In the room are many, or one alone; who waits to be alone holds the door, and nobody new passes it."""
    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with (folder / "door").open("a") as door, (folder / "room").open("a") as room:
        fcntl.flock(door, kind)
        fcntl.flock(room, kind)
        fcntl.flock(door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(room, fcntl.LOCK_UN)  # by name: a child of the test may hold the file open


@pytest.fixture(params=RECORDED, ids=lambda recordings: recordings.name)
def recordings(request):
    """Each of the recorded sets that are here."""
    return request.param


@pytest.fixture(scope="session", params=["lfs", "xet"])
def hub(request, tmp_path_factory):
    """A running Hub and a client of it: over plain LFS, then over Xet. Every test uses repositories of its own."""
    from fixtures.hub import HubToys

    toys = HubToys(tmp_path_factory.mktemp(request.param), request.param == "xet")
    yield toys
    toys.stop()


@pytest.fixture(autouse=True)
def _no_faults_left(request):
    """A fault that a test did not use up is not the next test's."""
    yield
    if "hub" in request.fixturenames:
        request.getfixturevalue("hub").server.no_faults()


@pytest.fixture(scope="session")
def datasets_only(tmp_path_factory):
    """The Python of an environment that has `datasets` and what it requires, and nothing of this project."""
    from fixtures.environments import link_environment, once, python_of

    return python_of(once(tmp_path_factory, "datasets-only", lambda folder: link_environment("datasets", folder)))


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A folder with the sdist, the wheel that is built from it, and in `tree/` the wheel that is built from here."""
    from fixtures.environments import build_distributions, once

    return once(tmp_path_factory, "built", build_distributions)
