"""Datasets of others, without our manifest: the known shapes load by name, others with a map; pinned by commit."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.hub.foreign import parse_map
from sotopia_rl_data.store import Store
from sotopia_rl_data.store.versions import commit_of

PROMPT = "Imagine you are Mia.\nScenario: A boat is for sale.\nParticipants: Mia and Ben\nTurn #{}: say something"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def publish(hub, files: dict[str, bytes | str], tag: str | None = None) -> str:
    """A dataset of somebody else's, made with the Hub's own client."""
    repo = hub.repo("foreign")
    code = "import base64\nfrom huggingface_hub import HfApi, CommitOperationAdd as Add\napi = HfApi()\n"
    code += f"api.create_repo({repo!r}, repo_type='dataset')\n"
    return write(hub, repo, files, tag, code)


def write(
    hub, repo, files, tag=None, code="import base64\nfrom huggingface_hub import HfApi, CommitOperationAdd as Add\n"
):
    import base64

    data = {p: base64.b64encode(c if isinstance(c, bytes) else c.encode()).decode() for p, c in files.items()}
    code += f"api, repo = HfApi(), {repo!r}\n"
    code += f"adds = [Add(p, base64.b64decode(c)) for p, c in {data!r}.items()]\n"
    code += "api.create_commit(repo, adds, repo_type='dataset', commit_message='data')\n"
    code += f"api.create_tag(repo, repo_type='dataset', tag={tag!r})\n" if tag else ""
    hub.run.python(code + "print(0)")
    return repo


def rewards_of(hub, ref, store):
    asked = (
        "SELECT prompt[1].content AS asked, completion[1].content AS answered, reward FROM rewards ORDER BY answered"
    )
    return json.loads(hub.run("query", ref, asked, "--store", store.root, "--json").out)


@pytest.mark.slow
def test_training_rows_with_values_load_by_name_and_a_sentinel_is_null_where_it_is_named(hub, store):
    rows = [
        {"input": PROMPT.format(i), "output": f"answer {i}", "value": value} for i, value in enumerate((0.5, -1.0, 0))
    ]
    repo = publish(hub, {"data/annotation.json": json.dumps(rows), "README.md": "# Theirs"})
    found = rewards_of(hub, repo, store)
    assert [row["reward"] for row in found] == [0.5, -1.0, 0.0]
    assert found[0] == {"asked": PROMPT.format(0), "answered": "answer 0", "reward": 0.5}
    version = store.resolve(repo)
    assert (version.ref, commit_of(version)) == (f"{repo}@v1.0.0", hub.head(repo))
    assert list(version.files("rewards")) in (["train"], ["validation"], ["test"])  # one scenario, one split
    hub.server.log()
    assert rewards_of(hub, f"{repo}@{hub.head(repo)}", store) == found
    assert not any("resolve" in line for line in hub.server.log())
    told = hub.run("pull", repo, "--sentinel", "-1", "--store", store.root)
    assert "1 of 3 rewards were -1, the sentinel: they are NULL" in told.err
    assert [row["reward"] for row in rewards_of(hub, repo, store)] == [0.5, None, 0.0]


def test_instructions_without_values_load_by_name(hub, store):
    rows = [{"instruction": "Be Mia.", "input": "", "output": "hello"}, {"instruction": "Be Ben.", "output": "hi"}]
    repo = publish(hub, {"train.jsonl": "\n".join(map(json.dumps, rows))})
    assert rewards_of(hub, repo, store) == [
        {"asked": "Be Mia.", "answered": "hello", "reward": None},
        {"asked": "Be Ben.", "answered": "hi", "reward": None},
    ]


@pytest.mark.slow
def test_an_export_of_episodes_loads_by_name(hub, store):
    from sotopia_rl_data.importers import samples_path

    repo = publish(hub, {"episodes.jsonl": samples_path().read_bytes()})
    asked = ("query", repo, "SELECT count(*) AS n FROM episodes", "--store", store.root, "--json")
    assert json.loads(hub.run(*asked).out) == [{"n": 32}]


@pytest.mark.slow
def test_parquet_loads_with_a_map_of_columns(hub, store):
    table = pa.table(
        {
            "question": [[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]] * 2,
            "answer": ["yes", "no"],
            "score": [0.25, -1.0],
            "other": [1, 2],
        }
    )
    data = io.BytesIO()
    pq.write_table(table, data)
    repo = publish(hub, {"data/train-00000.parquet": data.getvalue()})
    unknown = hub.run("show", repo, "--store", store.root, check=False)
    assert unknown.code == 1
    assert "have the columns question, answer, score, other" in unknown.err
    assert f"sotopia-rl-data pull {repo} --map" in unknown.err
    hub.run("pull", repo, "--map", "question=prompt,answer=completion,score=reward", "--store", store.root)
    assert rewards_of(hub, repo, store) == [
        {"asked": "Be kind.", "answered": "no", "reward": -1.0},
        {"asked": "Be kind.", "answered": "yes", "reward": 0.25},
    ]


@pytest.mark.slow
def test_csv_and_json_take_a_map_too_and_files_can_be_chosen(hub, store):
    files = {
        "good.csv": "q,a,r\nHello?,yes,0.5\nBye?,no,\n",
        "other.json": json.dumps([{"q": "other", "a": "other", "r": 1}]),
    }
    repo = publish(hub, files)
    argv = ("pull", repo, "--map", "q=prompt,a=completion", "--store", store.root)
    hub.run(*argv, "--file", "*.json")
    assert [row["answered"] for row in rewards_of(hub, repo, store)] == ["other"]
    hub.run(*argv)
    assert [row["answered"] for row in rewards_of(hub, repo, store)] == ["no", "other", "yes"]


@pytest.mark.slow
def test_a_later_commit_is_the_next_version_and_the_pinned_one_stays(hub, store):
    repo = publish(hub, {"a.jsonl": json.dumps({"instruction": "one", "output": "1"})})
    first = hub.head(repo)
    hub.run("pull", repo, "--store", store.root)
    write(hub, repo, {"a.jsonl": json.dumps({"instruction": "two", "output": "2"})})
    assert [row["asked"] for row in rewards_of(hub, repo, store)] == ["one"]
    hub.run("pull", repo, "--store", store.root)
    assert [row["asked"] for row in rewards_of(hub, repo, store)] == ["two"]
    assert [row["asked"] for row in rewards_of(hub, f"{repo}@{first}", store)] == ["one"]
    assert store.versions(repo) == ["v1.0.0", "v1.1.0"]


@pytest.mark.slow
def test_a_tag_of_theirs_is_the_version_and_no_number_of_ours_takes_its_place(hub, store):
    repo = publish(hub, {"a.jsonl": json.dumps({"instruction": "one", "output": "1"})}, tag="v2.0.0")
    write(hub, repo, {"a.jsonl": json.dumps({"instruction": "two", "output": "2"})})
    hub.run("pull", repo, "--store", store.root)
    assert store.versions(repo) == ["v2.1.0"]
    assert [row["asked"] for row in rewards_of(hub, f"{repo}@v2.0.0", store)] == ["one"]
    assert store.versions(repo) == ["v2.0.0", "v2.1.0"]


def test_a_repository_without_data_says_so(hub, store):
    refused = hub.run("show", publish(hub, {"weights.bin": b"\0\1"}), "--store", store.root, check=False)
    assert refused.code == 1
    assert "has no data files" in refused.err


@pytest.mark.parametrize("text", ["", "a", "a=prompt", "a=prompt,b=completion,c=score", "a=prompt,b=prompt"])
def test_a_map_names_prompt_and_completion(text):
    with pytest.raises(UsageError, match="not a map of columns"):
        parse_map(text)


def test_a_map_is_read():
    assert parse_map("input=prompt, output = completion,value=reward") == {
        "prompt": "input",
        "completion": "output",
        "reward": "value",
    }


@pytest.mark.parametrize(
    "names",
    [
        ["../data.jsonl"], ["/data.jsonl"], ["a/../data.jsonl"], ["a//data.jsonl"], ["./data.jsonl"], ["*.jsonl"],
        ["[a].jsonl"], ["a\\b.jsonl"], ["a\nb.jsonl"], ["\x1b[31m.jsonl"], [" data.jsonl"], ["x" * 600 + ".jsonl"],
        ["a.csv", "a.csv.jsonl"],
    ],
)  # fmt: skip
def test_a_path_that_is_more_than_a_path_is_refused(hub, store, tmp_path, names):
    repo = hub.repo("paths")
    hub.server.plant(repo, dict.fromkeys(names, b'{"input": "Be Mia.", "output": "hello"}\n'))
    refused = hub.run("pull", repo, "--store", store.root, check=False)
    said = "is not a plain relative path" if len(names) == 1 else "would get the name of the second"
    if names[0][0] == ".":
        said = "has no data files"
    assert (refused.code, said in refused.err) == (1, True), refused.err
    assert list(tmp_path.rglob("*.jsonl")) == []
    assert store.names() == []
