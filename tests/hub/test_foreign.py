"""Datasets of others, without our manifest: the known shapes load by name, others with a map; pinned by commit."""

from __future__ import annotations

import gzip
import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.hub import HubToys

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


MAP = ("--map", "question=prompt,answer=completion,score=reward")
BY_NAME = {"input": ["hello", "hello"], "output": ["yes", "no"], "value": [0.5, 1.0]}


def planted(hub, files: dict[str, bytes]) -> str:
    repo = hub.repo("planted")
    hub.server.plant(repo, files)
    return repo


def parquet(table: pa.Table, **options: object) -> bytes:
    data = io.BytesIO()
    pq.write_table(table, data, **options)
    return data.getvalue()


def with_column(column: pa.Array) -> bytes:
    return parquet(pa.table(BY_NAME).append_column("more", column))


def repeated(text: str, rows: int) -> bytes:
    """Parquet in which every row has this text, which lies there once."""
    places = pa.array([0] * rows, pa.int32())
    columns = {"input": [text], "output": ["b"], "value": [0.5]}
    table = pa.table({name: pa.DictionaryArray.from_arrays(places, one) for name, one in columns.items()})
    return parquet(table, dictionary_pagesize_limit=1 << 30, compression="zstd")


def test_the_cells_of_a_csv_are_numbers_where_the_map_says_reward(hub, store):
    repo = planted(hub, {"d.csv": b"question,answer,score\nhow are you,fine,0.5\nwho,me,\nwhat,[INST] it,-2\n"})
    hub.run("pull", repo, *MAP, "--store", store.root)
    assert rewards_of(hub, repo, store) == [
        {"asked": "what", "answered": "[INST] it", "reward": -2.0},
        {"asked": "how are you", "answered": "fine", "reward": 0.5},
        {"asked": "who", "answered": "me", "reward": None},
    ]


@pytest.mark.parametrize(
    ("name", "data"),
    [("d.csv", b"question,answer,score\nwho,me,\n"), ("d.jsonl", b'{"question": "who", "answer": "me"}\n')],
)
def test_a_column_of_rewards_that_is_empty_is_told_and_the_rewards_are_null(hub, store, name, data):
    repo = planted(hub, {name: data})
    pulled = hub.run("pull", repo, *MAP, "--store", store.root)
    assert "no record has anything in the column 'score', which --map names as reward\n" in pulled.err
    assert rewards_of(hub, repo, store) == [{"asked": "who", "answered": "me", "reward": None}]


@pytest.mark.parametrize(
    ("csv", "reason"),
    [
        ("question,reply\nhow are you,fine\n", "no record has anything in the column 'answer', which --map names."),
        (
            "question,answer,score\nhow are you,fine,good\n",
            "none of 1 records could be imported; d.csv:2: `reward` is 'good', not a number.",
        ),
    ],
)
def test_of_a_map_that_imports_nothing_the_columns_and_what_is_wrong_are_told(hub, store, csv, reason):
    repo = planted(hub, {"d.csv": csv.encode()})
    refused = hub.run("pull", repo, *MAP, "--store", store.root, check=False)
    columns = csv.partition("\n")[0].replace(",", ", ")
    assert refused.code == 1
    assert f"error: The rows of {repo} (d.csv) have the columns {columns}: {reason}\n" in refused.err
    assert "say which columns are what with --map" in refused.err
    assert store.names() == []


def test_with_a_map_no_other_column_counts(hub, store):
    row = {"question": "hello", "answer": "yes", "reward": "high", "label": "spam", "environment_id": 1.5, "key": "k"}
    table = pa.table({name: [cell] for name, cell in row.items()} | {"picture": [b"\xff\xfe"]})
    repo = planted(hub, {"a.jsonl": json.dumps(row | {"value": 1}).encode(), "b.parquet": parquet(table)})
    hub.run("pull", repo, "--map", "question=prompt,answer=completion", "--store", store.root)
    assert rewards_of(hub, repo, store) == [{"asked": "hello", "answered": "yes", "reward": None}] * 2


def test_rows_that_cannot_be_read_are_failures_with_a_map_too_and_are_told(hub, store):
    good = json.dumps({"question": "hello", "answer": "yes", "score": 1})
    repo = planted(hub, {"data/a.jsonl": f"{good}\n{{broken\n".encode()})
    pulled = hub.run("pull", repo, *MAP, "--store", store.root)
    told = "data/a.jsonl:2: not JSON: Expecting property name enclosed in double quotes at character 2."
    assert f"1 rows of `failures` say what was not read; {told}" in pulled.err
    asked = ("query", repo, "SELECT source FROM failures", "--store", store.root, "--json")
    assert json.loads(hub.run(*asked).out) == [{"source": "data/a.jsonl:2"}]


MANY = repeated("a", 2_000_000)
DAMAGED = {
    "gzip": (b"\x1f\x8b\x08\0garbage", "its gzip packing is damaged from here on."),
    "a header": (b"input,input,output\na,b,c\n", "its header names the column 'input' twice"),
    "a ZIP archive": (b"PK\x03\x04garbage", "it is a ZIP archive"),
    "numbers": (b"[1, 2]", "its records are of none of the formats."),
    "Parquet, garbage": (b"PAR1" + bytes(range(256)) + b"PAR1", "it cannot be read from row 0 on"),
    "Parquet, cut": (parquet(pa.table(BY_NAME))[:-9], "it cannot be read from row 0 on"),
    "Parquet, a page": (b"PAR1" + bytes(30) + parquet(pa.table(BY_NAME))[34:], "it cannot be read from row 0 on"),
    "Parquet, no rows": (parquet(pa.table(BY_NAME).slice(0, 0)), "it has no records."),
    "Parquet, many rows": (MANY, f"its {len(MANY):,} bytes claim 2,000,000 rows"),
}


@pytest.mark.parametrize("columns", [(), ("--map", "input=prompt,output=completion")])
@pytest.mark.parametrize(("data", "said"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named_and_so_is_how_to_leave_it_out(hub, store, data, said, columns):
    name = "data.csv" if data.startswith(b"input") else "data.parquet" if data.startswith(b"PAR1") else "data.json"
    repo = planted(hub, {name: data})
    refused = hub.run("pull", repo, *columns, "--store", store.root, check=False)
    assert refused.code == 1
    assert f"error: {repo}: {name}: {said}" in refused.err
    assert "leave it out with --file GLOB" in refused.err
    assert store.names() == []


def test_a_file_that_breaks_off_is_refused_and_without_it_the_others_are_pulled(hub, store):
    rows = [{"input": f"{i}", "output": random.Random(i).randbytes(500).hex()} for i in range(5_000)]
    packed = gzip.compress("\n".join(map(json.dumps, rows)).encode())
    repo = planted(hub, {"bad.json": packed[:-1_000_000], "good.json": json.dumps(rows[:2]).encode()})
    refused = hub.run("pull", repo, "--store", store.root, check=False)
    assert refused.code == 1
    assert f"error: {repo}: bad.json: its gzip packing is damaged from here on." in refused.err
    assert store.names() == []
    hub.run("pull", repo, "--file", "good*", "--store", store.root)
    assert len(rewards_of(hub, repo, store)) == 2


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3\n"
ROW = json.dumps({"input": "hello", "output": "yes", "value": 1.0})
BESIDE = {
    "a pointer in place of Parquet": ("b.parquet", POINTER, "it is not Parquet."),
    "a pointer in place of lines": ("b.jsonl", POINTER, "not JSON: Expecting value at character 1."),
    "a list cut in a record": ("b.json", f"[{ROW},{ROW[:9]}".encode(), "and nothing can be read from here on."),
    "a list closed twice": ("b.json", f"[{ROW},{ROW}]],{ROW}]".encode(), "not JSON: ] closes nothing."),
    "a list cut behind one": ("b.json", f"[{ROW},{ROW},".encode(), "not JSON: the document ends before its end."),
}


@pytest.mark.parametrize("columns", [(), ("--map", "input=prompt,output=completion,value=reward")])
@pytest.mark.parametrize(("name", "data", "said"), BESIDE.values(), ids=BESIDE)
def test_a_damaged_shard_beside_a_good_one_is_refused(hub, store, name, data, said, columns):
    repo = planted(hub, {"a.parquet": parquet(pa.table(BY_NAME)), name: data})
    refused = hub.run("pull", repo, *columns, "--store", store.root, check=False)
    assert refused.code == 1
    assert f"error: {repo}: {name}: " in refused.err
    assert said in refused.err
    assert "leave it out with --file GLOB" in refused.err
    assert store.names() == []


def test_files_that_are_no_data_are_told_and_an_empty_shard_is_no_fault(hub, store):
    shards = {"a.parquet": parquet(pa.table(BY_NAME)), "b.parquet": parquet(pa.table(BY_NAME).slice(0, 0))}
    repo = planted(hub, shards | {"config.json": b'{"a": 1}', "d.csv": b"x,y\n1,2\n"})
    pulled = hub.run("pull", repo, "--store", store.root)
    assert "left out, of no known format: config.json, d.csv\n" in pulled.err
    assert len(rewards_of(hub, repo, store)) == 2


STRANGE = {
    "not UTF-8": pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff", b"ok"]).buffers()),
    "a far time": pa.array([2**62, None], pa.timestamp("us")),
    "a far day": pa.array([2**31 - 1, None], pa.int32()).cast(pa.date32()),
    "an unknown time zone": pa.array([1, None], pa.timestamp("us", "Nowhere/Place")),
}


@pytest.mark.parametrize("column", STRANGE.values(), ids=STRANGE)
def test_a_value_that_nobody_can_read_costs_its_row_and_nothing_where_the_map_leaves_it_out(hub, store, column):
    repo = planted(hub, {"data.parquet": with_column(column)})
    mapped = ("--map", "input=prompt,output=completion,value=reward")
    hub.run("pull", repo, *mapped, "--store", store.root / "mapped")
    assert len(rewards_of(hub, repo, Store(store.root / "mapped"))) == 2
    pulled = hub.run("pull", repo, "--store", store.root)
    assert "1 rows of `failures` say what was not read; data.parquet[0]: it h" in pulled.err
    assert [row["answered"] for row in rewards_of(hub, repo, store)] == ["no"]


def test_pictures_and_ids_of_bytes_beside_the_texts_are_no_hindrance(hub, store):
    pictures = [{"bytes": b"\x89PNG\xff", "path": "a.png"}, None]
    table = pa.table({"prompt": ["hello"] * 2, "chosen": ["yes", "well"], "rejected": ["no", "so"], "image": pictures})
    table = table.append_column("uid", pa.array([b"\xff\0", b"\xfe\0"], pa.binary(2)))
    repo = planted(hub, {"data.parquet": parquet(table)})
    assert "failures" not in hub.run("pull", repo, "--store", store.root).err
    assert [row["answered"] for row in rewards_of(hub, repo, store)] == ["no", "so", "well", "yes"]


def test_bytes_in_the_place_of_a_text_cost_their_row(hub, store):
    table = pa.table(BY_NAME | {"output": [b"\xff", b"no"]})
    repo = planted(hub, {"data.parquet": parquet(table)})
    pulled = hub.run("pull", repo, "--store", store.root)
    told = "data.parquet[0]: `output` is null, not text."
    assert f"1 rows of `failures` say what was not read; {told}" in pulled.err
    assert [row["answered"] for row in rewards_of(hub, repo, store)] == ["no"]


@pytest.mark.slow
def test_rows_that_share_a_long_text_are_refused_in_little_memory(tmp_path):
    hub = HubToys(tmp_path, xet=False)
    try:
        repo = planted(hub, {"data.parquet": repeated("x" * 20_000_000, 60)})
        refused = hub.run("pull", repo, "--store", tmp_path / "store", check=False)
        assert f"error: {repo}: data.parquet: it unpacks to more than 1,000 times its size" in refused.err
        assert hub.run.most_memory() < 1 << 30
        assert Store(tmp_path / "store").names() == []
    finally:
        hub.stop()


@pytest.mark.parametrize(
    "text", ["", "a", "a=prompt", "a=prompt,b=completion,c=score", "a=prompt,b=prompt", "a=prompt,a=completion"]
)
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
    ],
)  # fmt: skip
def test_a_path_that_is_more_than_a_path_is_refused(hub, store, tmp_path, names):
    repo = hub.repo("paths")
    hub.server.plant(repo, dict.fromkeys(names, b'{"input": "Be Mia.", "output": "hello"}\n'))
    refused = hub.run("pull", repo, "--store", store.root, check=False)
    said = "has no data files" if names[0][0] == "." else "is not a plain relative path"
    assert (refused.code, said in refused.err) == (1, True), refused.err
    assert list(tmp_path.rglob("*.jsonl")) == []
    assert store.names() == []
