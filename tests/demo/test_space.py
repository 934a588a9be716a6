"""A folder that runs as a Hugging Face Space: what is in it, what is refused, and that it runs."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from fixtures.environments import packages_of, python_of

pytest.importorskip("gradio", reason="needs the demo extra: pip install -e '.[demo]'")

from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.demo.space import write_space
from sotopia_rl_data.errors import SecretsFound, SotopiaDataError, UsageError

TALK = """
import sys
from gradio_client import Client
client = Client(sys.argv[1], verbose=False)
client.predict(0, 0, "scripted:warm", "lexical", api_name="/begin")
client.predict("speak", "Would you take 500 for it?", api_name="/say")
client.predict(api_name="/answer_say")
print(client.predict(api_name="/reward_say")[0])
print(client.predict(api_name="/save"))
"""


def options_of(folder: Path) -> list[str]:
    found = re.search(r"^OPTIONS = (.*)$", (folder / "app.py").read_text(), re.MULTILINE)
    assert found is not None
    return list(ast.literal_eval(found[1]))


@pytest.mark.slow
def test_a_space_has_the_package_the_options_and_a_card_that_a_space_reads(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("- scenario: a\n")
    written = write_space(tmp_path / "space", ["--scenarios", "mine.yaml", "--policy", "gpt-4o", "--budget=5"])
    names = ["README.md", "app.py", "mine.yaml", "requirements.txt", "sotopia_rl_data"]
    assert [path.name for path in written] == names
    assert options_of(tmp_path / "space") == ["--scenarios", "mine.yaml", "--policy", "gpt-4o", "--budget=5"]
    card = yaml.safe_load((tmp_path / "space" / "README.md").read_text().split("---")[1])
    assert (card["sdk"], card["app_file"], card["license"]) == ("gradio", "app.py", "apache-2.0")
    requirements = (tmp_path / "space" / "requirements.txt").read_text()
    assert "gradio>=" in requirements
    assert "torch" not in requirements
    assert (tmp_path / "space" / "sotopia_rl_data" / "labelers" / "judge.py").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml", "space"]


def test_what_a_space_cannot_have_is_refused_and_nothing_is_left(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "policy.py").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "app.py").write_text("mine")
    (tmp_path / "full" / "sotopia_rl_data").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for folder, options, wrong in (
        ("full", [], "full is there already"),
        ("space", ["--reward-model", "./run"], "cannot read ./run"),
        ("space", ["--policy", "transformers:./run"], "cannot read ./run"),
        ("space", ["--reward-model=run"], "cannot read run"),
        ("space", ["--judge", "human:policy.py"], "cannot read policy.py"),
        ("space", ["--policy", "policy.py:Mine"], "cannot read policy.py"),
        ("space", ["--policy", "openai:m@http://me:hunter2@host/v1"], "[hidden]@host/v1 contains a key or password"),
        ("space", ["--prices", "full/app.py"], "a file called app.py"),
        ("space", ["--scenarios", "full/sotopia_rl_data"], "a file called sotopia_rl_data"),
        ("space", ["--reward-model", "./nun"], "There is no ./nun."),
        ("space", ["--policy=transformers:../nun+./run"], "There is no ../nun."),
    ):
        with pytest.raises(UsageError, match=re.escape(wrong)):
            write_space(tmp_path / folder, options)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_secret_in_a_copied_file_or_after_key_stops_a_space_and_the_name_of_a_variable_does_not(
    tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    key = "sk-proj-" + "Ab1_" * 8
    (tmp_path / "mine.yaml").write_text(f"- scenario: a key, {key}\n")
    (tmp_path / "wide.yaml").write_text(f"- scenario: a key, {key}\n", "utf-16")
    before = sorted(tmp_path.iterdir())
    for options, told in (
        (["--scenarios", "mine.yaml"], "mine.yaml: an API key (sk-…)"),
        (["--prices=./wide.yaml"], "wide.yaml: an API key (sk-…)"),
    ):
        with pytest.raises(SecretsFound) as stopped:
            write_space(tmp_path / "space", options)
        assert stopped.value.message == f"The Space contains what looks like a secret: {told}."
        assert sorted(tmp_path.iterdir()) == before
    for words, error in (
        (["--scenarios", "mine.yaml"], SotopiaDataError),
        (["--key", "localhost:8000=hunter2xQ9k"], UsageError),
    ):
        done = CliRunner().invoke(cli, ["demo", *words, "--space", "space"], standalone_mode=False)
        assert isinstance(done.exception, error)
        assert sorted(tmp_path.iterdir()) == before
    options = ["--key", "localhost:8000=LAB_KEY", "--key=10.0.0.7:8000=K8S_TOKEN_9"]
    write_space(tmp_path / "space", options)
    assert options_of(tmp_path / "space") == options


@pytest.mark.parametrize("words", [["--policy", "transformers:org/m"], ["--policy=transformers:org/m"]])
def test_a_space_with_a_local_policy_installs_what_loads_it(words: list[str], tmp_path: Path):
    write_space(tmp_path / "space", words)
    assert "torch" in (tmp_path / "space" / "requirements.txt").read_text()


def test_the_command_reads_its_models_before_it_writes_a_space(tmp_path: Path):
    for option in ("--policy", "--judge"):
        words = ["demo", option, "openai:m@http://host/v1?token=mine", "--space", str(tmp_path / "space")]
        done = CliRunner().invoke(cli, words, standalone_mode=False)
        assert isinstance(done.exception, UsageError)
        assert "contains a user name, a password or a query" in done.exception.message
    assert list(tmp_path.iterdir()) == []


def test_what_would_end_a_space_at_its_start_is_told_before_it_is_written(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "wrong.yaml").write_text("- scenario: a\n")
    for words, told in (
        (["--policy", "scripted:hot"], "There is no scripted policy 'hot'."),
        (["--policy", "gpt-4o", "--policy", "./none.py:x"], "The policy's file ./none.py does not exist."),
        (["--policy", "gpt-4o", "--judge", "lexicl"], "'lexicl' is not a judge (did you mean 'lexical'?)."),
        (["--scenarios", "none.yaml"], "There are no scenarios 'none.yaml'."),
        (["--scenarios", "wrong.yaml"], "wrong.yaml:1: `agents` is not a list of two people or more."),
    ):
        done = CliRunner().invoke(cli, ["demo", *words, "--space", "space"], standalone_mode=False)
        assert isinstance(done.exception, SotopiaDataError)
        assert done.exception.message == told
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.yaml"]


@pytest.mark.parametrize("named", [["./a/rm", "./b/rm"], ["./lexical"]])
def test_two_who_reward_are_not_called_the_same(named: list[str], tmp_path: Path):
    models = [word for one in named for word in ("--reward-model", one)]
    words = ["demo", "--port", "0", "--judge", "lexical", *models, "--store", str(tmp_path)]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert isinstance(done.exception, UsageError)
    assert done.exception.message == f"Two of those who reward are called {Path(named[0]).name!r}."


def test_what_tries_a_space_is_printed_for_this_interpreter_and_for_odd_names(tmp_path: Path):
    folder = tmp_path / "my space"
    done = CliRunner().invoke(cli, ["demo", "--space", str(folder), "--store", str(tmp_path)], standalone_mode=False)
    assert done.exit_code == 0, done.exception
    told = done.stderr.split("try it: ")[1].split()
    assert shlex.split(" ".join(told)) == [
        "cd", str(folder), "&&", "DEMO_HOST=127.0.0.1", os.path.abspath(sys.executable), "app.py"
    ]  # fmt: skip


@pytest.mark.long
def test_a_space_runs_in_a_fresh_environment_from_its_own_requirements(tmp_path: Path):
    write_space(tmp_path / "space", ["--policy", "scripted:warm"])
    venv.EnvBuilder(with_pip=True).create(tmp_path / "env")
    python = python_of(tmp_path / "env")
    began = time.monotonic()
    install = [python, "-m", "pip", "install", "-q", "-r", tmp_path / "space" / "requirements.txt"]
    subprocess.run(install, check=True, env={**os.environ, "PYTHONPATH": ""})
    size = sum(path.stat().st_size for path in packages_of(tmp_path / "env").rglob("*") if path.is_file())
    print(f"installed in {time.monotonic() - began:.0f} s, {size / 1e6:.0f} MB")
    environment = {**os.environ, "PYTHONPATH": "", "DEMO_HOST": "127.0.0.1", "DEMO_PORT": "0"}
    environment |= {"SOTOPIA_RL_DATA_STORE": str(tmp_path / "store")}
    app = [python, "app.py"]
    with subprocess.Popen(app, stdout=subprocess.PIPE, text=True, cwd=tmp_path / "space", env=environment) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            talk = [python, "-c", TALK, url]
            told = subprocess.run(talk, capture_output=True, text=True, env=environment, cwd=tmp_path)
            assert "Would you take 500 for it?" in told.stdout, told.stderr
            assert re.search(r"reward \d\.\d\d", told.stdout)
            assert "Saved: demo/talks@v1.0.0" in told.stdout
        finally:
            process.terminate()
    assert sys.executable != str(python)
