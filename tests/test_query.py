"""Reading a version: SQL that can do nothing but read it, data frames, `datasets`, and episodes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.stores import commit, episode, episodes, failures, python, reward_row, rewards

from sotopia_rl_data import open_dataset
from sotopia_rl_data.errors import NotFound, QueryError, StoreError
from sotopia_rl_data.query import Dataset, connect, stream
from sotopia_rl_data.store import Store


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Four rewards in train (one NULL), one in test; two episodes; no failures. Lies under a path with a quote."""
    store = Store(tmp_path_factory.mktemp("it's a store") / "store")
    tables = {
        ("rewards", "train"): rewards(*(reward_row(i, r) for i, r in enumerate((0.0, 0.5, 1.0, None)))),
        ("rewards", "test"): rewards(reward_row(4, 0.25)),
        ("episodes", "train"): episodes(0, 1),
        ("failures", "train"): failures(),
    }
    commit(store, tables)
    return open_dataset("org/toy", store.root)


# SQL


def test_every_config_is_a_table_with_its_split(data: Dataset) -> None:
    query = "SELECT split, count(*) AS n, avg(reward) AS mean FROM rewards GROUP BY split ORDER BY split"
    assert data.sql(query).to_pylist() == [
        {"split": "test", "n": 1, "mean": 0.25},
        {"split": "train", "n": 4, "mean": 0.5},
    ]
    assert data.sql("SELECT count(*) AS n FROM failures").to_pylist() == [{"n": 0}]
    assert data.sql("SELECT turns[1].text AS said FROM episodes ORDER BY 1").to_pylist() == [
        {"said": '"hi" 0'},
        {"said": '"hi" 1'},
    ]


def test_a_query_may_join_nest_describe_and_end_with_a_semicolon(data: Dataset) -> None:
    query = """
        -- by scenario
        WITH r AS (SELECT episode_id, reward FROM rewards WHERE split = 'train')
        SELECT e.environment_id, max(r.reward) AS best
        FROM episodes e JOIN r USING (episode_id) GROUP BY ALL ORDER BY ALL;
    """
    assert data.sql(query).to_pylist() == [
        {"environment_id": "env0", "best": 0.0},
        {"environment_id": "env1", "best": 0.5},
    ]
    assert "reward" in data.sql("DESCRIBE rewards")["column_name"].to_pylist()
    assert data.sql("FROM rewards").num_rows == 5
    assert data.sql("SELECT unnest(range(3)) AS i FROM range(2), (SHOW TABLES)").num_rows == 18
    assert data.sql("FROM rewards PIVOT (count(*) FOR split IN ('train', 'test'))").num_rows > 0


def test_whole_numbers_and_decimals_come_out_as_plain_ones(data: Dataset) -> None:
    table = data.sql("SELECT sum(turn) AS turns, 0.5 AS half, count(*) AS n FROM rewards")
    assert table.schema.types == [pa.int64(), pa.float64(), pa.int64()]
    assert table.to_pylist() == [{"turns": 0, "half": 0.5, "n": 5}]
    with pytest.raises(QueryError, match="query failed"):
        data.sql("SELECT 170141183460469231731687303715884105727::HUGEINT AS much")


@pytest.mark.slow
@pytest.mark.parametrize(
    "query",
    [
        "",
        "-- nothing",
        "SELECT 1; SELECT 2",
        "INSERT INTO rewards SELECT * FROM rewards",
        "UPDATE rewards SET reward = 1",
        "DELETE FROM rewards",
        "DROP VIEW rewards",
        "CREATE TABLE mine AS SELECT 1",
        "CREATE MACRO f(x) AS x",
        "COPY rewards TO '{out}'",
        "COPY (SELECT 1) TO '{file}'",
        "EXPORT DATABASE '{out}'",
        "IMPORT DATABASE '{out}'",
        "ATTACH '{out}' AS other",
        "DETACH memory",
        "USE memory",
        "PRAGMA database_list",
        "PRAGMA enable_external_access",
        "CALL pragma_version()",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "RESET memory_limit",
        "SET VARIABLE x = 1",
        "INSTALL httpfs",
        "LOAD httpfs",
        "PREPARE q AS SELECT 1",
        "EXECUTE q",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE COPY rewards TO '{out}'",
        "CHECKPOINT",
        "VACUUM",
        "BEGIN",
        "PRAGMA show_tables",  # for DuckDB 1.5 these two are a SELECT
        "PRAGMA table_info('rewards')",
        "PIVOT rewards ON agent USING avg(reward)",  # makes a type first
        # for DuckDB 2.0 these are a SELECT, and the first writes into a file of ours, which a lock leaves open
        "WITH x AS (COPY (SELECT 1) TO '{file}' (FORMAT csv, USE_TMP_FILE false)) FROM x",
        "SELECT (WITH x AS (COPY (SELECT 1) TO '{file}' (FORMAT csv, USE_TMP_FILE false)) SELECT 1 FROM x)",
        "WITH x AS (INSERT INTO rewards SELECT * FROM rewards RETURNING *) FROM x",
        "WITH x AS (DELETE FROM rewards RETURNING *) SELECT * FROM range(3), (FROM x)",
    ],
)
def test_what_is_not_one_select_is_refused(data: Dataset, tmp_path: Path, query: str) -> None:
    (file,) = data.version.files("episodes")["train"]
    before = file.read_bytes()
    with pytest.raises(QueryError, match=r"exactly one SELECT|query failed"):
        data.sql(query.format(out=tmp_path / "out", file=str(file).replace("'", "''")))
    assert list(tmp_path.iterdir()) == []
    assert file.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_csv_auto('/etc/passwd', sep = ':')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_blob('/etc/passwd')",
        "SELECT * FROM read_json('/etc/passwd')",
        "SELECT * FROM read_ndjson_objects('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM '{other}'",
        "SELECT * FROM read_parquet('{other}')",
        "SELECT * FROM read_parquet(['{own}', '{other}'])",
        "SELECT * FROM read_parquet('{folder}/*.parquet')",
        "SELECT * FROM read_parquet('{folder}/../rewards/../../secret.parquet')",
        "SELECT * FROM parquet_metadata('{other}')",
        "SELECT * FROM parquet_schema('{other}')",
        "SELECT * FROM read_text('{manifest}')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT getenv('HOME')",
        "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
        "SELECT * FROM query_table('/etc/passwd')",
        "WITH x AS (SELECT * FROM read_text('/etc/passwd')) SELECT * FROM x",
        "SELECT (SELECT content FROM read_text('/etc/passwd')) FROM rewards",
        "SELECT * FROM read_csv('https://example.com/x.csv')",
        "SELECT * FROM 's3://bucket/x.parquet'",
        "SELECT * FROM sqlite_scan('/tmp/x.db', 't')",
        "SELECT * FROM iceberg_scan('/tmp')",
        "SELECT * FROM load_aws_credentials()",
        "SELECT * FROM smuggled",
        "SELECT * FROM read_duckdb('/tmp/x.db')",
        # DuckDB 1.5 lets these change what is locked; the second ends the process
        "FROM enable_logging('QueryLog', storage = 'stdout')",
        "FROM enable_logging(storage = 'file', storage_config = {{'path': '{folder}/log'}})",
        "SELECT (SELECT count(*) FROM system.main.enable_logging())",
        "FROM json_execute_serialized_sql(json_serialize_sql('FROM enable_logging()'))",
        "FROM query('FROM enable_logging()')",
    ],
)
def test_nothing_but_the_versions_own_files_can_be_read(data: Dataset, tmp_path: Path, query: str) -> None:
    smuggled = pa.table({"x": [1]})  # a variable of ours is not a table of theirs
    pq.write_table(smuggled, tmp_path / "secret.parquet")
    pq.write_table(smuggled, data.version.dir.parent / "secret.parquet")
    (own,) = data.version.files("episodes")["train"]
    names = {
        "other": tmp_path / "secret.parquet",
        "own": own,
        "folder": own.parent,
        "manifest": data.version.dir / "manifest.json",
    }
    with pytest.raises(QueryError) as told:
        data.sql(query.format(**{k: str(v).replace("'", "''") for k, v in names.items()}))
    assert "root:" not in str(told.value)
    assert "\n" not in told.value.message


@pytest.mark.slow
def test_a_mistake_is_one_sentence_with_the_tables_that_there_are(data: Dataset) -> None:
    for query, said in (
        ("SELECT rewrd FROM rewards", "rewrd"),
        ("SELECT * FROM reward", "reward"),
        ("SELEC 1", "SELEC"),
        ("SELECT reward + 'x' FROM rewards", "x"),
        ("SELECT '\udcff'", "surrogates"),
        (f"SELECT {'+'.join(['1'] * 900)} +", "syntax"),
        (f"SELECT {'abs(' * 900}1{')' * 900}", "nested too deeply"),
    ):
        with pytest.raises(QueryError) as told:
            data.sql(query)
        assert said in told.value.message
        assert "\n" not in told.value.message
        assert "the tables are rewards, episodes" in told.value.hint


@pytest.mark.slow
def test_a_sort_bigger_than_memory_spills_and_leaves_nothing_behind(data: Dataset, tmp_path: Path) -> None:
    code = """
import sys, pathlib
from sotopia_rl_data import open_dataset
from sotopia_rl_data.query import connect
version = open_dataset("org/toy", sys.argv[1]).version
with connect(version, "20MB") as connection:
    query = "SELECT (i * 7919) % 1000003 AS i FROM range(6000000) t(i) ORDER BY 1"
    rows = connection.sql(query).to_arrow_reader(100000)
    print(next(iter(rows)).num_rows, len(list(pathlib.Path(sys.argv[2]).iterdir())))
"""
    spill = tmp_path / "spill"
    spill.mkdir()
    out, err = python(code, data.version.dir.parents[2], spill, TMPDIR=str(spill)).communicate()
    assert out.split()[1:] == ["1"], err
    assert list(spill.iterdir()) == []


def test_a_connection_stays_locked(data: Dataset) -> None:
    with connect(data.version) as connection:
        for statement in (
            "SET enable_external_access = true",
            "SET allowed_paths = ['/etc/passwd']",
            "SET threads = 1",
        ):
            with pytest.raises(Exception, match=r"configuration|locked|allowed_paths"):
                connection.execute(statement)
        with pytest.raises(Exception, match=r"disabled|Permission"):
            connection.execute("COPY (SELECT 1) TO '/tmp/out.csv'")


def test_results_come_in_batches(data: Dataset) -> None:
    with stream(data.version, "SELECT range AS i FROM range(100000)") as reader:
        first = reader.read_next_batch()
        assert 0 < first.num_rows < 100_000
        assert first.num_rows + sum(batch.num_rows for batch in reader) == 100_000


def test_an_error_in_the_midst_of_a_result_is_a_query_error(data: Dataset) -> None:
    query = "SELECT CASE WHEN range = 90000 THEN error('boom') ELSE 'x' END FROM range(100000)"
    with pytest.raises(QueryError, match="boom"):
        data.sql(query)


@pytest.mark.slow
@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) FROM range(1000000000000) a, range(1000000) b",
        "SELECT a.range FROM range(1000000000000) a, range(1000000) b WHERE a.range + b.range = -1",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
        "SELECT sum(sqrt(a.range)) FROM range(100000000000) a",
    ],
)
def test_a_query_without_end_is_ended_and_says_so(data: Dataset, query: str) -> None:
    begun = time.monotonic()
    said = r"The query took longer than 1 s\."
    with pytest.raises(QueryError, match=said), stream(data.version, query, seconds=1) as rows:
        rows.read_all()
    assert time.monotonic() - begun < 30
    assert data.sql("SELECT 1 AS one").to_pylist() == [{"one": 1}]


_ASKED = """
import os, signal, sys, threading
from pathlib import Path
import pyarrow as pa
from sotopia_rl_data import open_dataset
from sotopia_rl_data.errors import QueryError
from sotopia_rl_data.importers.batches import RowFilter
from sotopia_rl_data.ledger.calls import query
from sotopia_rl_data.query import sql
way, text, store, interrupted = sys.argv[1:]
data = open_dataset("org/toy", store)
ways = {
    "query": lambda: sql(data.version, text, seconds=1),
    "ledger": lambda: query(Path(store), text, seconds=60),
    "where": lambda: RowFilter(f"({text}) > 0", pa.schema([("a", pa.string())])).keep(pa.table({"a": ["x"]})),
}
if interrupted:
    threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    ways[way]()
except (QueryError, KeyboardInterrupt) as error:
    print(type(error).__name__, getattr(error, "message", ""))
"""
_LONG = "SELECT count(*) FROM range(10000000000) a, range(100) b WHERE a.range % 7 = b.range"
_DOUBLED = ", ".join(f"t{i + 1} AS (SELECT * FROM t{i} a, t{i} b)" for i in range(18))
_PLANNED_LONG = f"WITH t0 AS (SELECT 1 AS x), {_DOUBLED} SELECT count(*) FROM t18"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "text", "interrupted", "told"),
    [
        ("ledger", _LONG, "Ctrl-C", "KeyboardInterrupt "),
        ("where", _LONG, "Ctrl-C", "KeyboardInterrupt "),
        ("ledger", _PLANNED_LONG, "Ctrl-C", "KeyboardInterrupt "),  # DuckDB plans on, for half a minute
        ("query", _PLANNED_LONG, "", "QueryError The query took longer than 1 s."),
    ],
)
def test_ctrl_c_or_the_limit_ends_the_process_whatever_duckdb_is_at(
    data: Dataset, way: str, text: str, interrupted: str, told: str
) -> None:
    command = [sys.executable, "-c", _ASKED, way, text, str(data.version.dir.parents[2]), interrupted]
    out = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert (out.returncode, out.stdout) == (0, f"{told}\n"), out.stderr


def test_a_file_that_is_gone_is_said_to_be_gone(tmp_path: Path) -> None:
    version = commit(Store(tmp_path), {("episodes", "train"): episodes(0)}).version
    version.files("episodes")["train"][0].unlink()
    with pytest.raises(StoreError, match="cannot be read") as told:
        Dataset(version).sql("SELECT 1")
    assert told.value.hint == "see what is damaged: sotopia-rl-data verify org/toy@v1.0.0"


def test_queries_may_run_at_once(data: Dataset) -> None:
    found: list[int] = []

    def ask() -> None:
        found.append(data.sql("SELECT count(*) AS n FROM rewards")["n"][0].as_py())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [5, 5, 5, 5]


# Frames, datasets, episodes


def test_scan_is_a_lazy_frame_of_all_splits_or_one(data: Dataset) -> None:
    frame = data.scan("rewards")
    assert isinstance(frame, pl.LazyFrame)
    mean = frame.filter(pl.col("split") == "train").select(pl.col("reward").mean()).collect().item()
    assert mean == 0.5
    assert data.scan(split="test").collect()["episode_id"].to_list() == ["e0004"]
    assert data.scan("failures").collect().shape == (0, 10)


def test_sql_and_polars_see_the_same_rows(data: Dataset) -> None:
    columns = ["episode_id", "agent", "turn", "reward", "split"]
    ours = pl.from_arrow(data.sql(f"SELECT {', '.join(columns)} FROM rewards ORDER BY ALL"))
    assert isinstance(ours, pl.DataFrame)
    assert ours.equals(data.scan().select(columns).sort("episode_id").collect())


def test_episodes_come_back_as_they_went_in(data: Dataset) -> None:
    assert list(data.episodes()) == [episode(0), episode(1)]
    with pytest.raises(NotFound, match="has no split 'test'"):
        list(data.episodes("test"))


def test_an_unknown_config_or_split_names_those_there_are(data: Dataset) -> None:
    with pytest.raises(NotFound) as told:
        data.scan("attributions")
    assert told.value.hint == "name one of: rewards, episodes, failures"
    with pytest.raises(NotFound) as told:
        data.scan("rewards", "validation")
    assert told.value.hint == "name one of: train, test"


_TO_HF = """
import sys
from sotopia_rl_data import open_dataset
data = open_dataset("org/toy", sys.argv[1])
whole, test, empty = data.to_hf(), data.to_hf("rewards", "test"), data.to_hf("failures")
print({k: v.num_rows for k, v in whole.items()}, test.num_rows, {k: v.num_rows for k, v in empty.items()})
print(whole["train"]["reward"][:], whole["train"][0]["prompt"])
print(empty["train"].column_names == data.sql("FROM failures").column_names[:-1])
"""


@pytest.mark.slow
def test_to_hf_needs_no_network_and_loads_empty_configs_too(data: Dataset, tmp_path: Path) -> None:
    nowhere = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1"}
    out, err = python(_TO_HF, data.version.dir.parents[2], **nowhere).communicate()
    assert out.splitlines() == [
        "{'train': 4, 'test': 1} 1 {'train': 0}",
        "[0.0, 0.5, 1.0, None] [{'role': 'user', 'content': 'prompt 0'}]",
        "True",
    ], err


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = """
import sys, sotopia_rl_data, sotopia_rl_data.store
heavy = {"torch", "transformers", "datasets", "openai", "anthropic", "polars", "duckdb", "pandas", "pyarrow", "numpy"}
print(sorted(heavy & set(sys.modules)))
"""
    out, err = python(code).communicate()
    assert out == "[]\n", err


# From anywhere


_BARE = """
import json, os, sys
from datasets import load_dataset
default = load_dataset(sys.argv[1])
row = default["train"][1]
episodes = load_dataset(sys.argv[1], "episodes", split="train")
(streamed,) = load_dataset(sys.argv[1], streaming=True)["test"]
print(json.dumps([default["train"].num_rows, default["test"].num_rows, row["prompt"], row["completion"], row["reward"],
                  episodes[0]["turns"][0]["text"], streamed["reward"]]), flush=True)
os._exit(0)  # a stream's threads in pyarrow may abort a Python that ends (apache/arrow#45214): here one in 150 did
"""
_EXPECTED = (
    '[4, 1, [{"role": "user", "content": "prompt 1"}], [{"role": "assistant", "content": "hello"}], 0.5, '
    '"\\"hi\\" 0", 0.25]\n'
)


@pytest.mark.slow
def test_a_bare_load_dataset_reads_a_version_in_an_environment_with_only_datasets(
    data: Dataset, datasets_only: Path, tmp_path: Path
) -> None:
    environment = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:1", "PATH": "/usr/bin:/bin"}
    seen = subprocess.run(
        [datasets_only, "-c", "import sotopia_rl_data"], env=environment, cwd=tmp_path, capture_output=True, check=False
    )
    assert b"ModuleNotFoundError" in seen.stderr
    command: list[Any] = [datasets_only, "-c", _BARE, data.version.dir]
    out = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert out.stdout == _EXPECTED, out.stderr


@pytest.mark.slow
def test_each_version_loads_its_own_rows(datasets_only: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    dirs = [commit(store, {("rewards", "train"): rewards(reward_row(0, r))}).version.dir for r in (0.5, 0.75)]
    code = """
import sys
from datasets import load_dataset
print([load_dataset(version)["train"][0]["reward"] for version in sys.argv[1:]])
"""
    command: list[Any] = [datasets_only, "-c", code, *dirs, dirs[0]]
    environment = {"HF_HOME": str(tmp_path / "hf"), "PATH": "/usr/bin"}
    out = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert out.stdout == "[0.5, 0.75, 0.5]\n", out.stderr
