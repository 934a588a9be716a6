"""Text that would like to be something else, in every field of a dataset: shown, kept and sent back, never obeyed.

What is said in a dialogue has its own tests beside each page; here are names, goals, backgrounds, secrets, scenarios,
tags, evaluators, judges, reasons and ids, through everything that shows, writes or reads them.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.browser import HOSTILE, needs_browser, page, quiet
from fixtures.flat_calls import evaluate, label
from fixtures.labelling import BOAT, Highest, Scorer, filled, put, rows
from hypothesis import example, given
from hypothesis import strategies as st

from sotopia_rl_data.cards.dataset import dataset_card
from sotopia_rl_data.cli import program
from sotopia_rl_data.comparing import ComparisonOptions, compare
from sotopia_rl_data.comparing.page import write_comparison
from sotopia_rl_data.curate import curate, write_list
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.labelers.annotation import write_template
from sotopia_rl_data.labelers.evaluation.people import draw, write_form
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.plan import Elicitation
from sotopia_rl_data.outputs import guarded, unguarded
from sotopia_rl_data.report import write_report
from sotopia_rl_data.schema import Agent, Episode, Score, Turn
from sotopia_rl_data.store import Store
from sotopia_rl_data.tables import row_episode

UNSEEN = "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff]"


FORMULA = tuple("=+-@\t\r")


def wild(field: str) -> str:
    return f"=HYPERLINK({field}) [bold]{field}[/] :boom: {HOSTILE}"


BY = wild("evaluator")


def episode(number: int, model: str) -> Episode:
    """A dialogue in which only what is said is harmless, and a secret is long."""
    told = {name: wild(name) for name in ("goal", "background")} | {"secret": wild("secret") + "long " * 20_000}
    agents = tuple(
        Agent(wild(f"id{i}"), wild(f"name{i}"), who, **told) for i, who in enumerate((model, wild("partner")))
    )
    turns = tuple(Turn(t, agents[t % 2].agent, "speak", f"word {t}", (agents[1].agent,) * (t == 2)) for t in range(4))
    scores = tuple(Score(one.agent, name, 1.0, BY) for one in agents for name in ("goal", "knowledge"))
    texts = {name: wild(name) for name in ("codename", "scenario", "relationship", "tag", "reasoning")}
    models = (BY, model, wild("partner"))
    return Episode(wild(f"episode{number}"), wild("environment"), agents, turns, scores, models=models, **texts)


class Reasons(Scorer):
    """An evaluator whose reasons are as wild as its name."""

    def say(self, question: Question) -> str:
        answer = json.loads(super().say(question))
        for of_agent in answer.values():
            for one in of_agent.values():
                one["reasoning"] = wild("reason")
        return json.dumps(answer)


class Lowest(Highest):
    """Says 0 of everything."""

    def say(self, question: Question) -> str:
        return json.dumps(filled(question.answer_schema, lambda allowed: allowed[0]))


class Refuses(Highest):
    """Gives an answer that cannot be used, and is quoted."""

    def say(self, question: Question) -> str:
        return json.dumps({wild("answer"): wild("answer")})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """lab/a and lab/b, imported from files with one bad line each and evaluated; lab/labels by three judges."""
    folder = tmp_path_factory.mktemp("hostile")
    store = Store(folder / "store")
    for name, model in (("a", wild("model")), ("b", "plain")):
        lines = [asdict(episode(number, model)) for number in range(2)] + [{wild("key"): 1}]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        import_dataset(store, [folder / f"{name}.jsonl"], f"lab/{name}")
        evaluate(store, f"lab/{name}", judges=[Reasons(wild("scorer"))], dimensions=["goal"])
    judges = [Highest(wild("judge")), Lowest("=2+3"), Refuses("refuses")]
    goal: Any = {"evaluator": BY, "dimensions": ["goal"], "preset": "goal-only"}
    label(store, "lab/a", judges=judges, out="lab/labels", **goal)
    return store


@pytest.mark.slow
def test_every_field_is_kept_as_it_came(store: Store):
    kept = [row_episode(row) for row in rows("lab/a@v1.0.0", "episodes", store)]
    assert kept == [episode(number, wild("model")) for number in range(2)]
    assert all(row["reason"].startswith(wild("answer")[:40]) for row in rows("lab/labels", "failures", store))
    said = rows("lab/a", "attributions", store)
    assert {(row["judge"], row["reasoning"]) for row in said} == {(wild("scorer"), wild("reason"))}


GOAL = ["--evaluator", BY, "--dimensions", "goal", "--preset", "goal-only"]
COMMANDS = [
    ["log", "lab/labels"],
    ["show", "lab/labels"],
    ["show", "lab/labels", "=HYPERLINK(episode0"],
    ["show", "lab/labels", "=HYPERLINK"],
    ["stats", "lab/labels"],
    ["query", "lab/labels", 'SELECT *, 1 AS "\x1b[31m" FROM episodes'],
    ["query", "lab/labels", "SELECT * FROM failures"],
    ["diff", "lab/a", "lab/b"],
    ["agreement", "lab/labels", "--resamples", "9"],
    ["agreement", "lab/labels", "--against", "\x1b[31m"],
    ["compare", "lab/a", "lab/b", "--by-scenario", "goal", "--resamples", "9"],
    ["curate", "lab/labels", "-o", "OUT/list.csv"],
    ["card", "lab/labels"],
    ["prompts", "lab/a"],
    ["annotate", "template", "lab/a", "-o", "OUT/template.csv", *GOAL[:4]],
    ["annotate", "import", "OUT/template.csv", "lab/a"],
    ["export", "lab/a", "--to", "sotopia", "-o", "OUT/exported", *GOAL[:2]],
    ["import", "OUT/a.jsonl", "--name", "lab/again"],
    ["label", "lab/a", "--judge", "lexical"],
    ["label", "lab/a", "--judge", "lexical", "--dry-run", *GOAL],
    ["label", "lab/a", "--judge", "lexical", *GOAL],
    ["evaluate", "lab/b", "--judge", "lexical", "--dimensions", "goal"],
    ["ledger", "query", "SELECT * FROM calls"],
]


@pytest.mark.invented  # names with what no terminal may be sent: they are shown, and cannot be typed
@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words)[:40].encode("unicode_escape").decode())
def test_a_terminal_is_shown_and_never_told(store: Store, command: list[str], capsys: pytest.CaptureFixture[str]):
    words = [word.replace("OUT", str(store.root.parent)) for word in command]
    with pytest.raises(SystemExit) as done:
        program.main([*words, "--store", str(store.root)])
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert (" hint: " in shown.err) == (done.value.code in (1, 2)), text
    assert re.findall(UNSEEN, text) == []


def test_what_is_to_be_run_next_is_one_word_where_it_was_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    store = Store(tmp_path / "store")
    put(store, [replace(BOAT, episode_id="boat; echo '$HOME'")])
    with pytest.raises(SystemExit):
        program.main(["show", "lab/episodes", "--store", str(store.root)])
    told = capsys.readouterr().err.split("next:")[1]
    assert shlex.split(told)[-4:] == ["lab/episodes", "boat; echo '$HOME'", "--store", str(store.root)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lab/a", "lab/labels"])
def test_a_card_has_no_markup_of_others(store: Store, name: str):
    from markdown_it import MarkdownIt

    card = dataset_card(store.resolve(name))
    text = card.block
    assert re.findall(UNSEEN, text) == []
    inline = [one for token in MarkdownIt("commonmark").enable("table").parse(text) for one in token.children or ()]
    assert any("HYPERLINK" in one.content for one in inline)
    assert {one.content for one in inline if one.type == "html_inline"} <= {"<br>"}


# --- pages ------------------------------------------------------------------------------------------------------------

SEEN = """(() => {
  const said = [document.body.innerText];
  const tip = document.getElementById('tip');
  for (const one of document.querySelectorAll('#overview *, #trust *, #dialogues *')) {
    one.dispatchEvent(new PointerEvent('pointermove', { clientX: 1, clientY: 1 }));
    said.push(tip.textContent, ...[...one.attributes].map((attribute) => attribute.value));
  }
  return said.join('\\n');
})()"""


def looked_at(path: Path, *clicks: str) -> str:
    """All that a page shows, hints included, after some clicks; nothing of it was obeyed."""
    with page() as tab:
        tab.open(path)
        for one in clicks:
            tab.js(f"document.querySelector('{one}').click()")
        text = tab.js(SEEN)
        assert tab.js("document.documentElement.dataset.hacked") is None
        assert tab.js("document.querySelectorAll('img, iframe, #overview b b, #talk b b').length") == 0
        assert tab.js("document.scripts.length") == 2
        quiet(tab, path)
    assert re.findall(UNSEEN, text) == []
    return text


@pytest.mark.slow
@needs_browser
def test_the_report_shows_every_field_as_text(store: Store, tmp_path: Path):
    write_report(store.resolve("lab/labels"), tmp_path / "r.html")
    text = looked_at(tmp_path / "r.html", ".said")
    fields = ("name0", "name1", "goal", "codename", "scenario", "relationship", "environment", "evaluator", "judge")
    assert [one for one in (*fields, "model", "partner", "answer") if f"=HYPERLINK({one})" not in text] == []


@pytest.mark.slow
@needs_browser
def test_the_comparison_shows_every_field_as_text(store: Store, tmp_path: Path):
    versions = [store.resolve("lab/a"), store.resolve("lab/b")]
    found = compare(versions, evaluators=[wild("scorer")], options=ComparisonOptions(resamples=9))
    write_comparison(found, versions, tmp_path / "c.html")
    text = looked_at(tmp_path / "c.html", "details summary")
    fields = ("name0", "name1", "goal", "codename", "scenario", "model", "partner", "reason", "scorer")
    assert [one for one in fields if f"=HYPERLINK({one})" not in text] == []


@pytest.mark.slow
@needs_browser
def test_the_form_shows_every_field_as_text(store: Store, tmp_path: Path):
    write_form(draw([store.resolve("lab/a")], agents=["first"]), ["goal"], tmp_path / "f.html")
    text = looked_at(tmp_path / "f.html")
    fields = ("name0", "name1", "goal", "background", "secret", "scenario", "relationship")
    assert [one for one in fields if f"=HYPERLINK({one})" not in text] == []


# --- sheets -----------------------------------------------------------------------------------------------------------


@given(st.text(st.sampled_from("'=+-@\t\rx"), max_size=5))
@example("'=1")
def test_a_guarded_cell_is_no_formula_and_comes_back(text: str):
    assert guarded(text)[:1] not in FORMULA
    assert unguarded(guarded(text)) == text
    assert unguarded(text) == text or text.startswith("'")


@pytest.mark.slow
def test_the_files_for_people_hold_no_formula_and_lead_back(store: Store, tmp_path: Path):
    template, disputed = tmp_path / "template.csv", tmp_path / "disputed.csv"
    write_template(store, "lab/a", template, Elicitation(dimensions=["goal"], evaluator=BY))
    write_list(curate([store.resolve("lab/labels")], top=2), disputed)
    write_form(draw([store.resolve("lab/a")], agents=["first"]), ["goal"], tmp_path / "form.csv")
    before = csv.field_size_limit(10**9)  # a dialogue is longer than what `csv` takes by itself
    for path in (template, disputed, tmp_path / "form.csv"):
        with path.open(newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert [cell[:20] for cell in cells if cell[:1] in FORMULA] == []
    with template.open(newline="") as file:
        lines = [row | {"raw": "2"} for row in csv.DictReader(file)]
    with template.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    csv.field_size_limit(before)
    goal: Any = {"evaluator": BY, "dimensions": ["goal"], "preset": "goal-only", "out": "lab/people"}
    done = label(store, "lab/a", judges=[f"human:{template}"], only=disputed, **goal)
    assert (done.labels, dict(done.failures)) == (2, {})
