"""docs/stability.md: what others build on is as the page says, in the code and in what a run writes."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from fixtures.places import ROOT
from fixtures.promises import check_keys, names, table

from sotopia_rl_data import errors, tables
from sotopia_rl_data.asking import keys
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.refs import parse

REWARDS = tables.rewards_schema(["goal"])
CONFIGS = {
    "episodes": tables.EPISODES,
    "rewards": REWARDS,
    "attributions": tables.ATTRIBUTIONS,
    "failures": tables.FAILURES,
    "trajectories": tables.trajectories_schema(["goal"]),
    "truth": tables.TRUTH,
}
# Commands whose results their own tests check, since they need a Hub, a model, people's scores or a served log.
ELSEWHERE = {
    "annotate import",
    "demo",
    "inspect",
    "merge",
    "prompts learn",
    "pull",
    "push-to-hub",
    "rm",
    "score",
    "serve",
    "train",
    "undo",
}


def written(kind: pa.DataType) -> str:
    """A column's type as the page writes it."""
    return str(kind).replace("element: ", "").replace("item: ", "")


@pytest.mark.parametrize("config", CONFIGS)
def test_the_columns_and_types_of_a_config(config: str):
    promised = {name: cells[0].strip("`") for name, cells in table(f"Config `{config}`").items()}
    assert promised == {field.name: written(field.type) for field in CONFIGS[config]}


def test_references():
    for text, cells in table("References").items():
        name, version, commit, path = (cell.strip("`") or None for cell in cells)
        ref = parse(text)
        assert (ref.name or None, ref.version, ref.commit, str(ref.path) if ref.path else None) == (
            name, version, commit, path,
        )  # fmt: skip


def test_exit_codes():
    promised = {name: int(code) for code, (_, cell) in table("Exit codes").items() for name in names(cell)}
    ours = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == errors.__name__]
    codes = {kind.__name__: kind.exit_code for kind in ours if issubclass(kind, errors.SotopiaDataError)}
    assert promised.items() <= codes.items()
    assert set(table("Exit codes")) == {"0", "1", "2", "3", "130"}


def test_python_names_and_groups_of_entry_points():
    for module, (cell,) in table("Module").items():
        assert sorted(names(cell)) == sorted(importlib.import_module(module).__all__)
    rooms = ("sotopia_rl_data", "labelers", "trainers")
    code = "".join(path.read_text() for room in rooms for path in (ROOT / room).rglob("*.py"))
    called = re.findall(r'(?:\nGROUP = |plugins\.load\("\w+", )"([^"]+)"', code)
    assert set(called) == set(table("Entry points"))


def variables(path: Path) -> Iterator[ast.expr]:
    """Where a file reads an environment variable: the expression that names it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            yield node.slice
        elif isinstance(node, ast.Call):
            if ast.unparse(node.func) in {"os.environ.get", "os.environ.pop", "os.environ.setdefault", "os.getenv"}:
                yield node.args[0]
            yield from (word.value for word in node.keywords if word.arg == "envvar")


@pytest.mark.slow
def test_environment_variables():
    """A name is a literal or a constant of its module; the keys of hosts are a table of docs/providers.md."""
    read = {*keys.OWN["openai"], *keys.OWN["anthropic"]}
    for room in ("", "labelers", "trainers", "cards"):
        for path in (ROOT / "sotopia_rl_data" / room).rglob("*.py"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for name in variables(path):
                if isinstance(name, ast.Constant):
                    read.add(name.value)
                elif module != keys.__name__:
                    read.add(getattr(importlib.import_module(module), ast.unparse(name)))
    assert set(table("Variable")) == read


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """What each command prints with --json, and the store they leave."""
    root = tmp_path_factory.mktemp("promises")
    printed = {}

    def run(command: str, *arguments: str) -> None:
        store = ("--store", str(root / "store"))
        done = CliRunner().invoke(cli, [*command.split(), *arguments, *store, "--json"], standalone_mode=False)
        assert done.exit_code in (0, 3), (command, done.exception)
        printed[command] = done.stdout

    lexical = ("--judge", "lexical", "--dimensions", "goal")
    run("import", "--name", "lab/e")
    run("label", "lab/e", *lexical, "--preset", "goal-only", "--dry-run")
    printed["--dry-run"] = printed.pop("label")
    run("label", "lab/e", *lexical, "--preset", "goal-only")
    printed["label whole"] = printed["label"]
    run("label", "lab/e", *lexical, "--preset", "goal-only", "--ask-only", "--ledger", str(root / "shard"))
    printed["--ask-only"], printed["label"] = printed["label"], printed.pop("label whole")
    run("audit", "lab/e", *lexical, "--episodes", "2")
    run("rollout", "--out", "lab/selfplay", "--pairs", "1")
    run("rewards", "lab/e-rewards", "--rule", "scaled")
    run("list")
    run("log", "lab/e-rewards")
    run("show", "lab/e-rewards", "sample-boat-sale-1")
    printed["show REF EPISODE"] = printed.pop("show")
    run("show", "lab/e-rewards")
    run("stats", "lab/e-rewards")
    run("diff", "lab/e-rewards@v1.0.0", "lab/e-rewards")
    run("verify", "lab/e-rewards")
    run("agreement", "lab/e-rewards@v1.0.0", "lab/e-rewards")
    run("compare", "lab/e")
    run("report", "lab/e-rewards", "-o", str(root / "report.html"))
    run("curate", "lab/e-rewards@v1.0.0", "lab/e-rewards", "-o", str(root / "curated.csv"))
    run("card", "lab/e")
    run("export", "lab/e", "--to", "sotopia", "-o", str(root / "exported"))
    run("credit games", "--make", "2")
    run("credit bench", "credit/games", *lexical[:2], "--schema", "direct")
    run("annotate template", "lab/e", "--dimensions", "goal", "-o", str(root / "template.csv"))
    run("annotate export", "lab/e", "-o", str(root / "form.csv"))
    run("ledger merge", str(root / "shard"))
    run("ledger compact")
    run("available")
    printed["config"] = CliRunner().invoke(cli, ["config", "--json"], standalone_mode=False).stdout
    with running() as provider:
        run("evaluate", "lab/e", "--judge", f"openai:m@{provider.openai_url}", "--dimensions", "goal")
    return root / "store", printed


@pytest.mark.slow
def test_results_as_json(results: tuple[Path, dict[str, str]]):
    printed = dict(results[1])
    for option in ("--dry-run", "--ask-only"):
        assert set(json.loads(printed.pop(option))) >= set(names(table("Of asking")[option][0]))
    assert set(printed) | ELSEWHERE == set(table("Results with `--json`"))
    for command, text in printed.items():
        check_keys(command, json.loads(text))


def test_what_a_run_writes(results: tuple[Path, dict[str, str]]):
    version = results[0] / "lab" / "e-rewards" / "v1.0.0"
    assert {path.name for path in version.iterdir() if path.is_file()} >= {"README.md", "manifest.json"}
    for config, schema in CONFIGS.items():
        files = list((version / config).glob("*.parquet"))
        assert {file.name for file in files} <= {f"{s}-00000-of-00001.parquet" for s in ("train", "validation", "test")}
        for file in files:
            assert {f.name: written(f.type) for f in pq.read_schema(file)} == {f.name: written(f.type) for f in schema}
    for row in pq.read_table(version / "rewards" / "train-00000-of-00001.parquet").to_pylist():
        assert {message["role"] for message in row["prompt"]} <= {"system", "user", "assistant"}
        assert row["prompt"][-1]["role"] == "user"
        assert [message["role"] for message in row["completion"]] == ["assistant"]
        assert row["reward"] is None or isinstance(row["reward"], float)
