"""label, evaluate and rollout against real servers, from the first question to the version: llama.cpp and vLLM.

The scores mean nothing: one model is tiny, the other random. What counts is the protocol: schemas are obeyed, no number
is one that the schema does not have, tokens are bounded and counted, and nothing is asked twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.labelling import BOAT, put
from fixtures.real_servers import RealServer, serving

from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.store import Store

pytestmark = [pytest.mark.long, pytest.mark.timeout(5_400)]  # the first test of a server installs it

SCENE = """
- environment_id: env-tree
  scenario: Two neighbours at the fence.
  agents:
  - {name: Ann Lee, goal: Keep the tree.}
  - {name: Bob O'Hara, goal: Be rid of the wasps by noon.}
"""
QUICK = ["--concurrency", "2", "--timeout", "900"]
TURNS = 4
CUT_OFF = "the answer was cut off at the token limit"


@pytest.fixture(scope="module", params=["llamacpp", "vllm"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with serving(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture(scope="module")
def folder(server: RealServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    put(Store(folder / "store"), [BOAT])
    (folder / "scene.yaml").write_text(SCENE)
    return folder


def run(folder: Path, *command: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["-q", *command, "--store", str(folder / "store"), "--json"])
    assert done.exit_code in (0, 3), done.output
    told: dict[str, Any] = json.loads(done.stdout)
    print(command[0], {name: told[name] for name in ("asked", "seconds", "failures", "usage")})
    return told


def model(server: RealServer) -> str:
    return f"openai:tiny@{server.url}"


def asked(server: RealServer) -> list[str]:
    """The random model ends its white space only where it draws each token anew."""
    return ["--judge", model(server), *QUICK, *(["--temperature", "1"] if server.name == "vllm" else [])]


def test_one_question_tells_how_the_model_is_asked(server: RealServer):
    done = CliRunner().invoke(cli, ["models", "check", model(server), "--json", "--timeout", "900"])
    told = json.loads(done.stdout)
    assert (told["way"], told["key"]) == ("json_schema", "")
    assert told["usage"]["input"] > 40 < told["usage"]["input"] + told["usage"]["output"]


def test_an_episode_is_labelled_and_nothing_is_asked_twice(server: RealServer, folder: Path):
    command = ["label", "lab/episodes", *asked(server)]
    told = run(folder, *command)
    check_answers(told, "labels", 15)
    again = run(folder, *command)
    assert (again["asked"], again["digest"]) == (0, told["digest"])


def test_an_episode_is_evaluated(server: RealServer, folder: Path):
    told = run(folder, "evaluate", "lab/episodes", "--ask", "packed", "--dimensions", "goal", *asked(server))
    check_answers(told, "scores", 2)


def test_two_policies_play_with_the_schema_of_their_actions(server: RealServer, folder: Path):
    scene = ["--scenarios", str(folder / "scene.yaml"), "--turns", str(TURNS), "--temperature", "1", "--seed", "3"]
    policies = ["--a", model(server), "--b", "scripted:firm", "--constrain"]
    told = run(folder, "rollout", *policies, *scene, "--out", "lab/play", *QUICK)
    assert (told["episodes"], told["abandoned"]) == (1, 0)
    wanted = range(1, TURNS + 1) if server.name == "vllm" else [TURNS]  # a random policy may leave
    assert told["utterances"] in wanted
    assert told["failed_turns"] == 0 or server.name == "vllm"  # a random text may have no end


def test_answers_of_white_space_cost_little(server: RealServer, folder: Path):
    if server.name != "vllm":
        pytest.skip("only the random model fills its answers with white space")
    told = run(
        folder, "label", "lab/episodes", "--judge", model(server), *QUICK, "--out", "lab/blank", "--evaluator", "gpt-4"
    )
    check_answers(told, "labels", 15)
    assert told["labels"] == 0
    (line,) = told["bill"]["lines"]
    assert line["usage"]["output"] < 12_288 + 300 * (line["calls"] - 1)  # one answer is tried without a limit


def check_answers(told: dict[str, Any], counted: str, wanted: int) -> None:
    """Every number came, or its answer was cut off."""
    assert told[counted] + sum(told["failures"].values()) == wanted
    assert set(told["failures"]) <= {CUT_OFF}
    (line,) = told["bill"]["lines"]
    assert (line["maybe_calls"], told["unreachable"]) == (0, 0)
    assert line["usage"]["input"] > 500
    assert line["usage"]["output"] > 0
