"""The config file: which one is read, what wins over what, and what it may not hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fixtures.places import ROOT
from fixtures.promises import check_keys, names
from fixtures.stores import commit, episodes

from sotopia_rl_data.cli import defaults as settings
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import InputError, SotopiaDataError
from sotopia_rl_data.store import Store

FILE = "sotopia-rl-data.toml"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder three deep, a home folder beside it, and nothing set."""
    folder = tmp_path / "project" / "runs" / "today"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    for variable in ("SOTOPIA_RL_DATA_CONFIG", "SOTOPIA_RL_DATA_STORE", "SOTOPIA_RL_DATA_PRICES", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return folder


def run(*arguments: str) -> Result:
    done = CliRunner().invoke(cli, arguments, standalone_mode=False)
    if isinstance(done.exception, SotopiaDataError):
        raise done.exception
    assert done.exception is None, arguments
    return done


def defaults() -> dict[str, tuple[object, str]]:
    """What `config` shows: key to value and origin."""
    shown = json.loads(run("config", "--json").stdout)
    check_keys("config", shown)
    return {one["key"]: (one["value"], one["from"]) for one in shown["defaults"]}


def test_the_nearest_file_is_read_and_no_other(here: Path, tmp_path: Path):
    assert defaults()["judge"] == (None, "not set")
    users = tmp_path / "home" / ".config" / "sotopia-rl-data" / FILE
    for place, judge in ((users, "users"), (tmp_path / "project" / FILE, "projects"), (here / FILE, "folders")):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f'judge = "{judge}"\n')
        assert defaults()["judge"] == ([judge], "file")
    (here / FILE).write_text("budget = 1\n")
    assert (defaults()["judge"], defaults()["budget"]) == ((None, "not set"), (1, "file"))  # files are not merged


def test_the_file_that_the_environment_names_is_read_and_an_empty_name_means_none(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (here / FILE).write_text('judge = "nearest"\n')
    (tmp_path / "mine.toml").write_text('judge = ["a", "b"]\n')
    monkeypatch.setenv("SOTOPIA_RL_DATA_CONFIG", str(tmp_path / "mine.toml"))
    assert defaults()["judge"] == (["a", "b"], "file")
    monkeypatch.setenv("SOTOPIA_RL_DATA_CONFIG", "")
    assert defaults()["judge"] == (None, "not set")


def test_an_option_wins_over_the_environment_and_that_over_the_file(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("option", "environment", "file"):
        commit(Store(tmp_path / "project" / name), {("episodes", "train"): episodes(1)}, name=f"lab/{name}")

    def listed(*arguments: str) -> list[str]:
        return [one["name"] for one in json.loads(run("list", "--json", *arguments).stdout)]

    assert listed() == []
    (tmp_path / "project" / FILE).write_text('store = "file"\n')  # a path is relative to the file
    assert listed() == ["lab/file"]
    monkeypatch.setenv("SOTOPIA_RL_DATA_STORE", str(tmp_path / "project" / "environment"))
    assert listed() == ["lab/environment"]
    assert defaults()["store"] == (str(tmp_path / "project" / "environment"), "environment: SOTOPIA_RL_DATA_STORE")
    assert listed("--store", str(tmp_path / "project" / "option")) == ["lab/option"]
    assert run("config", "--store", "there").stdout.splitlines()[2].split() == ["store", "there", "option"]


def test_each_key_is_the_default_of_the_options_of_its_name_in_every_command(here: Path):
    (here / FILE).write_text(
        'store = "s"\nledger = "l"\njudge = "lexical"\njudges = "j.yaml"\nprices = "p.yaml"\nbudget = 2.5\n'
    )
    found = settings.read()
    label = cli.get_command(None, "label")  # type: ignore[arg-type]
    paths = {"store": str(here / "s"), "ledger": str(here / "l"), "named": str(here / "j.yaml")}
    assert label is not None
    assert found.of(label) == paths | {"judges": ["lexical"], "prices": str(here / "p.yaml"), "budget": 2.5}
    audit = cli.get_command(None, "audit")  # type: ignore[arg-type]
    assert audit is not None
    assert found.of(audit)["judge"] == "lexical"
    rewards = cli.get_command(None, "rewards")  # type: ignore[arg-type]
    assert rewards is not None
    assert found.of(rewards) == {"store": str(here / "s")}  # its --judge chooses among those that were asked
    ledger = cli.get_command(None, "ledger")  # type: ignore[arg-type]
    assert ledger is not None
    assert found.of(ledger)["query"] == {"path": str(here / "l"), "store": str(here / "s")}
    page = (ROOT / "docs" / "stability.md").read_text()
    assert set(names(page.partition("`sotopia-rl-data.toml`:")[2].partition("\n")[0])) == set(settings.KEYS)


def test_label_needs_no_option_where_the_file_names_store_and_judge(here: Path):
    (here / FILE).write_text('store = "data"\njudge = "lexical"\n')
    run("import", "--name", "lab/e", "--where", "episode_id = 'sample-boat-sale-1'")
    made = json.loads(run("label", "lab/e", "--json").stdout)
    assert (made["version"], made["labels"] > 0) == ("lab/e-rewards@v1.0.0", True)
    plain = json.loads(run("label", "lab/e", "--schema", "uniform", "--out", "lab/uniform", "--json").stdout)
    assert (plain["labels"], plain["rewarded"] > 0) == (0, True)  # a schema that asks no judge takes none from the file
    assert (here / "data" / "lab" / "e-rewards").is_dir()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("judgee = 1", "has the unknown key 'judgee'"),
        ("[label]\njudge = 'x'", "has the unknown key 'label'"),
        ("judge = 3", "judge must be text, or a list of texts."),
        ("judge = []", "judge must be text"),
        ("store = ['a']", "store must be text"),
        ("store = ''", "store must be text."),
        ("budget = 'much'", "budget must be a number of USD above 0"),
        ("budget = true", "budget must be a number of USD above 0"),
        ("budget = nan", "budget must be a number of USD above 0"),
        ("budget = " + "9" * 5000, "is not TOML: "),
        ("budget = 0x" + "f" * 5000, "budget must be a number of USD above 0 and at most 1,000,000,000."),
        ('store = "a\\u0000b"', "store must be text without NUL characters."),
        ("a." * 20_000 + "a = 1", "is longer than 16,000 characters."),
        ("judge = gpt-4o", "is not TOML"),
        ("judge = " + "[" * 5000, "is not TOML"),
        ("judge = './mine.py:Judge'", "names code, which may only be named on the command line"),
        ("judge = ['lexical', 'a/b.py:C']", "names code"),
        ('judge = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789ABCD"', "what looks like a secret, in line 1"),
        ('# a note\napi_key = "3f9c1a7be2d84650"', "what looks like a secret, in line 2"),
        ('judge = "openai:m@https://me:hunter2xyzzy9@host/v1"', "what looks like a secret, in line 1"),
    ],
)
def test_what_a_file_may_not_say_is_a_sentence_without_its_values(here: Path, text: str, told: str):
    (here / FILE).write_text(text)
    for command in ("list", "config"):
        with pytest.raises(InputError) as refused:
            run(command)
        assert told in refused.value.message
        assert str(here / FILE) in refused.value.message
        assert refused.value.hint
        shown = str(refused.value)
        assert not any(secret in shown for secret in ("sk-proj", "3f9c1a7b", "hunter2"))


@pytest.mark.parametrize("key", settings.KEYS)
def test_the_line_that_a_hint_gives_for_a_wrong_value_is_taken_as_it_is(here: Path, key: str):
    (here / FILE).write_text(f"{key} = true")
    with pytest.raises(InputError) as refused:
        run("config")
    (here / FILE).write_text(refused.value.hint.removeprefix("write: "))
    assert defaults()[key][1] == "file"


def test_help_and_completion_work_where_the_file_is_broken(here: Path):
    (here / FILE).write_text("broken")
    for arguments in (["--help"], ["list", "--help"], ["train", "rm", "--help"], ["completion", "bash"], ["--version"]):
        assert run(*arguments).stdout


@pytest.mark.parametrize("wrong", ["a folder", "not UTF-8", "not readable", "not there"])
def test_a_file_that_cannot_be_read_is_a_sentence(here: Path, wrong: str, monkeypatch: pytest.MonkeyPatch):
    path = here / FILE
    if wrong == "a folder":
        path.mkdir()
    elif wrong == "not UTF-8":
        path.write_bytes(b'judge = "\xff"')
    elif wrong == "not there":
        monkeypatch.setenv("SOTOPIA_RL_DATA_CONFIG", str(path))
    else:
        path.write_text("")
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("who runs the tests may read every file")
    with pytest.raises(InputError, match="cannot be read") as refused:
        run("list")
    assert "export SOTOPIA_RL_DATA_CONFIG=" in refused.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_read_only_where_it_is_named(here: Path, monkeypatch: pytest.MonkeyPatch):
    (here / FILE).write_text('judge = "lexical"\n')
    os.chown(here / FILE, 12345, 12345)
    with pytest.raises(InputError, match="belongs to another user") as refused:
        run("list")
    assert f"export SOTOPIA_RL_DATA_CONFIG={here / FILE};" in refused.value.hint
    monkeypatch.setenv("SOTOPIA_RL_DATA_CONFIG", str(here / FILE))
    assert defaults()["judge"] == (["lexical"], "file")
    monkeypatch.delenv("SOTOPIA_RL_DATA_CONFIG")
    monkeypatch.chdir(here.rename(here.with_name("to day")))
    with pytest.raises(InputError) as refused:
        run("list")
    assert f"export SOTOPIA_RL_DATA_CONFIG='{here.with_name('to day') / FILE}';" in refused.value.hint  # can be pasted


@pytest.mark.slow
@pytest.mark.parametrize("lacking", ["home", "folder"])
def test_without_a_home_or_a_working_folder_there_is_no_file(tmp_path: Path, lacking: str):
    gone = tmp_path / "gone"
    gone.mkdir()
    leave = f"import os; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r}); " if lacking == "folder" else ""
    code = leave + "from sotopia_rl_data.cli.program import main; main(['config', '--json'])"
    environment = {"PYTHONPATH": str(ROOT)} | ({} if lacking == "home" else {"HOME": str(tmp_path)})
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["file"] is None
