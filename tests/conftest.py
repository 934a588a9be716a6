"""What all tests share: no test reaches beyond 127.0.0.1, and one Hub server and client for each way of transfer."""

from __future__ import annotations

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # in this process; those that talk to the test's own Hub have their own environment


@pytest.fixture(scope="session", params=["lfs", "xet"])
def hub(request, tmp_path_factory):
    """A running Hub and a client of it: over plain LFS, then over Xet. Every test uses repositories of its own."""
    from hub_toys import HubToys

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
    from environments import environment_with

    return environment_with("datasets", tmp_path_factory.mktemp("datasets-only"))
