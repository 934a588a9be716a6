"""Commands on a store in a bucket: the same words and results, and a sentence for what is not there or cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.places import ROOT
from fixtures.s3 import KEY, SECRET, S3Server, address, s3_server  # noqa: F401

from sotopia_rl_data.cli import program
from sotopia_rl_data.store.bucket import is_address

pytestmark = pytest.mark.slow

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process: exit code, stdout and stderr."""

    def call(*command: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            program.main(list(command))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert SECRET not in out + err
        return int(ended.value.code or 0), out, err

    return call


def test_import_list_show_query_label_and_verify(address: str, run: Run, tmp_path: Path) -> None:  # noqa: F811
    digests = []
    for store in (str(tmp_path / "store"), address):
        here = ("--store", store)
        assert run("import", "--name", "lab/episodes", *here)[0] == 0
        code, _, err = run("label", "lab/episodes", "--judge", "lexical", "--ledger", str(tmp_path / "ledger"), *here)
        assert code == 3, err  # some agents have no score
        digests.append(
            [(one["name"], one["version"], one["digest"]) for one in json.loads(run("list", "--json", *here)[1])]
        )
    assert digests[0] == digests[1]
    assert "32" in run("query", "lab/episodes", "SELECT count(*) FROM episodes", *here)[1]
    assert f"{address}/lab/episodes-rewards/v1.0.0\n" in run("show", "lab/episodes-rewards", *here)[1]
    assert "whole" in run("verify", "lab/episodes-rewards", *here)[1]
    code, _, err = run("query", "lab/episodes", "SELECT * FROM read_parquet('sotopiaversion://x')", *here)
    assert code == 2
    assert "may read only from the tables" in err


def test_a_ledger_in_a_bucket_is_one_for_all_machines_and_no_version_is_made_before_it_has_all(
    address: str,  # noqa: F811
    s3_server: S3Server,  # noqa: F811
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = ("--store", str(tmp_path / "store"))
    assert run("import", "--name", "lab/episodes", *here)[0] == 0
    command = ("label", "lab/episodes", "--judge", "lexical", "--json")
    with s3_server.away():
        code, _, err = run(*command, "--ledger", f"{address}/.ledger", *here)
        assert code == 1
        assert "The bucket 'toys'" in err
    assert [one["name"] for one in json.loads(run("list", "--json", *here)[1])] == ["lab/episodes"]
    first = json.loads(run(*command, "--ledger", f"{address}/.ledger", *here)[1])
    monkeypatch.setenv("SOTOPIA_RL_DATA_SPOOL", str(tmp_path / "another machine"))
    assert run("import", "--name", "lab/episodes", "--store", address)[0] == 0
    again = json.loads(run(*command, "--store", address)[1])  # whose own ledger is in the same place
    assert (first["asked"], again["asked"], again["hits"]) == (186, 0, 186)
    assert first["digest"] == again["digest"]
    counted = run("ledger", "query", "SELECT count(*) AS n FROM calls", "--json", "--store", address)[1]
    assert json.loads(counted) == [{"n": 186}]
    assert (
        f"186 attempts are in Parquet files of {tmp_path}/another machine/"
        in run("ledger", "compact", "--store", address)[2]
    )
    shard = (*command[:-1], "--shard", "1/2", "--ask-only", "--ledger", f"{address}/shared", *here)
    _, out, err = run(*shard)
    assert (f"the answers are in {address}/shared" in out, "ledger merge" in err) == (True, False)


def test_what_a_bucket_cannot_do_is_said(address: str, run: Run) -> None:  # noqa: F811
    assert run("import", "--name", "lab/episodes", "--store", address)[0] == 0
    for command, said in (
        (["rm", "lab/episodes"], "`rm` and `undo` do not work with the store"),
        (["undo"], f"remove {address}/ORG/NAME/vX.Y.Z/manifest.json: then the version is gone for all machines"),
        (["import", "--name", "lab/more", "--pseudonymise"], "Pseudonyms do not work with the store"),
    ):
        code, _, err = run(*command, "--store", address)
        assert (code, said in err) == (2, True), err
    assert [one["name"] for one in json.loads(run("list", "--json", "--store", address)[1])] == ["lab/episodes"]


@pytest.mark.parametrize(
    ("environment", "store", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": ""}, "s3://toys/lab", "There are no credentials for s3://toys/lab."),
        ({}, "s3://no-such-bucket/lab", "There is no bucket 'no-such-bucket' at http://127.0.0.1"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "s3://toys/lab", "at http://127.0.0.1:1 cannot be reached."),
        ({"AWS_ENDPOINT_URL": "nonsense"}, "s3://toys/lab", "The S3 server's address is not a URL."),
        ({}, "gs://toys/lab", "begins with gs:// cannot be used here"),
        ({}, f"s3://{KEY}:{SECRET}@toys/lab", "not the name of a bucket and a prefix"),
    ],
)
def test_bad_input_is_a_sentence_and_a_hint_soon(environment, store, said, address, run, monkeypatch, tmp_path) -> None:  # noqa: F811
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for command in (["list"], ["import", "--name", "lab/episodes"]):
        began = time.monotonic()
        code, _, err = run(*command, "--store", store)
        assert time.monotonic() - began < 30
        assert code in (1, 2)
        assert said in err
        assert "hint: " in err
    files = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert set(files) <= {".lock"}


def test_a_config_file_may_name_it(address, run, monkeypatch, tmp_path) -> None:  # noqa: F811
    assert run("import", "--name", "lab/episodes", "--store", address)[0] == 0
    (tmp_path / "sotopia-rl-data.toml").write_text(f'store = "{address}"\n')
    monkeypatch.setenv("SOTOPIA_RL_DATA_CONFIG", str(tmp_path / "sotopia-rl-data.toml"))
    assert [one["name"] for one in json.loads(run("list", "--json")[1])] == ["lab/episodes"]


def test_credentials_may_be_those_of_a_profile(address, run, monkeypatch, tmp_path) -> None:  # noqa: F811
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    (tmp_path / ".aws").mkdir()
    keys = f"[lab]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    (tmp_path / ".aws" / "credentials").write_text(keys)
    assert run("import", "--name", "lab/episodes", "--store", address)[0] == 0
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]


def test_without_the_extra_a_sentence_says_what_to_install(address: str) -> None:  # noqa: F811
    absent = "import sys; sys.modules['obstore'] = None\nfrom sotopia_rl_data.cli.program import main\nmain()"
    command = [sys.executable, "-c", absent, "list", "--store", address]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "A store in a bucket needs obstore, which is not installed." in done.stderr
    assert "[s3]" in done.stderr


def test_a_word_and_a_colon_are_an_address_only_where_the_word_is_a_scheme_of_ours() -> None:
    """pathlib makes `s3:` of `s3://`; a folder may be called `draft:`."""
    assert [text for text in ("s3:", "S3:", "hf:", "s3:/a", "gs://a", "draft:", "ads3:", "C:") if is_address(text)] == [
        "s3:",
        "S3:",
        "hf:",
        "s3:/a",
        "gs://a",
    ]
