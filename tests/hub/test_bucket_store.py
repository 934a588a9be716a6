"""A store in a bucket and the Hub: a release made from one, and pulled into another."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.hub import toy
from fixtures.hub_client import HubClient
from fixtures.s3 import S3Server, address, s3_server  # noqa: F401

from sotopia_rl_data.store import Store
from sotopia_rl_data.store.verify import verify


@pytest.mark.slow
@pytest.mark.parametrize("hub", ["lfs"], indirect=True)
def test_a_version_goes_from_one_bucket_to_the_hub_and_into_another(
    hub,
    address: str,  # noqa: F811
    s3_server: S3Server,  # noqa: F811
    tmp_path: Path,
) -> None:
    repo = hub.repo("bucket")
    version = toy(Store(f"{address}/one"), repo, 0, 1)
    elsewhere = s3_server.environment(tmp_path / "elsewhere")  # a machine that has read nothing yet
    client = HubClient(hub.server.url, tmp_path / "hf", hub.xet, **elsewhere)
    try:
        client("push-to-hub", repo, "--store", f"{address}/one", "--check", "files")
        pulled = client("pull", repo, "--store", f"{address}/two", "--json").json
    finally:
        client.stop()
    assert (pulled["digest"], pulled["created"]) == (version.digest, True)
    there = Store(f"{address}/two")
    assert verify(there.resolve(repo)).ok
    for store in (Store(f"{address}/one"), there):  # where it is published is noted in the bucket
        assert store.by_commit(repo, pulled["commit"]) == store.latest(repo)
