"""`study`: what a file declares is made once, in order, and its tables are the same bytes each time."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fixtures.places import ROOT

from sotopia_rl_data import locks
from sotopia_rl_data.cli import program
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.importers import samples_path
from sotopia_rl_data.study.run import _alone
from sotopia_rl_data.study.steps import StepResult

Run = Callable[..., tuple[int, str, str]]

SMALL = """\
name: small
datasets: {episodes: samples}
labels:
  direct: {judges: [lexical], schema: direct}
  scaled: {from: direct, preset: scaled}
policies:
  warm: {plays: "scripted:warm"}
  firm: {plays: "scripted:firm"}
plays: {partners: [warm, firm], evaluators: [lexical], pairs: 1, turns: 4, subsets: {boats: [env-boat-sale]}}
tables:
  rewards: {show: distributions, of: [direct, scaled]}
  judges: {show: agreement, of: [direct, scaled]}
  scores: {show: scores, of: [warm, firm], dimensions: [goal]}
  diversity: {show: diversity, of: [warm, firm]}
  cost: {show: cost}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `study study.yaml` in this process, in an empty folder, on this text: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "SOTOPIA_RL_DATA_STORE"):
        monkeypatch.delenv(variable, raising=False)

    def call(text: str, *options: str) -> tuple[int, str, str]:
        Path("study.yaml").write_text(text)
        with pytest.raises(SystemExit) as ended:
            program.main(["study", "study.yaml", *options])
        out, err = capsys.readouterr()
        return int(str(ended.value.code)), out, err

    return call


def begun(err: str) -> list[str]:
    """The steps that a run made."""
    return [line.removesuffix(" …") for line in err.splitlines() if line.endswith(" …")]


def files(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file by its path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.slow
def test_a_study_is_made_once_and_its_tables_are_the_same_bytes_each_time(run: Run, tmp_path: Path):
    code, out, err = run(SMALL)
    assert code == 3  # some utterances of the samples have no score to attribute
    assert begun(err)[:3] == ["dataset episodes", "labels direct", "labels scaled"]
    assert begun(err)[3:5] == ["play warm with warm, seed 0", "evaluate warm with warm, seed 0"]
    written = files(tmp_path / "studies" / "small")
    names = {name for name in written if "/" in name}
    pictures = {f"figures/{name}.png" for name in ("rewards", "judges", "scores", "diversity")}
    texts = {
        f"tables/{name}.{kind}"
        for name in ("rewards", "judges", "scores", "diversity", "cost")
        for kind in ("md", "tex")
    }
    assert names == pictures | texts

    data = {one["name"]: one for one in json.loads((tmp_path / "studies/small/study.json").read_text())["tables"]}
    scores = [row[:5] for row in data["scores"]["rows"]]
    places = [["boats", "firm"], ["boats", "warm"], ["all", "firm"], ["all", "warm"]]
    # a partner is a row too; in self-play both agents of an episode count
    assert scores == [
        [*place, "lexical", policy, (1 if place[0] == "boats" else 13) * (2 if policy == place[1] else 1)]
        for place in places
        for policy in ("warm", "firm")
    ]
    mean = data["rewards"]["rows"][0][3]
    assert mean["low"] < mean["value"] < mean["high"]
    assert data["diversity"]["rows"][0][:3] == ["warm", "warm", 13]

    code, again, err = run(SMALL)
    assert (code, begun(err), again) == (3, [], out)
    assert files(tmp_path / "studies" / "small") == written


@pytest.mark.slow
def test_a_change_of_the_file_makes_only_what_depends_on_it(run: Run, tmp_path: Path):
    text = SMALL.partition("policies:")[0] + "tables: {rewards: {show: distributions, of: [direct, scaled]}}\n"
    run(text)
    other = text.replace("preset: scaled", "rule: uniform")
    told = json.loads(run(other, "--dry-run", "--json")[1])["steps"]
    assert [(one["step"], one["state"]) for one in told] == [
        ("dataset episodes", "there"),
        ("labels direct", "there"),
        ("labels scaled", "to do"),
    ]
    assert begun(run(other)[2]) == ["labels scaled"]
    assert begun(run(text)[2]) == []  # the earlier version is there
    other = other.replace("show: distributions, of: [direct, scaled]", "show: distributions, of: [direct]")
    before = files(tmp_path / "studies" / "small")
    run(other.replace("tables: {rewards", "tables: {given"))
    now = files(tmp_path / "studies" / "small")
    assert {name for name in before if "/" in name} == {
        f"{part}.{kind}"
        for part, kind in zip(
            ("tables/rewards", "tables/rewards", "figures/rewards"), ("md", "tex", "png"), strict=True
        )
    }
    assert not any("rewards" in name for name in now)  # what is not a table of the study any more is gone


@pytest.mark.slow
def test_a_histogram_has_every_reward_wherever_it_lies(run: Run, tmp_path: Path):
    text = SMALL.partition("policies:")[0].replace("preset: scaled", "normaliser: zscore")
    run(text + "tables: {rewards: {show: distributions, of: [direct, scaled]}}\n")
    (table,) = json.loads((tmp_path / "studies/small/study.json").read_text())["tables"]
    assert table["rows"][1][5]["value"] < 0 < 1 < table["rows"][1][9]["value"]
    assert [sum(panel["bars"]) for panel in table["panels"]] == pytest.approx([1, 1])


def test_what_has_no_price_is_not_summed_as_nothing():
    lines = [{"total": 0.5, "maybe": 0.25}, {"total": None, "maybe": None}]
    assert StepResult("a@v1.0.0", "d", bill=lines[:1]).usd == 0.75
    assert (StepResult("a@v1.0.0", "d", bill=lines).usd, StepResult("a@v1.0.0", "d", bill=lines).spent) == (None, 0.75)


@pytest.mark.slow
def test_one_budget_holds_for_all_steps_together_and_a_larger_one_goes_on(run: Run, tmp_path: Path):
    price = "price: {input: 1, output: 4, longest: 4096}"
    with running() as provider:
        text = f"""\
name: paid
models:
  - {{name: one, model: sim-one, url: {provider.url}/v1, key: none, {price}}}
  - {{name: two, model: sim-two, url: {provider.url}/v1, key: none, {price}}}
datasets: {{episodes: {{files: samples, where: "environment_id IN ('env-boat-sale', 'env-job-offer')"}}}}
labels:
  first: {{judges: [one], ask: packed}}
  second: {{judges: [two], ask: packed}}
tables: {{cost: {{show: cost}}}}
"""
        code, out, err = run(text, "--budget", "0.05", "--json")
        assert (code, begun(err)) == (1, ["dataset episodes", "labels first", "labels second"]), err
        assert "budget" in err
        assert not (tmp_path / "studies").exists()  # nothing half-written
        done = provider.log()["requests"]
        code, out, err = run(text, "--budget", "1", "--json")
        assert begun(err) == ["labels second"]
        assert (provider.log()["requests"] > done, provider.log()["paid_twice"]) == (True, 0)
    spent = [one["usd"] for one in json.loads(out)["steps"]]
    assert spent[1] == pytest.approx(spent[2], rel=0.2)
    assert 0.01 < sum(spent) < 1


@pytest.mark.slow
def test_odd_words_in_a_title_are_text_in_markdown_and_latex(run: Run, tmp_path: Path):
    title = r"50% of <i>A|B</i> & C_{1} \\input{x} ~^ $y$ #2 --- \e[31m"
    code, _, err = run(f'name: odd\ndatasets: {{e: samples}}\ntables: {{cost: {{show: cost, title: "{title}"}}}}\n')
    assert code == 0, err
    tex = (tmp_path / "studies/odd/tables/cost.tex").read_text()
    told = (
        r"\caption{50\% of \textless{}i\textgreater{}A\textbar{}B\textless{}/i\textgreater{} \& C\_\{1\} "
        r"\textbackslash{}input\{x\} \textasciitilde{}\textasciicircum{} \$y\$ \#2 -{}-{}- \textbackslash{}x1b[31m. "
    )
    assert told in tex
    page = (tmp_path / "studies/odd/README.md").read_text()
    assert r"## 50% of \<i\>A\|B\</i\> & C\_{1} \\input{x} ~^ \$y\$ #2 --- \\x1b\[31m" in page


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here: apt-get install texlive-latex-base")
def test_the_tables_can_be_set_by_latex_and_none_is_wider_than_its_column(run: Run, tmp_path: Path):
    odd = r'title: "50% of <A|B> & C_{1} \\input{x} ~^ $y$ #2 --- “é”"'
    run(SMALL.replace("show: cost}", f"show: cost, {odd}}}"))
    tables = sorted((tmp_path / "studies/small/tables").glob("*.tex"))
    inputs = "".join(rf"\input{{{path}}}" for path in tables)
    packages = r"\usepackage{booktabs,graphicx}"
    Path("all.tex").write_text(rf"\documentclass{{article}}{packages}\begin{{document}}{inputs}\end{{document}}")
    done = subprocess.run(["pdflatex", "-halt-on-error", "all.tex"], capture_output=True, encoding="latin-1")
    assert (done.returncode, "Overfull" in done.stdout) == (0, False), done.stdout
    assert Path("all.pdf").stat().st_size > 10_000


@pytest.mark.slow
def test_the_papers_study_can_be_planned_without_a_key_and_says_what_it_would_ask(run: Run, tmp_path: Path):
    (tmp_path / "sotopia_pi_episodes.jsonl").write_bytes(samples_path().read_bytes())
    (tmp_path / "people.csv").write_bytes((ROOT / "examples/paper/people.csv").read_bytes())
    text = (ROOT / "examples/paper/study.yaml").read_text()
    for published in ("  scenarios: all\n  profiles: sotopia\n", "  subsets: {hard: hard}\n"):
        assert published in text
        text = text.replace(published, "")
    code, out, err = run(text, "--dry-run", "--json")
    assert code == 0, err
    asked = {one["step"]: (one["state"], one["asked"], one["usd"]) for one in json.loads(out)["steps"]}
    assert asked["labels scaled"] == ("to do", 0, 0.0)
    assert asked["labels direct"][1] > 100
    assert asked["labels direct"][2] > 0
    assert asked["evaluate sotopia-rl with gpt-4o, seed 0"] == ("to do", 2 * 2 * 13, None)  # both places, both judges
    assert {path.name for path in tmp_path.iterdir()} == {"sotopia_pi_episodes.jsonl", "people.csv", "study.yaml"}


ONLY_COST = "name: odd\ndatasets: {e: samples}\ntables: {cost: {show: cost}}\n"


def test_folders_that_cannot_be_written_and_a_second_run_at_once_are_told_before_anything_is_made(
    run: Run, tmp_path: Path
):
    code, _, err = run(ONLY_COST, "-o", "study.yaml/results")
    assert (code, "The folder study.yaml/results cannot be written (Not a directory)." in err) == (1, True), err
    code, _, err = run(ONLY_COST, "--runs", "study.yaml/runs")
    assert (code, "study.yaml/runs cannot be written: Not a directory." in err) == (1, True), err
    (tmp_path / "held").mkdir()
    with locks.locked(tmp_path / "held" / ".lock"):
        code, _, err = run(ONLY_COST, "--runs", "held")
    assert (code, "Another run works on this study in held." in err) == (2, True), err
    (tmp_path / "held" / ".lock").unlink()
    (tmp_path / "held" / ".lock").symlink_to("nowhere/at/all")
    code, _, err = run(ONLY_COST, "--runs", "held")
    assert (code, "held/.lock cannot be written: No such file or directory." in err) == (1, True), err
    assert {path.name for path in tmp_path.iterdir()} == {"study.yaml", "held"}


def test_a_run_that_made_nothing_leaves_no_folder(run: Run, tmp_path: Path):
    (tmp_path / "old").mkdir()
    code, out, err = run(ONLY_COST.replace("samples", "{files: samples, where: 1 = 0}"), "--runs", "old/new/er")
    assert (code, out, "study.yaml:2: None of the 32 records meets the condition" in err) == (1, "", True), err
    assert list((tmp_path / "old").iterdir()) == []


def test_of_many_runs_one_is_in_the_folder_at_a_time_though_each_takes_it_away(tmp_path: Path):
    inside, most = [0], 20 * 50

    def come_and_go(_: int) -> int:
        try:
            with _alone(tmp_path / "runs" / "x"):
                inside[0] += 1
                assert inside == [1]
                inside[0] -= 1
            return 1
        except UsageError:
            return 0

    with ThreadPoolExecutor(8) as threads:
        assert 1 < sum(threads.map(come_and_go, range(most))) <= most


WRONG = [
    ("labels:", "lables:", "study.yaml:3: a study cannot have the key 'lables' (did you mean 'tables' or 'labels'?)."),
    ("labels:", "colours:", "study.yaml:3: a study cannot have the key 'colours': its keys are name, datasets,"),
    ("schema: direct}", "schema: dirct}", "study.yaml:4: There is no schema 'dirct'"),
    ("schema: direct}", "schema: direct, samples: two}", "study.yaml:4: `samples` must be a whole number, not 'two'"),
    ("preset: scaled", "preset: scald", "study.yaml:5: 'scald' is not a preset"),
    ("preset: scaled", "gamma: 0.9", "study.yaml:5: A gamma is given, but only the rule `discounted` has one."),
    ("preset: scaled", "rule: singular", "study.yaml:5: The rule 'singular' needs 'key' attributions, but"),
    ("preset: scaled", "judge: nobody", "study.yaml:5: No attribution by the schema 'direct' is of judge nobody."),
    ("{from: direct", "{from: scaled", "study.yaml:5: scaled from scaled: this leads back to itself"),
    ("{judges: [lexical], schema: direct}", "{from: scaled}", "direct from scaled from direct: this leads back to"),
    ("{from: direct", "{from: dirrect", "study.yaml:5: `labels` has no 'dirrect' (did you mean 'direct'?)."),
    ("  direct: {j", "  Dir ect: {j", "study.yaml:4: 'Dir ect' cannot be a name"),
    ("episodes: samples", "episodes: lab/none", "study.yaml:2: The store './store' has no dataset 'lab/none'"),
    ("episodes: samples", "episodes: {files: [none.jsonl]}", "study.yaml:2: There is no file 'none.jsonl'. hint: put"),
    ("episodes: samples", "episodes: {files: samples, where: tga = 'x'}", "study.yaml:2: \"tga = 'x'\" is not a"),
    ("episodes: samples", "episodes: {files: samples, where: 'tag ='}", "study.yaml:2: 'tag =' is not a"),
    ("episodes: samples", "episodes: {files: [study.yaml]}", "study.yaml:2: The file study.yaml cannot be imported"),
    ("policies:", "policies:\n  bc: {train: sft, labels: direct, where: goal >}", "study.yaml:7: 'goal >' is not a"),
    ("policies:", "policies:\n  bc: {train: sft, labels: scaled, where: gaol > 0}", "study.yaml:7: 'gaol > 0' is"),
    ("name: small", "name: ../small", "study.yaml:1: '../small' cannot be a name"),
    ("name: small", "name: small\nname: small", "study.yaml:2: a study has the key 'name' twice"),
    ("name: small", "name: small\nseeds: [1, 1]", "study.yaml:2: `seeds` must be different numbers"),
    ("name: small", "name: small\nreward_models: {of: [direct]}", "study.yaml:2: It is not said what to train"),
    ("turns: 4", "turns: 0", "study.yaml:9: `turns` must be a whole number from 1 to 1,000"),
    ("partners: [warm,", "partners: [wram,", "study.yaml:9: `policies` has no 'wram' (did you mean 'warm'?)."),
    ("evaluators: [lexical]", "evaluators: [nobody]", "nobody"),
    ("evaluators: [lexical]", "evaluators: [gpt-4o]", "OPENAI_API_KEY is not set: it should hold the API key for"),
    ('"scripted:firm"', '"claude-sonnet-4-5"', "ANTHROPIC_API_KEY is not set: it should hold the API key for"),
    ("boats: [env-boat-sale]", "boats: [env-boat]", "study.yaml:9: None of the environments of the subset 'boats' is"),
    ("boats: [env-boat-sale]", "all: [env-boat-sale]", "study.yaml:9: `all` are all environments that are played"),
    ("show: cost", "show: costs", "study.yaml:15: `show` must be one of"),
    ("dimensions: [goal]", "dimensions: [goals]", "study.yaml:13: 'goals' is not a dimension of SOTOPIA-EVAL"),
    ('"scripted:warm"', '"scripted:hot"', "study.yaml:7:"),
    ("{plays: \"scripted:firm\"}", "{train: grpo, labels: direct}", "study.yaml:8: a policy trained by grpo lacks"),
    ("tables:", "tables: [", "this is not YAML"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "told"), WRONG, ids=[told for *_, told in WRONG])
def test_what_cannot_be_is_a_sentence_with_its_line_before_anything_is_made(
    run: Run, tmp_path: Path, old: str, new: str, told: str
):
    assert old in SMALL
    code, out, err = run(SMALL.replace(old, new, 1))
    assert (code in (1, 2), out) == (True, "")
    assert told in " ".join(err.split())
    assert "hint: " in err
    assert "bug" not in err
    assert {path.name for path in tmp_path.iterdir()} <= {"study.yaml"}
