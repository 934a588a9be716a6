"""Every example of the documentation and of the help runs as it is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.examples import PAGES, Reader, examples, furnish, help_examples, publish
from fixtures.hub_client import environment
from fixtures.hub_server.running import HubServer
from fixtures.places import ROOT

from sotopia_rl_data.fake_provider.running import running

pytest.importorskip("trl", reason="needs the train extra")
TOKEN = "hf_reader=reader+lab+org+my-org+ulab-ai+demo:write"
pytestmark = [pytest.mark.long, pytest.mark.train]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, dict[str, str]]]:
    """A folder that has what the pages speak of, the URL of a provider, and the environment in which there is a Hub."""
    folder, before = tmp_path_factory.mktemp("house"), Path.cwd()
    with (
        running() as provider,
        HubServer(tmp_path_factory.mktemp("hub"), xet=False, tokens=(TOKEN,)) as hub,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, url in (("OPENAI", provider.openai_url), ("ANTHROPIC", provider.url)):
            patch.setenv(f"{name}_API_KEY", "sk-none")
            patch.setenv(f"{name}_BASE_URL", url)
        patch.setenv("PATH", os.pathsep.join([str(folder / "bin"), os.environ["PATH"]]))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("SOTOPIA_RL_DATA_PRICES", str(folder / "prices.yaml"))
        patch.setenv("LAB_KEY", "sk-none")
        patch.setenv("JUDGE", "gpt-4o")
        for name, value in (("SLURM_ARRAY_TASK_ID", "1"), ("SLURM_ARRAY_TASK_COUNT", "8"), ("i", "1")):
            patch.setenv(name, value)
        patch.setenv("SOTOPIA_RL_DATA_REWARD_TOKEN", "none")
        patch.setenv("HOME", str(folder))
        os.chdir(folder)
        furnish(folder, provider.openai_url)
        online = environment(hub.url, tmp_path_factory.mktemp("hf"), xet=False, token=TOKEN.partition("=")[0])
        publish(online)
        yield folder, provider.openai_url, online
    os.chdir(before)


@pytest.mark.parametrize("page", [*PAGES, None], ids=lambda page: (page and page.name) or "help")
def test_every_example_of_a_page_runs(
    page: Path | None, house: tuple[Path, str, dict[str, str]], tmp_path: Path, capsys: Any
):
    reader = Reader(house[0], tmp_path / "here", *house[1:])
    wrong = [fault for example in (examples(page) if page else help_examples()) if (fault := reader.follow(example))]
    with capsys.disabled():
        print(f"\n{page.name if page else 'help'}: {dict(reader.counts)}")
    assert wrong == [], "\n".join(wrong)
