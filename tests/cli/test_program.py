"""The surface that others script against: instant help, clean output, errors that are sentences, exit codes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import re
import resource
import shlex
import subprocess
import sys
import time
import venv
from pathlib import Path

import duckdb
import pytest
from fixtures.screens import plain, show

from sotopia_rl_data.cli import program
from sotopia_rl_data.errors import SotopiaDataError
from sotopia_rl_data.query import time_limit

ROOT = Path(program.__file__).resolve().parents[2]
NAMES = [name for section in program.COMMANDS.values() for name in section]
INNER = [[name, inner] for name in NAMES for inner in getattr(program.cli.get_command(None, name), "commands", ())]
HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "openai",
    "anthropic",
    "genai_prices",
    "polars",
    "duckdb",
    "pandas",
    "pyarrow",
    "scipy",
    "trl",
}

CONSOLE_SCRIPT = "#!{python}\nfrom sotopia_rl_data.cli.program import main\nmain()\n"  # as an installation has it


@pytest.fixture
def run(tmp_path):
    """Run the program in an empty folder with its own store, as a person would."""

    def call(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY") and not k.startswith("SOTOPIA_")}
        return subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), *arguments],
            cwd=tmp_path,
            env=clean | {"COLUMNS": "120", "PYTHONPATH": str(ROOT)} | env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return call


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A store with the samples labelled by the offline judge."""
    from fixtures.flat_calls import label

    from sotopia_rl_data.importers import samples_path
    from sotopia_rl_data.importers.importing import import_dataset
    from sotopia_rl_data.store import Store

    store = Store(tmp_path_factory.mktemp("cli") / "store")
    import_dataset(store, [samples_path()], "demo/episodes")
    label(store, "demo/episodes", judges=["lexical"])
    return store


@pytest.mark.slow
def test_rewards_are_made_under_the_number_that_is_given(run, labelled):
    options = ("--rule", "uniform", "--out", "demo/numbered", "--version", "v7.0.0", "--json")
    done = run("rewards", "demo/episodes-rewards", *options, "--store", str(labelled.root))
    assert json.loads(done.stdout)["version"] == "demo/numbered@v7.0.0"


@pytest.mark.slow
@pytest.mark.invented
def test_a_run_is_looked_at_without_a_trainers_library(run, tmp_path):
    """`inspect` reads `run.json`: figures beside interval and baseline, and no wait for torch."""
    measured = {"mse": 0.1, "mse_low": 0.05, "mse_high": 0.2, "turn_mse": 0.4}
    record = {
        "kind": "rm",
        "model": "lab/base",
        "dataset": {"name": "lab/x", "version": "v1.0.0", "digest": "d" * 64, "commit": None},
        "metrics": {"test": measured},
        "config": {"preset": "tiny"},
    }
    (tmp_path / "rm").mkdir()
    (tmp_path / "rm" / "run.json").write_text(json.dumps(record))
    shown = run("inspect", "rm")
    assert shown.returncode == 0, shown.stderr
    assert "lab/x@v1.0.0" in shown.stdout
    figures = [line.split() for line in shown.stdout.splitlines()]
    assert ["mean", "squared", "error", "0.1", "0.05", "to", "0.2", "0.4"] in figures
    assert json.loads(run("inspect", "rm", "--json").stdout)["metrics"]["test"] == measured
    following = shown.stderr.split("next:")[1]
    assert "score lab/x@v1.0.0 --reward-model ./rm" in following
    assert "train grpo --preset tiny --dataset lab/x@v1.0.0 --model lab/base --reward-model ./rm\n" in following
    absent = run("inspect", "nowhere")
    assert (absent.returncode, "There is no folder nowhere." in absent.stderr) == (2, True)
    look = (
        "try: program.main(['inspect', 'rm'])\n"
        "except SystemExit: print({'torch', 'transformers', 'trl'} & {*sys.modules})"
    )
    command = [sys.executable, "-c", f"import sys\nfrom sotopia_rl_data.cli import program\n{look}"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.slow
@pytest.mark.parametrize("command", [[], *[[name] for name in NAMES], *INNER], ids=" ".join)
def test_help_of_every_command_imports_nothing_heavy(command):
    script = (
        "import sys\nfrom sotopia_rl_data.cli import program\n"
        "try: program.main([*sys.argv[1:], '--help'])\n"
        "except SystemExit as done: code = done.code\n"
        "print('LOADED', code, *(set(sys.modules) & set(sys.stdin.read().split())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command],
        input=" ".join(HEAVY),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "LOADED 0"
    assert "Usage:" in done.stdout


@pytest.mark.parametrize("name", [name for name in NAMES if name != "completion"])  # which prints a script
def test_every_command_takes_a_store_and_json(name):  # `models` and `serve` keep nothing
    command = program.cli.get_command(None, name)
    leaves = list(getattr(command, "commands", {name: command}).values())
    for leaf in leaves:
        options = {option for parameter in leaf.params for option in parameter.opts}
        assert {"--json"} | ({"--store"} if name not in ("models", "serve") else set()) <= options, leaf.name
        assert "Example" in leaf.help, leaf.name


@pytest.mark.slow
def test_the_first_steps_of_the_help_work_as_printed(run):
    steps = re.findall(r"(?m)^ +\S+ \S*cli\.py (.*)", run("--help").stdout)
    assert len(steps) == 4
    import shlex

    codes = [run(*shlex.split(step)).returncode for step in steps]
    assert codes == [0, 3, 0, 0]  # one sample's evaluation failed, so labelling lists what has no label


@pytest.mark.slow
def test_json_is_all_that_stdout_holds(run, labelled):
    store = str(labelled.root)
    for arguments in (
        ["list"],
        ["log", "demo/episodes-rewards"],
        ["show", "demo/episodes-rewards"],
        ["show", "demo/episodes-rewards", "sample-last-tram-1"],
        ["stats", "demo/episodes-rewards"],
        ["query", "demo/episodes-rewards", "SELECT * FROM rewards LIMIT 2"],
        ["diff", "demo/episodes", "demo/episodes-rewards"],
        ["verify", "demo/episodes-rewards"],
        ["rewards", "demo/episodes-rewards"],
        ["label", "demo/episodes", "--judge", "lexical"],
        ["ledger", "query", "SELECT count(*) AS n FROM calls"],
    ):
        done = run(*arguments, "--json", "--store", store)
        assert done.returncode in (0, 3), (arguments, done.stderr)
        json.loads(done.stdout)


@pytest.mark.slow
def test_labelling_again_is_a_no_op_that_says_so(run, labelled):
    done = run("label", "demo/episodes", "--judge", "lexical", "--store", str(labelled.root), "--json")
    report = json.loads(done.stdout)
    assert (report["created"], report["version"]) == (False, "demo/episodes-rewards@v1.0.0")


@pytest.mark.slow
def test_a_pipe_gets_no_colour_and_no_bar(run, labelled):
    done = run("show", "demo/episodes-rewards", "sample-last-tram-1", "--store", str(labelled.root))
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.slow
def test_an_episode_is_found_by_its_id_also_where_many_begin_with_it(run, tmp_path):
    agents = [{"agent": "a", "name": "Ann"}, {"agent": "b", "name": "Ben"}]
    one = {"agents": agents, "turns": [{"turn": 0, "agent": "a", "text": "Hello."}]}
    scenes = {f"e1{n}": "harbour" for n in range(40)} | {"e1": "library"}  # in train, in test: read last
    lines = [json.dumps({"episode_id": i, "environment_id": scene} | one) for i, scene in scenes.items()]
    (tmp_path / "many.jsonl").write_text("\n".join(lines))
    assert run("import", "many.jsonl", "--name", "a/b").returncode == 0
    for begin, found in (("e1", "e1"), ("e12", "e12"), ("e139", "e139")):
        assert json.loads(run("show", "a/b", begin, "--json").stdout)["episode"]["episode_id"] == found
    several = run("show", "a/b", "e")
    assert several.returncode == 2
    assert "Several episodes of a/b@v1.0.0 have an id that begins with 'e'." in several.stderr
    assert "e1, e10, e11 …" in several.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["show", "demo/none"], ["show", "demo/episodes-rewards", "sample-last-tram-1"]])
def test_a_terminal_gets_colour_unless_no_color_is_set(labelled, arguments):
    arguments = [*arguments, "--store", str(labelled.root)]
    assert "\x1b[3" in on_a_terminal(*arguments)
    plain = on_a_terminal(*arguments, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*[39]\dm", plain)
    assert "demo/none" in plain or "Rowan" in plain


def on_a_terminal(*arguments: str, **env: str) -> str:
    """What the program writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS")} | {"TERM": "xterm"} | env
    command = [sys.executable, str(ROOT / "cli.py"), *arguments]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True):
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # Linux: the other end is closed
            while more := os.read(ours, 1 << 16):
                said += more
    os.close(ours)
    return said.decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["query", "demo/episodes-rewards", "SELECT prompt FROM rewards", "--format", "jsonl"],
        ["query", "demo/episodes-rewards", "SELECT * FROM rewards"],
        ["show", "demo/episodes-rewards"],
        ["show", "demo/episodes-rewards", "sample-last-tram-1"],
        ["stats", "demo/episodes-rewards", "--json"],
    ],
    ids=" ".join,
)
def test_a_pipe_that_closes_early_is_no_error(labelled, arguments):
    command = [sys.executable, str(ROOT / "cli.py"), *arguments, "--store", str(labelled.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, "")


@pytest.mark.slow
def test_the_offline_judge_says_that_it_is_a_baseline(run, labelled):
    done = run("label", "demo/episodes", "--judge", "lexical", "--store", str(labelled.root))
    assert "baseline" in done.stderr
    assert "baseline" in labelled.resolve("demo/episodes-rewards").manifest.provenance["judges"][0]["remark"]


@pytest.mark.slow
def test_the_next_commands_name_the_store_that_was_named(run):
    done = run("import", "--name", "a/b", "--store", "other dir")
    assert "show a/b --store 'other dir'" in done.stderr


@pytest.mark.slow
def test_the_named_store_stands_behind_words_in_quotes_whatever_they_hold(run, tmp_path):
    name = 'it\'s `odd`   # and "long"'
    agents = [{"name": one} for one in ("Ada", "Ben")]
    turns = [{"agent": one["name"], "text": "Hello."} for one in agents]
    episode = {"episode_id": name, "scenario": "A quay.", "agents": agents, "turns": turns}
    (tmp_path / "odd.jsonl").write_text(json.dumps(episode))
    run("import", "odd.jsonl", "--name", "a/b", "--store", "other dir")
    done = run("show", "a/b", "--store", "other dir")
    assert shlex.split(done.stderr.splitlines()[-1])[-5:] == ["show", "a/b", name, "--store", "other dir"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["lable"], 2, "cli.py label`?"),
        (["import", "missing.jsonl", "--name", "a/b"], 1, "missing.jsonl"),
        (["import", "notjson.jsonl", "--name", "a/b"], 1, "notjson.jsonl"),
        (["import", "--name", "no such name"], 2, "is not a possible name of a dataset"),
        (["import"], 2, "--name"),
        (["import", "--name", "a/b", "--where", "nonsense >"], 2, "'nonsense >' is not a condition"),
        (["label", "nobody/nothing", "--judge", "lexical"], 2, "nobody/nothing"),
        (["label", "./missing.jsonl", "--judge", "lexical"], 1, "missing.jsonl"),
        (["label", "./missing.jsonl", "--judge", "gpt-4o"], 1, "missing.jsonl"),
        (["label"], 2, "--judge"),
        (["label", "--judge", "gtp-4o"], 2, "gtp-4o"),
        (["label", "--judge", "gpt-4o"], 2, "OPENAI_API_KEY"),
        (["label", "--judge", "lexical", "--dimensions", "goal,charm"], 2, "charm"),
        (["label", "--judge", "lexical", "--schema", "vibes"], 2, "vibes"),
        (["label", "--judge", "lexical", "--preset", "best"], 2, "best"),
        (["label", "--judge", "lexical", "--scale", "4"], 2, "scale"),
        (
            ["label", "--judge", "gpt-4o", "--temperature", "nan", "--dry-run"],
            2,
            "The temperature is nan, but must be 0 or more",
        ),
        (["label", "--judge", "lexical", "--rpm", "0"], 2, "'--rpm': 0.0 is not"),
        (["label", "--judge", "lexical", "--tpm", "nan", "--dry-run"], 2, "tpm must be above zero"),
        (["evaluate", "a/b", "--judge", "lexical", "--timeout", "-1"], 2, "'--timeout': -1.0 is not"),
        (["audit", "a/b", "--judge", "lexical", "--rpm", "-1"], 2, "'--rpm': -1.0 is not"),
        (["rollout", "--out", "a/b", "--tpm", "nan"], 2, "tpm must be above zero"),
        (["label", "--budget", "lots"], 2, "Invalid value for '--budget': 'lots' is not a number."),
        (["label", "--ask", "a  b"], 2, "'a  b' is not one of 'per-dimension', 'packed'."),
        (["label", "--judge", "lexical", "--samples", "x"], 2, "'x' is not a whole number."),
        (["completion"], 2, "Missing argument 'SHELL'. Choose from: bash, zsh, fish"),
        (["list", "--store", ""], 2, "--store names no folder."),
        (["rewards", "nobody/nothing"], 2, "nobody/nothing"),
        (["show", "nobody/nothing"], 2, "nobody/nothing"),
        (["show", "a/b@v9"], 2, "v1.0.0"),
        (["stats", "./nowhere"], 2, "nowhere"),
        (["log", "nobody/nothing"], 2, "nobody/nothing"),
        (["query", "nobody/nothing", "SELECT 1"], 2, "nobody/nothing"),
        (["diff", "a/b", "c/d"], 2, "a/b"),
        (["verify", "a/b"], 2, "a/b"),
        (["prompts", "learn", "missing.log", "./notjson.jsonl", "-o", "t.yaml"], 1, "notjson.jsonl"),
        (["ledger", "query", "SELECT 1"], 2, "ledger"),
        (["ledger", "compact"], 2, "ledger"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_the_hint_and_an_exit_code(run, tmp_path, arguments, code, says):
    (tmp_path / "notjson.jsonl").write_text("this is not JSON\n")
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert done.stderr.startswith("error: ")
    assert " hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    store = tmp_path / "store"
    left = [p for p in store.rglob("*") if p.is_file() and p.name != "lock"] if store.exists() else []
    assert left == []


def test_an_error_is_as_long_as_a_screen_and_tells_its_two_ends(run, tmp_path):
    (tmp_path / "s.json").write_text(json.dumps({"x" * 500_000: 1}))
    done = run("rollout", "--scenarios", "./s.json", "--out", "lab/new")
    error, hint = done.stderr.split("\n hint: ")
    assert (done.returncode, len(error)) == (1, len("error: ") + 1600 + len(" … (498,143 characters) … ") + 400)
    assert error.startswith("error: s.json:1: the scenario has the unknown field 'xxx")
    assert error.endswith("xxx'; it may have environment_id, codename, relationship, scenario, agents.")
    assert hint.startswith("a scenario has environment_id")


@pytest.mark.slow
@pytest.mark.parametrize(
    "sql",
    [
        "DROP VIEW rewards",
        "SELECT 1; SELECT 2",
        "COPY rewards TO 'x.csv'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELEC",
    ],
)
def test_a_query_is_one_select_over_the_versions_own_tables(run, labelled, tmp_path, sql):
    done = run("query", "demo/episodes-rewards", sql, "--store", str(labelled.root))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_key_in_the_environment_is_written_nowhere(run, tmp_path):
    key = "sk-test-THIS-IS-SECRET-0123456789"
    done = run("label", "--judge", "openai:judge@http://127.0.0.1:9/v1", OPENAI_API_KEY=key)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    everything = (
        done.stdout
        + done.stderr
        + "".join(p.read_bytes().decode("latin-1") for p in tmp_path.rglob("*") if p.is_file())
    )
    assert key not in everything


def test_every_error_class_has_an_exit_code_that_means_something():
    def all_of(kind: type[SotopiaDataError]) -> list[type[SotopiaDataError]]:
        return [kind, *(inner for one in kind.__subclasses__() for inner in all_of(one))]

    assert {kind.exit_code for kind in all_of(SotopiaDataError)} <= {1, 2, 130}


def test_the_program_and_the_console_script_are_the_same():
    script = Path(sys.executable).with_name("sotopia-rl-data")
    found = os.environ | {"PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}"}
    by_name = subprocess.run([str(script), "--help"], env=found, capture_output=True, text=True, check=True).stdout
    by_file = subprocess.run(
        [sys.executable, "cli.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    in_a_clone = re.search(r"Usage: (.* cli\.py) ", by_file)
    assert in_a_clone
    assert by_name == by_file.replace(in_a_clone[1], "sotopia-rl-data")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "path", "spelled"),
    [
        ("bin/sotopia-rl-data", "bin", "sotopia-rl-data"),
        ("bin/sotopia-rl-data", "", "bin/sotopia-rl-data"),
        ("bin/python cli.py", "bin", "bin/python cli.py"),
        ("bin/python -m sotopia_rl_data", "bin", "sotopia-rl-data"),
        ("bin/python -m sotopia_rl_data", "", "bin/python -m sotopia_rl_data"),
    ],
)
def test_every_command_that_is_printed_is_spelled_as_the_program_was_called(
    words: str, path: str, spelled: str, tmp_path: Path
):
    venv.create(tmp_path, with_pip=False)
    (tmp_path / "bin" / "sotopia-rl-data").write_text(CONSOLE_SCRIPT.format(python=tmp_path / "bin" / "python"))
    (tmp_path / "bin" / "sotopia-rl-data").chmod(0o755)
    (tmp_path / "cli.py").write_text((ROOT / "cli.py").read_text())
    libraries = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environment = {"PATH": path and str(tmp_path / path), "PYTHONPATH": libraries, "COLUMNS": "80"}

    def printed(*arguments: str) -> str:
        command = [*words.split(), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    assert f"next:\n  {spelled} import --name demo/episodes\n" in printed("list")
    assert f"\n hint: did you mean `{spelled} label`?\n" in printed("labl")
    assert f"\n hint: run `{spelled} show --help`\n" in printed("show", "--nonesuch")
    described = printed("label", "--help")
    assert f"Usage: {spelled} label " in described
    assert f"\n    {spelled} label demo/episodes --judge lexical\n" in described
    assert f"\n    {spelled} show demo/episodes-rewards\n" in printed("--help")
    setup = printed("completion", "fish").splitlines()[-1]
    absolute = spelled.replace("bin/", f"{tmp_path}/bin/").replace("cli.py", f"{tmp_path}/cli.py")
    assert setup.endswith(f": {absolute} completion fish | source")


@pytest.mark.slow
def test_commands_in_hints_have_the_store_that_was_named_and_names_of_commands_stay_names(tmp_path: Path):
    store = tmp_path / "my store"
    show("import", "--name", "demo/e", "--store", str(store))

    def hint(*words: str) -> str:
        return plain(show(*words, "--store", str(store), columns=500).err).partition(" hint: ")[2].strip()

    assert hint("report", "demo/e@v1.0.0", "-o", "r.html") == (
        f"label it first: sotopia-rl-data label demo/e --judge gpt-4o --store '{store}'"
    )
    assert hint("show", "demo/e", "none") == (
        f"list the ids: sotopia-rl-data query demo/e@v1.0.0 \"SELECT episode_id FROM episodes\" --store '{store}'"
    )
    assert hint("compare", "demo/e", "--evaluator", "none").count("--store") == 0
    assert plain(show("shwo").err).partition(" hint: ")[2] == "did you mean `sotopia-rl-data show`?\n"
    relative = show("import", "--name", "demo/e", "--store", "nowhere", "--json", "none.jsonl").err
    assert "--store" not in relative  # `import --help` needs none


def test_ctrl_c_inside_duckdb_is_an_interruption_and_no_bug():
    """DuckDB, where it looks for signals itself, raises this; it may look once a minute, so it is not asked here."""
    raised = RuntimeError("Query interrupted")
    assert program._told(raised) == ("Interrupted.", "run the same command again", 130)
    with duckdb.connect() as connection, pytest.raises(KeyboardInterrupt), time_limit(connection, 60):
        raise raised


def test_too_many_open_files_are_told_with_the_limit_to_raise():
    told = program._told(OSError(errno.EMFILE, "Too many open files", "ledger/journal"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    raised = min(2 * soft, hard) if hard > soft else 2 * soft
    hint = f"raise the limit with `ulimit -n {raised}`, then run the same command again"
    assert told == ("Too many open files: ledger/journal.", hint, 1)


def test_a_package_that_a_library_misses_is_told_and_no_bug():
    said = "Using SOCKS proxy, but the 'socksio' package is not installed."
    hint = "install it, then run the same command again"
    assert program._told(ImportError(said)) == (f"A package is missing: {said}", hint, 1)
    ours = ImportError("cannot import name 'x'", name="sotopia_rl_data.query")
    assert program._told(ours)[0].startswith("The program has a bug: ImportError")


INTERRUPTED = """
import os, signal, sys, threading
import duckdb
from sotopia_rl_data.cli import program
threading.Timer(3, os.kill, (os.getpid(), signal.Signals[sys.argv[1]])).start()
program.main(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_ctrl_c_ends_a_query_that_has_no_row_yet(run, tmp_path, name):
    assert run("import", "--name", "a/b").returncode == 0
    endless = "SELECT count(*) FROM range(10000000000) a, range(100) b WHERE a.range % 7 = b.range"
    command = [sys.executable, "-c", INTERRUPTED, name, "query", "a/b", endless, "--store", str(tmp_path / "store")]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert (done.returncode, "error: Interrupted." in done.stderr) == (130, True), done.stderr
    assert time.monotonic() - began < 30
