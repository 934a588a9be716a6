"""`label`, `evaluate`, `audit` and `rollout` say the same things in the same words, in JSON and on the screen."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.labelling import boats, put

from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.store import Store

COMMANDS = {
    "label": "label lab/episodes --judge openai:sim@{url} --preset goal-only",
    "evaluate": "evaluate lab/others --judge openai:sim@{url}",
    "audit": "audit lab/episodes --judge openai:sim@{url} --dimensions goal --ask packed --probes order",
    "rollout": "rollout --a openai:sim@{url} --b scripted:firm --turns 4 --out lab/play",
}
ESTIMATE = {"as_of", "total", "most", "judges"}
LINE = {"judge", "calls", "hits", "repeated", "in_batches", "asked", "usage", "cost", "most", "measured"}
REPORT = {"version", "directory", "digest", "created", "calls", "asked", "hits", "repeated", "unreachable", "failures"}
REPORT |= {"usage", "bill", "warnings", "seconds", "episodes"}
JUDGED = REPORT | {"repaired", "unusable"}
OWN = {
    "label": JUDGED | {"utterances", "rewarded", "labels", "rejected"},
    "evaluate": JUDGED | {"evaluators", "scores"},
    "audit": JUDGED | {"verdict", "labels"},
    "rollout": REPORT | {"planned", "utterances", "abandoned", "failed_turns", "ended"},
}
OWN_ESTIMATE = {
    "label": {"rewards", "other_wordings"},
    "evaluate": {"other_wordings"},
    "audit": {"other_wordings"},
    "rollout": {"episodes", "most_calls"},
}
TOKENS = {"input", "cached", "written", "output"}


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[str]]]:
    """The four, on a small store, against one provider, with one price list."""
    folder = tmp_path_factory.mktemp("alike")
    for name in (
        "lab/episodes",
        "lab/others",
    ):  # `evaluate` adds an evaluator
        put(Store(folder / "store"), boats(3), name)
    prices = folder / "prices.yaml"
    prices.write_text('{as_of: 2026-11-01, hosts: {"*": {"sim": [2.5, 1.25, 2.5, 10]}}}')
    with running() as provider:
        also = ["--store", str(folder / "store"), "--prices", str(prices)]
        yield {kind: [*told.format(url=provider.openai_url).split(), *also] for kind, told in COMMANDS.items()}


def told(command: list[str], *more: str) -> str:
    done = CliRunner().invoke(cli, [*command, *more])
    assert done.exit_code == 0, done.exception
    return done.stdout


def in_json(command: list[str], *more: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(told(command, *more, "--json"))
    return found


@pytest.mark.slow
def test_dry_runs_and_reports_have_the_same_keys_and_mean_the_same_by_them(commands: dict[str, list[str]]):
    for kind, command in commands.items():
        before = in_json(command, "--dry-run")
        assert before.keys() == ESTIMATE | OWN_ESTIMATE[kind]
        assert all(line.keys() == LINE and line["usage"].keys() == TOKENS for line in before["judges"])
        done = in_json(command)
        assert done.keys() == OWN[kind]
        assert done["calls"] == done["asked"] + done["hits"] + done["repeated"] + done["unreachable"]
        assert done["usage"]["sim"].keys() == TOKENS
        (line,) = [one for one in done["bill"]["lines"] if one["judge"] == "sim"]
        assert done["bill"]["total"] == line["total"] > 0
        assert line.keys() >= TOKENS
        assert line["usage"] == done["usage"]["sim"]
        after = in_json(command, "--dry-run")
        assert after["total"] == sum(one["asked"] for one in after["judges"]) == 0
        again = in_json(command)
        assert sum(one["hits"] for one in after["judges"]) == again["hits"] == done["asked"]
        assert (again["asked"], again["created"], again["bill"]) == (0, False, done["bill"])
        if kind != "rollout":  # how long a dialogue gets, nobody knows before
            assert sum(one["calls"] for one in before["judges"]) == done["calls"]


@pytest.mark.slow
def test_dry_runs_and_reports_are_shown_in_the_same_columns(commands: dict[str, list[str]]):
    columns, bills = set(), set()
    for command in commands.values():
        (header,) = [line for line in told(command, "--dry-run").splitlines() if "judge or policy" in line]
        columns.add(" ".join(header.split()))
        shown = [" ".join(line.split()) for line in told(command).splitlines()]
        counts = [found[1] for line in shown if (found := re.fullmatch(r"(calls|asked|hits|seconds) [\d,.]+", line))]
        assert counts == ["calls", "asked", "hits", "seconds"]
        bills |= {line for line in shown if line.startswith("judge calls")}
    uncached = "judge or policy calls hits asked tokens in tokens out USD"  # a column without any value is left out
    assert columns == {f"{uncached} at most", uncached}
    assert len(bills) == 1
