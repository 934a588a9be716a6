"""docs/providers.md: each recipe runs as it stands there, against its provider's habits on this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fixtures.labelling import BOAT, put
from fixtures.loopback_internet import LoopbackInternet, Site, loopback_internet
from fixtures.places import ROOT

from sotopia_rl_data.asking.keys import HOSTS
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.store import Store

pytestmark = pytest.mark.slow

SITES = {
    "api.openai.com": Site("as_openai", ("/v1/chat/completions",)),
    "mine.openai.azure.com": Site(
        "as_azure", ("/openai/v1/chat/completions", "/openai/deployments/gpt-4.1-mini/chat/completions")
    ),
    "api.anthropic.com": Site("as_anthropic", ("/v1/messages",)),
    "openrouter.ai": Site("as_openrouter", ("/api/v1/chat/completions",)),
    "api.deepseek.com": Site("as_deepseek", ("/v1/chat/completions",)),
    "generativelanguage.googleapis.com": Site("as_gemini", ("/v1beta/openai/chat/completions",)),
    "api.groq.com": Site("as_groq", ("/openai/v1/chat/completions",)),
    "api.mistral.ai": Site("as_mistral", ("/v1/chat/completions",)),
    "api.together.xyz": Site("as_together", ("/v1/chat/completions",)),
    "api.x.ai": Site("as_xai", ("/v1/chat/completions",)),
}
LOCAL = {"8000": "as_vllm", "30000": "as_sglang", "11434": "as_ollama", "8080": "as_llamacpp"}
WAYS = {"DeepSeek": {"json_object"}, "Groq": {"json_schema"}}  # of `models check`; elsewhere the schema is enforced
# The program is started once: it runs every command by the environment and the arguments that it reads.
RUNS = """
import json, os, sys
from click.testing import CliRunner
from sotopia_rl_data.cli.program import cli
for line in sys.stdin:
    environment, arguments = json.loads(line)
    done = CliRunner().invoke(cli, arguments, env=environment)
    error = done.exception if not isinstance(done.exception, SystemExit) else None
    told = {"code": done.exit_code, "out": done.stdout, "error": str(error or ""), "kind": type(error).__name__}
    print(json.dumps(told), flush=True)
"""


@dataclass(frozen=True)
class Recipe:
    """A section of the page: the variables that it sets, and its commands without the program's name."""

    name: str
    variables: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]


def recipes() -> list[Recipe]:
    page = (ROOT / "docs" / "providers.md").read_text("utf-8").partition("## Recipes")[2].partition("\n## ")[0]
    found = []
    for section in page.split("\n### ")[1:]:
        lines = section.partition("```sh\n")[2].partition("```")[0].splitlines()
        variables = tuple(line.split()[1].partition("=")[0] for line in lines if line.startswith("export "))
        commands = tuple(tuple(shlex.split(line)[2:]) for line in lines if line.startswith("python cli.py "))
        found.append(Recipe(section.partition("\n")[0], variables, commands))
    return found


class Program:
    """The program in a process whose internet is the loopback's."""

    def __init__(self, process: subprocess.Popen[str], internet: LoopbackInternet, url: str, store: Path) -> None:
        self.process, self.internet, self.url, self.store = process, internet, url, store

    def run(self, command: tuple[str, ...], keys: dict[str, str]) -> dict[str, Any]:
        text = [re.sub(r"http://localhost:(\d+)", lambda m: f"{self.url}/{LOCAL[m[1]]}", word) for word in command]
        own = [] if command[0] == "models" else ["--store", str(self.store)]
        environment = dict.fromkeys([*HOSTS.values(), "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"]) | keys
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps([environment, [*text, *own, "--json"]]), file=self.process.stdin, flush=True)
        told: dict[str, Any] = json.loads(self.process.stdout.readline())
        return told


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("internet")
    put(Store(folder / "store"), [BOAT], "demo/episodes")
    with running() as provider, loopback_internet(SITES, provider, folder) as internet:
        environment = os.environ | dict(internet.environment) | {"PYTHONPATH": str(ROOT)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-c", RUNS], env=environment, text=True, **pipes) as process:  # type: ignore[call-overload]
            try:
                yield Program(process, internet, provider.url, folder / "store")
            finally:
                process.stdin.close()


def test_the_page_has_a_recipe_for_each_of_the_fourteen():
    names = "OpenAI Azure Anthropic OpenRouter DeepSeek Gemini Groq Mistral Together xAI vLLM SGLang Ollama llama.cpp"
    assert [recipe.name for recipe in recipes()] == names.split()
    assert all({command[0] for command in recipe.commands} >= {"models", "label"} for recipe in recipes())


@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.name)
def test_a_recipe_runs_as_it_stands(recipe: Recipe, program: Program):
    keys = {variable: f"sk-{variable.lower()}-0123456789" for variable in recipe.variables}
    for command in recipe.commands:
        done = program.run(command, keys)
        assert (done["code"], done["error"]) == (0, "")
        told = json.loads(done["out"])
        if command[0] == "models":
            assert {told["way"]} == WAYS.get(recipe.name, {"json_schema"})
            assert (told["fault"], told["finish"], told["key"]) == ("", "stop", "".join(recipe.variables))
            thought = 30 if recipe.name in ("Gemini", "xAI") else 0  # tokens that only the total has
            assert told["usage"]["input"] > 0
            assert told["usage"]["output"] > thought
        if command[0] == "label":
            assert told["labels"] > 0
            assert told["failures"] == {}


@pytest.mark.parametrize("recipe", [recipe for recipe in recipes() if recipe.variables], ids=lambda recipe: recipe.name)
def test_a_wrong_key_is_a_sentence_that_does_not_show_it(recipe: Recipe, program: Program):
    keys = dict.fromkeys(recipe.variables, "sk-wrong-0123456789")
    done = program.run(recipe.commands[0], keys)
    assert (done["code"], done["kind"]) == (1, "Rejected")
    assert "wrong-0123" not in done["error"]
    assert len(done["error"].splitlines()) <= 2
    assert "key" in done["error"].lower()


def test_azures_older_url_sends_its_key_under_a_header_of_its_own(program: Program):
    (azure,) = [recipe for recipe in recipes() if recipe.name == "Azure"]
    for command in azure.commands:
        program.run(command, {variable: f"sk-{variable.lower()}-0123456789" for variable in azure.variables})
    (older,) = {names for host, path, names in program.internet.seen if "api-version" in path}
    assert "api-key" in older
    assert "authorization" not in older
