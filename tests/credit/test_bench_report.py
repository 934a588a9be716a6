"""What the bench leaves to read: the checklist, the page, the section of a card; and people and reward models in it."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from fixtures.browser import HOSTILE, needs_browser, page, quiet

from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.credit.bench import bench, planted_files
from sotopia_rl_data.credit.bench_page import write_bench
from sotopia_rl_data.credit.checklist import Point, checklist
from sotopia_rl_data.credit.making import make_games
from sotopia_rl_data.credit.planted import Planted
from sotopia_rl_data.credit.truth import truth_of
from sotopia_rl_data.labelers.plan import DEFAULT_SCALE, LabelPlan
from sotopia_rl_data.labelers.schemas import schema
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.tables import ATTRIBUTIONS


def invoke(*arguments: str) -> Result:
    done = CliRunner().invoke(cli, list(arguments), standalone_mode=False)
    assert done.exit_code == 0, done.exception
    return done


def by_an_oracle(games: Version, path: Path) -> Path:
    """The file that a person who knew the truth would fill in."""
    folder, oracle = path.parent / "oracle", Planted("oracle", truth_of(games).groups())
    plan = LabelPlan(schema("direct"), ("goal",), "game", (oracle,), DEFAULT_SCALE, "packed")
    files = [one for of_split in planted_files(plan, games, folder).values() for one in of_split]
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    with path.open("w", newline="") as sheet:
        written = csv.writer(sheet)
        written.writerow(["episode_id", "agent", "turn", "dimension", "raw"])
        written.writerows([row["episode_id"], row["agent"], row["turn"], "goal", int(row["raw"])] for row in rows)
    return path


def test_people_who_know_the_truth_get_as_far_as_the_oracle(tmp_path: Path):
    store = ("--store", str(tmp_path / "store"))
    games = make_games(Store(tmp_path / "store"), "lab/games", 8).version
    people = by_an_oracle(games, tmp_path / "ann.csv")
    asked = ["--judge", f"human:{people}#ann", "--judge", "lexical", "--schema", "direct", "--planted", "oracle"]
    result = json.loads(invoke("credit", "bench", "lab/games", *asked, "--json", *store).stdout)
    lines = {(line["judge"], line["rule"]): line for line in result["lines"]}
    for rule in ("direct", "scaled"):
        ann, oracle = (lines[judge, rule] for judge in ("ann", "oracle"))
        assert (ann["tau"], ann["hit"], ann["sign"]) == (oracle["tau"], oracle["hit"], oracle["sign"])
    told = {point["question"]: point["answer"] for point in result["checklist"]}
    assert "need not be causes: ann, lexical" in told["What kind of claim it is"]
    assert "direct by lexical: 8 calls (1.0 a dialogue)" in told["What it costs"]


class TwoHeads:
    """A reward model with two targets: the length of what was said, and how short it is."""

    identity = "heads@1"
    head = SimpleNamespace(targets=("long", "short"))
    encoder = SimpleNamespace(plain=list)

    def conditions(self) -> dict[str, Any]:
        return {}

    def score_heads(self, dialogues: Sequence[Any]) -> np.ndarray:
        words = [len(completion[-1]["content"].split()) for _, completion in dialogues]
        return np.array([[n, -n] for n in words], float)


@pytest.mark.train
def test_each_target_of_a_reward_model_that_scored_the_games_has_a_line(tmp_path: Path):
    pytest.importorskip("torch")
    from sotopia_rl_data.trainers.score import score_dataset

    store = Store(tmp_path)
    games = make_games(store, "lab/games", 8).version
    weighted = ["--schema", "uniform", "--preset", "uniform", "--weights", "goal=1", "--dimensions", "goal"]
    invoke("label", "lab/games", *weighted, "--out", "lab/uniform", "--store", str(tmp_path))
    model: Any = TwoHeads()
    score_dataset("lab/uniform", model, store=tmp_path, out="lab/scored")
    measured = bench(games, [store.resolve("lab/scored")], resamples=0)
    lines = {line.method.rule: line for line in measured.lines if line.method.judge == "rm:heads@1"}
    assert set(lines) == {"as scored: long", "as scored: short"}
    longer, shorter = (lines[f"as scored: {target}"].nearness.tau.value for target in ("long", "short"))
    assert longer == pytest.approx(-shorter)
    claim = {point.question: point.answer for point in checklist(measured, games)}["What kind of claim it is"]
    assert "predictions: rm:heads@1" in claim


def playing_anew(store: Store, games: Version, recipe: dict[str, Any], calls: int) -> Version:
    """The true credit of the games, as a fair judge of what was played anew would have it."""
    truth = truth_of(games)
    known = {"counterfactual": truth.credit_true, "shapley": truth.shapley}
    place = {"dimension": "goal", "measure": "step", "judge": "fair", "sample": 0, "call_id": "c", "reasoning": None}
    with store.stage("lab/played") as stage:
        stage.link(games, "episodes")
        for split, of_split in truth.splits.items():
            rows = [
                {"episode_id": episode, "agent": agent, "turn": turn, "schema": name, "raw": float(credit)}
                | {**place, "scale_min": -10.0, "scale_max": 10.0}
                for name, credits in known.items()
                for (episode, agent, turn), credit in zip(truth.keys[of_split], credits[of_split], strict=True)
            ]
            stage.write("attributions", split, pa.Table.from_pylist(rows, schema=ATTRIBUTIONS))
        spent = {"judges": [{"judge": "fair", "calls": calls, "cost_usd": 0.5}]}
        return stage.commit({"kind": "toy"} | recipe, spent).version


def test_credit_by_playing_anew_is_measured_against_what_it_estimates(tmp_path: Path):
    store = Store(tmp_path)
    games = make_games(store, "lab/games", 8).version
    truth = truth_of(games)
    assert not np.allclose(truth.credit, truth.credit_true)
    played = playing_anew(store, games, {}, 4)
    measured = bench(games, [played], resamples=0)
    lines = {line.method.schema: line for line in measured.lines if line.method.rule == "progress"}
    assert {name: line.nearness.tau.value for name, line in lines.items()} == {"counterfactual": 1.0, "shapley": 1.0}
    assert {line.nearness.hit.value for line in lines.values()} == {1.0}
    assert lines["shapley"].ceiling_tau is None
    told = dict(checklist(measured, games, [played]))
    assert "causes under the named policy: counterfactual, shapley" in told["What kind of claim it is"]
    against = told["What credit is measured against"]
    assert "counterfactual credit against Q − V with all that is true; Shapley values against the true ones" in against


def test_of_two_versions_of_the_same_labels_each_has_its_cost_and_how_much_was_played(tmp_path: Path):
    store = Store(tmp_path)
    games = make_games(store, "lab/games", 2).version
    labels = []
    for k in (4, 16):
        told = {"schema": "counterfactual", "samples": k, "judges": [{"judge": "fair"}]}
        replay = {"policy": {"model": "m", "sampling": {"temperature": 1}}, "turns": None, "alternatives": k}
        labels.append(playing_anew(store, games, {"labels": told, "replay": replay}, 10 * k))
    measured = bench(games, labels, resamples=0)
    points = dict(checklist(measured, games, labels))
    for label, calls in zip(labels, ("40", "160"), strict=True):
        assert f"counterfactual by fair: {calls} calls ({int(calls) / 2:.1f} a dialogue), 0.5 USD ({label.ref})" in (
            points["What it costs"].split("; ")
        )
    lines = {line["labels"]: line["calls"] for line in measured.as_dict()["lines"] if line["judge"] == "fair"}
    assert lines == {labels[0].ref: 40, labels[1].ref: 160}
    for line in measured.lines:
        if line.method.judge == "fair":  # it finds every pivotal turn
            told = line.as_dict()
            assert (line.nearness.hit.value, told["calls_per_found"]) == (1.0, line.method.calls / line.nearness.groups)
            assert told["usd_per_found"] == 0.5 / line.nearness.groups
    assert points["How judges were asked"] == "; ".join(
        f"counterfactual ({k} × fair, policy m (temperature 1), alternatives {k})" for k in (4, 16)
    )


def test_the_checklist_says_what_is_known_and_what_is_not(tmp_path: Path):
    games = make_games(Store(tmp_path), "lab/games", 6, seed=4).version
    told = dict(checklist(bench(games, planted=["length"], schemas=["direct"], resamples=20), games))
    assert told["What could have shown it wrong"] == "judges with planted faults: length"
    assert told["The tasks"].startswith("6 scripted dialogue games")
    assert "seed 4, rules 1" in told["The tasks"]
    assert told["Uncertainty"] == "95 % intervals of 20 resamples of whole dialogues, seed 0"
    assert told["Versions"] == f"{games.ref} ({games.digest[:12]})"
    assert told["How judges were asked"] == "nobody was asked"
    bare = dict(checklist(bench(games, schemas=["direct"], resamples=0), games))
    assert bare["What could have shown it wrong"].startswith("not measured")
    assert bare["Uncertainty"].startswith("not measured")
    assert all(bare.values())


def test_the_command_prints_the_checklist_as_markdown_and_writes_the_page(tmp_path: Path):
    store = ("--store", str(tmp_path / "store"))
    asked = ["--make", "4", "--judge", "lexical", "--schema", "direct", "--resamples", "10"]
    done = invoke("credit", "bench", *asked, "--checklist", "--html", str(tmp_path / "b.html"), *store)
    assert "- **The bound**: an oracle" in done.stdout
    assert "direct (1 × lexical version 1" in done.stdout
    assert "an oracle that answers the same schema" in (tmp_path / "b.html").read_text()


@needs_browser
@pytest.mark.slow
def test_the_page_draws_every_method_and_obeys_nothing_in_a_name(tmp_path: Path):
    games = make_games(Store(tmp_path), "lab/games", 6).version
    measured = bench(games, planted=["oracle", "length"], schemas=["direct"], resamples=20)
    path = tmp_path / "bench.html"
    write_bench(measured, [*checklist(measured, games), Point(HOSTILE, HOSTILE)], path)
    with page() as tab:
        tab.open(path)
        assert tab.js("document.querySelectorAll('#overview article h2').length") == 5
        known = sum(line.nearness.tau.value is not None for line in measured.lines)
        assert tab.js("document.querySelectorAll('#overview article:nth-of-type(5) tbody tr').length") == known
        choose = "box.value = '1'; box.dispatchEvent(new Event('change'));"
        tab.js(f"(() => {{ const box = document.querySelector('select'); {choose} }})()")
        assert not tab.js("document.documentElement.dataset.hacked")
        quiet(tab, path)


def test_the_card_of_labelled_games_says_how_right_the_credit_is_and_no_other_does(tmp_path: Path):
    store = ("--store", str(tmp_path))
    invoke("credit", "bench", "--make", "4", "--judge", "lexical", "--schema", "direct", "--resamples", "0", *store)
    section = invoke("card", "credit/games-direct", "--json", *store).stdout
    text = json.loads(section)["text"]
    assert "## How right this credit is" in text
    assert text.index("## How right") < text.index("## Limits of this version")
    assert "| `direct` | `direct` | `lexical` |" in text
    assert "- **What it costs**: direct by lexical: 4 calls" in text
    assert "How right this credit is" not in json.loads(invoke("card", "credit/games", "--json", *store).stdout)["text"]
    invoke("rm", "credit/games", "--yes", *store)
    alone = json.loads(invoke("card", "credit/games-direct", "--json", *store).stdout)["text"]
    assert "How right this credit is" not in alone
