"""Models by names of one's own, and parameters of one's own: `--judges`, `--judge`, `--key` and `--extra`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sotopia_rl_data.asking.extra import extra_of
from sotopia_rl_data.asking.judges_file import read_judges
from sotopia_rl_data.asking.keys import HOSTS
from sotopia_rl_data.asking.providers import ModelName, sampling_of
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.costs.prices import Price
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.ledger.ledger import Ledger

LONG = "word " * 19
KEYS = {f"KEY_OF_{letter}": f"sk-{letter * 3}-0123456789" for letter in "ABCD"}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", *HOSTS.values()):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-own-0123456789")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def panel() -> Iterator[list[Running]]:
    """Four servers, each of which takes one key and refuses every other."""
    with ExitStack() as stack:
        yield [stack.enter_context(running(key=key)) for key in KEYS.values()]


def command(*arguments: object) -> Any:
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


@pytest.mark.slow
def test_a_panel_at_four_hosts_runs_in_one_command_and_each_host_sees_its_own_key(tmp_path: Path, panel: list[Running]):
    entries = [
        {"name": f"judge-{name[-1]}", "model": "m", "key": name, "price": {"input": 1, "output": 4}} for name in KEYS
    ]
    for entry, server in zip(entries, panel, strict=True):
        entry["url"] = server.openai_url
    entries[3] |= {"protocol": "anthropic", "url": panel[3].url}
    file = tmp_path / "judges.yaml"
    file.write_text(json.dumps(entries))  # JSON is YAML
    named = [option for entry in entries for option in ("--judge", entry["name"])]
    done = command(
        "label",
        "--judges",
        file,
        *named,
        "--preset",
        "goal-only",
        "--ask",
        "packed",
        "--store",
        tmp_path / "store",
        "--json",
    )
    told = json.loads(done.stdout)
    assert set(told["failures"]) <= {"no episode score"}  # of the samples, not of the judges
    assert told["labels"] > 0
    assert [set(server.log()["statuses"]) for server in panel] == [{"200"}] * 4
    assert {line["judge"] for line in told["bill"]["lines"]} == {entry["name"] for entry in entries}
    assert all(line["total"] > 0 for line in told["bill"]["lines"])
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or not [key for key in KEYS.values() if key.encode() in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
@pytest.mark.parametrize("how", [(), ("--batch", "--poll", "1")])
def test_an_extra_parameter_is_sent_as_it_is_and_part_of_the_key(tmp_path: Path, protocol: str, how: tuple[str, ...]):
    with running() as server:
        spec = f"{protocol}:m@{server.openai_url if protocol == 'openai' else server.url}"
        asked = ["evaluate", "demo/e", "--judge", spec, *how, "--store", tmp_path, "--json"]
        command("import", "--name", "demo/e", "--store", tmp_path)
        extra = ["--extra", "top_p=0.5", "--extra", 'provider.order=["x"]', "--extra", "provider.sort=price"]
        assert command(*asked, *extra).exit_code == 0
        calls = server.log()["requests"]
        command(*asked, *extra)
        assert server.log()["requests"] == calls > 0
        command(*asked)
        assert server.log()["requests"] == 2 * calls
        bodies = server.log()["parameters"]
    assert {"top_p": 0.5, "provider": {"order": ["x"], "sort": "price"}}.items() <= bodies[0].items()
    with Ledger(tmp_path / ".ledger") as ledger:
        samplings = {json.dumps(attempt.sampling, sort_keys=True) for attempt in ledger.scan()}
    assert len(samplings) == 2


def test_extras_are_json_or_text_and_dots_lead_into_objects():
    given = ["effort=low", "top_k=20", "a.b.c=true", "a.b.d=null", 'stop=["x"]', "empty=", "eq=a=b"]
    assert extra_of(given) == {
        "effort": "low",
        "top_k": 20,
        "a": {"b": {"c": True, "d": None}},
        "stop": ["x"],
        "empty": "",
        "eq": "a=b",
    }
    assert sampling_of({"a": {"x": 1, "y": 2}, "t": 0}, {"a": {"y": 3}, "t": None}) == {"a": {"x": 1, "y": 3}}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["top_p"], "not of the form KEY=VALUE"),
        (["=1"], "not of the form KEY=VALUE"),
        (["a..b=1"], "not of the form KEY=VALUE"),
        (["a=1", "a.b=2"], "both 'a' and a part"),
        (["a=1", "a=2"], "'a' twice"),
        (["messages=[]"], "'messages' cannot"),
        (["model=x"], "'model' cannot"),
        (["response_format.type=text"], "'response_format' cannot"),
        (["output_config.format.type=text"], r"'output_config\.format' cannot"),
        (["temperature=1"], "'temperature' cannot"),
        (["n=3"], "'n' cannot"),
        (["api_key=sk-abcdefghij0123456789"], "holds a key"),
        (["x=[NaN]"], "not JSON"),
        (['x="\\ud800"'], "a value that JSON cannot"),
    ],
)
def test_an_extra_that_cannot_be_given_is_a_sentence(given: list[str], said: str):
    with pytest.raises(UsageError, match=said) as caught:
        extra_of(given)
    assert caught.value.hint
    assert "sk-abc" not in str(caught.value)


def test_an_entry_says_model_server_key_parameters_and_price(tmp_path: Path):
    file = tmp_path / "judges.yaml"
    file.write_text(
        "- name: careful\n  model: gpt-5\n  extra: {reasoning_effort: high}\n"
        "- name: claude-opus-5\n"
        "- name: ours\n  model: qwen\n  url: http://gpu7:8000/v1/\n  key: none\n"
        "  sampling: {temperature: 0.5, max_tokens: 99}\n  price: {input: 1, cached: 0.5, output: 2, longest: 500}\n"
    )
    read = read_judges(file)
    assert read.models == {
        "careful": ModelName("openai", "gpt-5", sampling={"reasoning_effort": "high"}, id="careful"),
        "claude-opus-5": ModelName("anthropic", "claude-opus-5", id="claude-opus-5"),
        "ours": ModelName(
            "openai", "qwen", "http://gpu7:8000/v1", "none", {"temperature": 0.5, "max_tokens": 99}, "ours"
        ),
    }
    assert read.prices == {"gpu7:8000": {"qwen": Price(1, 0.5, 1, 2, 500)}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("{", "not YAML"),
        ("name: x\n", ":1: a judges file must be a list"),
        ("- model: x\n", ":1: the entry lacks `name`"),
        ("- name: x\n  api_key: y\n", ":2: the entry cannot have the key 'api_key'"),
        ("- name: x\n- name: x\n", ":2: there are two judges called 'x'"),
        ("- name: x\n  url: gpu7:8000\n", ":2: The base URL 'gpu7:8000' does not begin with"),
        ("- name: x\n  url: https://me:secret@h/v1\n", ":2: "),
        ("- name: x\n  protocol: grpc\n", ":2: `protocol` must be"),
        ("- name: x\n  key: sk-abcdefghij0123456789\n", ":2: "),
        ("- name: x\n  key: 0a1b2c3d4e5f60718293a4b5c6d7e8f9\n", ":2: `key` must name"),
        ("- name: x\n  sampling: {temperature: warm}\n", ":2: `temperature` must be a number"),
        ("- name: x\n  sampling: {max_tokens: 0}\n", ":2: `max_tokens` must be a whole number"),
        ("- name: x\n  extra: {model: y}\n", ":2: The parameter 'model'"),
        ("- name: x\n  extra: {a: sk-abcdefghij0123456789}\n", ":2: this looks like a key"),
        ("- name: x\n  extra: {a: [{null: 1}]}\n", ":2: The extra parameters have the name None, which is not text"),
        ("- name: x\n  extra: {1: 2}\n", ":2: The extra parameters have the name 1, which is not text"),
        ('- name: x\n  model: "\\ud800"\n', ":2: this text holds half of a surrogate pair"),
        (f"- name: x\n  url: http://{'a' * 2000}/v1\n", ":2: a URL has at most 2,000 characters"),
        (f"- name: x\n  urls: [{'http://h/v1, ' * 1001}]\n", ":2: `urls` may have at most 1,000 servers"),
        (f"- name: x\n  extra: {[f'v{i}' for i in range(10_000)]}\n", ":2: a judges file has at most 10,000 different"),
        ("- name: x\n  price: {input: 1}\n", ":2: `price` lacks `output`"),
        ("- name: x\n  price: {input: -1, output: 2}\n", ":2: `input` must be a number"),
        ("- name: x\n  extra: !!python/object/apply:os.getcwd []\n", ":2: "),
    ],
)
def test_a_mistake_in_the_file_is_a_sentence_with_its_line(tmp_path: Path, text: str, said: str):
    file = tmp_path / "judges.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        read_judges(file)
    assert not [secret for secret in ("sk-abc", "0a1b2c", "secret@") if secret in str(caught.value)]


def test_an_alias_is_searched_for_secrets_once_and_a_secret_is_found_all_the_same(tmp_path: Path):
    nested = "".join(f"    {name}: &{name} [{', '.join([f'*{of}'] * 8)}]\n" for of, name in pairwise("abcdef"))
    file = tmp_path / "judges.yaml"
    file.write_text(f"- name: x\n  extra:\n    a: &a [{LONG}]\n{nested}")
    begun = time.process_time()
    with pytest.raises(InputError, match=":3: The extra parameters have more than 100,000 characters"):
        read_judges(file)
    assert time.process_time() - begun < 1
    file.write_text(file.read_text().replace(LONG, "sk-abcdefghij0123456789"))
    with pytest.raises(InputError, match=":3: this looks like a key"):
        read_judges(file)


@pytest.mark.slow
def test_a_key_is_named_for_a_server_and_a_key_itself_is_refused(tmp_path: Path):
    with running(key=KEYS["KEY_OF_A"]) as server:
        host = server.url.removeprefix("http://")
        asked = ["label", "--judge", f"openai:m@{server.openai_url}", "--preset", "goal-only", "--ask", "packed"]
        command(*asked, "--store", tmp_path, "--key", f"{host}=KEY_OF_A")
        assert set(server.log()["statuses"]) == {"200"}
    for wrong in ("sk-abcdefghij0123456789", "gpu7.lab=sk_abcdefghij0123456789", "gpu7.lab=abcTrombone77"):
        with pytest.raises(UsageError) as caught:
            command(*asked, "--key", wrong)
        assert "abc" not in str(caught.value) + caught.value.hint
