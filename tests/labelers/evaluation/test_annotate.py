"""annotate export and import: people score dialogues without knowing whose they are, and their scores come back."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from fixtures.browser import HOSTILE, Page, needs_browser, page, quiet
from fixtures.comparisons import SEVEN, episode, goals, run
from fixtures.flat_calls import evaluate
from fixtures.labelling import BY, put, rows
from fixtures.places import ROOT
from fixtures.promises import check_keys

from sotopia_rl_data.comparing import ComparisonOptions, compare
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.labelers.evaluation.people import draw, import_scores, item_id, write_form
from sotopia_rl_data.store import Store, Version


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def two(store: Store, size: tuple[int, int, int] = (6, 4, 2)) -> list[Version]:
    return [
        put(store, run(m, "Partner-9", seed=i, size=size), f"lab/run-{m}") for i, m in enumerate(("Zyx-1", "Qvw-2"))
    ]


def filled(path: Path, **scores: str) -> list[dict[str, str]]:
    """The rows of a CSV form with scores[dimension] filled in."""
    with path.open(newline="") as file:
        return [row | {"score": scores.get(row["dimension"], "")} for row in csv.DictReader(file)]


def saved(path: Path, lines: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0].keys())
        writer.writeheader()
        writer.writerows(lines)
    return path


def given(store: Store, ref: str, evaluator: str = "human") -> dict[tuple[str, str, str], float]:
    return {
        (row["episode_id"], one["agent"], one["dimension"]): one["score"]
        for row in rows(ref, "episodes", store)
        for one in row["scores"]
        if one["evaluator"] == evaluator
    }


def test_so_many_dialogues_of_each_method_are_drawn_of_the_same_scenes_in_no_order(store: Store):
    versions = two(store)
    items = draw(versions, dialogues=28)
    assert len(items) == len({one.item for one in items}) == 56
    by_model = Counter(next(a.model for a in one.episode.agents if a.model != "Partner-9") for one in items)
    assert by_model == {"Zyx-1": 28, "Qvw-2": 28}
    scenes = [
        {
            (e.environment_id, e.agents[0].agent, e.agents[0].model == "Partner-9")
            for e in (i.episode for i in items)
            if m in e.models
        }
        for m in ("Zyx-1", "Qvw-2")
    ]
    assert scenes[0] == scenes[1]
    mine = ["Zyx-1" in one.episode.models for one in items]
    assert 10 < sum(a != b for a, b in pairwise(mine)) < 45  # neither blocks nor turns
    assert [i.item for i in draw(versions)] == [i.item for i in items]
    assert [i.item for i in draw(versions, seed=1)] != [i.item for i in items]


@pytest.mark.parametrize("kind", ["csv", "html"])
def test_nothing_in_a_form_says_whose_dialogue_it_is(store: Store, tmp_path: Path, kind: str):
    versions = two(store)
    items = draw(versions)
    assert write_form(items, SEVEN, tmp_path / f"form.{kind}") == 56 * 2 * 7
    text = (tmp_path / f"form.{kind}").read_text()
    for secret in ("Zyx-1", "Qvw-2", "Partner-9", "run-", "lab/", "env0", BY, "gpt-4o"):
        assert secret not in text
    assert not any(one.episode.episode_id in text for one in items)


def test_a_filled_form_comes_back_as_scores_by_people(store: Store, tmp_path: Path):
    versions = two(store)
    form = tmp_path / "form.csv"
    items = draw(versions, compared_only=True)
    write_form(items, ["goal", "secret"], form)
    lines = filled(form, goal="7", secret="-2")
    assert {line["allowed"] for line in lines} == {"0 to 10", "-10 to 0"}
    assert "TRANSCRIPT" in lines[0]["dialogue"]
    lines[0] |= {"score": "0", "comment": "nothing, in truth"}
    found = import_scores(store, saved(form, lines), versions)
    assert [(one.version, one.created, one.scores) for one in found.added] == [
        ("lab/run-Zyx-1@v1.1.0", True, 56),
        ("lab/run-Qvw-2@v1.1.0", True, 56),
    ]
    assert (found.bad, found.empty) == ((), 0)
    scores = {**given(store, "lab/run-Zyx-1"), **given(store, "lab/run-Qvw-2")}
    assert len(scores) == 112
    first = items[0]
    assert scores[first.episode.episode_id, first.rated[0], "goal"] == 0.0
    said = [r for v in ("lab/run-Zyx-1", "lab/run-Qvw-2") for r in rows(v, "attributions", store)]
    assert [r["reasoning"] for r in said if r["reasoning"]] == ["nothing, in truth"]
    compared = compare(
        [store.resolve(v) for v in ("lab/run-Zyx-1", "lab/run-Qvw-2")], options=ComparisonOptions(resamples=0)
    )
    assert [c.evaluator for c in compared.conditions] == ["gpt-4o", "human"]
    assert compared.conditions[1].means[0].units == 48
    assert compared.conditions[1].means[0].missing["goal"] == 20
    assert {(a.a, a.b, a.units) for a in compared.agreement if a.dimension == "goal"} == {("gpt-4o", "human", 56)}


def test_a_bad_line_is_listed_with_its_number_and_reason_and_the_others_count(store: Store, tmp_path: Path):
    put(store, [episode("1", ("Zyx-1", "Pi"), goals(1, 1))], "lab/a")
    version = store.resolve("lab/a")
    item = item_id("lab/a", "1")
    lines = [
        ("item", "agent", "dimension", "score", "comment"),
        (item, "agent_1", "goal", "8", "two\nlines"),
        (item, "agent_1", "goal", "3", ""),  # 4: two lines above
        ("feedbeef0000", "agent_1", "goal", "3", ""),
        (item, "agent_3", "goal", "3", ""),
        (item, "Agent A", "goal", "3", ""),
        (item, "agent_2", "charm", "3", ""),
        (item, "agent_2", "goal", "11", ""),
        (item, "agent_2", "goal", "7.5", ""),
        (item, "agent_2", "goal", "", ""),
        (item, "agent_2", "secret", "0", ""),
    ]
    path = tmp_path / "filled.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    found = import_scores(store, path, [version])
    assert [(one.line, one.reason) for one in found.bad] == [
        (4, "an earlier line gives 8, this one 3"),
        (5, "the item 'feedbeef0000' is not a dialogue of the named datasets"),
        (6, "the agent 'agent_3' is not one of agent_1, agent_2"),
        (7, "the agent 'Agent A' is not one of agent_1, agent_2"),
        (8, "'charm' is not a SOTOPIA-EVAL dimension"),
        (9, "goal is 11, outside 0 to 10"),
        (10, "the score '7.5' is not a whole number"),
    ]
    assert found.empty == 1
    assert given(store, "lab/a") == {("1", "a", "goal"): 8.0, ("1", "b", "secret"): 0.0}


def test_forms_add_up_and_one_that_comes_again_changes_nothing(store: Store, tmp_path: Path):
    put(store, [episode(f"{i}", ("Zyx-1", "Pi"), goals(1, 1), cast=(f"a{i}", "b")) for i in range(3)], "lab/a")
    form = tmp_path / "form.csv"
    write_form(draw([store.resolve("lab/a")], compared_only=True, agents=["first"]), ["goal"], form)
    lines = filled(form, goal="7")
    first, second = saved(tmp_path / "1.csv", lines[:2]), saved(tmp_path / "2.csv", lines[2:])
    import_scores(store, first, [store.resolve("lab/a")])
    after = import_scores(store, second, [store.resolve("lab/a")])
    assert len(given(store, "lab/a")) == 3
    evaluate(store, "lab/a", judges=["lexical"], dimensions=["goal"])
    assert len(given(store, "lab/a")) == 3
    for again in (first, second):
        assert [one.created for one in import_scores(store, again, [store.resolve("lab/a")]).added] == [False]
    (made, _) = store.resolve("lab/a").manifest.recipe["evaluations"]
    assert (made["evaluator"], made["dimensions"], len(made["files"])) == ("human", ["goal"], 2)
    assert after.added[0].version == "lab/a@v1.2.0"
    changed = saved(tmp_path / "3.csv", [lines[0] | {"score": "2"}])
    import_scores(store, changed, [store.resolve("lab/a")], evaluator="bob")
    import_scores(store, changed, [store.resolve("lab/a")])
    assert sorted(given(store, "lab/a").values()) == [2.0, 7.0, 7.0]
    assert list(given(store, "lab/a", "bob").values()) == [2.0]


def test_what_cannot_be_imported_leaves_the_store_as_it_was(store: Store, tmp_path: Path):
    put(store, [episode("1", ("Zyx-1", "Pi"), goals(1, 1))], "lab/a")
    version = store.resolve("lab/a")
    path = tmp_path / "f.csv"
    item = item_id("lab/a", "1")
    for text, says in (
        ("item,agent,dimension\n", "no column 'score'"),
        ("item,agent,dimension,score\n", "no score that can be used"),
        (f"item,agent,dimension,score\n{item},agent_9,goal,1\n", "line 2: the agent 'agent_9' is not one of"),
        ("\ufffe", "no column 'item'"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=says):
            import_scores(store, path, [version])
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        import_scores(store, path, [version])
    path.write_text(f"item,agent,dimension,score\n{item},agent_1,goal,1\n")
    with pytest.raises(UsageError, match="came with"):
        import_scores(store, path, [version], evaluator="gpt-4o")
    with pytest.raises(UsageError, match="named twice"):
        import_scores(store, path, [version, version])
    assert store.versions("lab/a") == ["v1.0.0"]


# --- the page ---------------------------------------------------------------------------------------------------------


def reopen(tab: Page, form: Path, shows: str) -> None:
    """Open the page as if it had been closed, until it shows what this browser kept of it.

    A browser hands what a page keeps to its storage in the background, so a page opened at once may come too early.
    """
    end = time.monotonic() + 60
    tab.open(form)
    while shows not in tab.js("document.getElementById('done').textContent"):
        assert time.monotonic() < end, "the page remembers nothing"
        time.sleep(0.2)
        tab.open(form)


@pytest.mark.slow
@needs_browser
def test_the_page_is_filled_in_offline_and_its_csv_is_imported(store: Store, tmp_path: Path):
    versions = two(store, (2, 1, 2))
    form = tmp_path / "form.html"
    items = draw(versions)
    write_form(items, ["goal", "secret"], form)
    with page(1280, 900) as tab:
        tab.open(form)
        quiet(tab, form)
        assert tab.js("document.querySelectorAll('fieldset').length") == 4
        assert "Dialogue 1 of 8" in tab.js("document.getElementById('bar').textContent")
        for place in range(3):
            tab.js(
                "document.querySelectorAll('.levels').forEach((box, i) => box.querySelectorAll('input')[3 + i].click())"
            )
            if place == 0:
                comment = 'said "no",\\nthen yes'
                tab.js(
                    "(() => { const box = document.querySelector('textarea'); box.value = "
                    f"'{comment}'; box.dispatchEvent(new Event('input')); }})()"
                )
            tab.js("document.getElementById('next').click()")
        assert "12 of 32 scores, 3 of 8 dialogues" in tab.js("document.getElementById('done').textContent")
        tab.js("document.getElementById('back').click()")
        assert tab.js("document.querySelectorAll('input:checked').length") == 4
        reopen(tab, form, "12 of 32")
        tab.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "down"))
        tab.js("document.getElementById('save').click()")
        end = time.monotonic() + 20
        while not [*tmp_path.glob("down/*.csv")] and time.monotonic() < end:
            tab.js("1")
            time.sleep(0.05)
        assert tab.noise == []
    (came,) = tmp_path.glob("down/*.csv")
    found = import_scores(store, came, versions)
    assert (sum(one.scores for one in found.added), found.bad, found.empty) == (12, (), 20)
    by_item = {item_id(v.name, key[0]): scores for v in versions for key, scores in given(store, v.name).items()}
    assert set(by_item) == {one.item for one in items[:3]}
    first = items[0].episode
    name = next(v.name for v in versions if item_id(v.name, first.episode_id) == items[0].item)
    assert {k[1:]: s for k, s in given(store, name).items() if k[0] == first.episode_id} == {
        (first.agents[0].agent, "goal"): 3.0,
        (first.agents[0].agent, "secret"): -6.0,
        (first.agents[1].agent, "goal"): 5.0,
        (first.agents[1].agent, "secret"): -4.0,
    }
    reasons = {r["reasoning"] for r in rows(name, "attributions", store)}
    assert 'said "no",\nthen yes' in reasons


@pytest.mark.slow
@needs_browser
def test_what_was_said_is_shown_and_never_obeyed(store: Store, tmp_path: Path):
    put(store, [episode("1", ("Zyx-1", "Pi"), goals(1, 1), said=(HOSTILE, HOSTILE))], "lab/a")
    form = tmp_path / "form.html"
    write_form(draw([store.resolve("lab/a")]), ["goal"], form)
    with page() as tab:
        tab.open(form)
        assert "<b>bold</b>" in tab.js("document.querySelector('.turns').textContent")
        assert tab.js("document.documentElement.dataset.hacked") is None
        quiet(tab, form)


# --- the commands -----------------------------------------------------------------------------------------------------


def command(store: Store, *arguments: str) -> subprocess.CompletedProcess[str]:
    told = [sys.executable, "cli.py", "annotate", *arguments, "--store", str(store.root)]
    return subprocess.run(told, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_the_commands_write_read_and_end_with_3_where_a_line_is_bad(store: Store, tmp_path: Path):
    two(store, (2, 1, 2))
    form = tmp_path / "form.csv"
    done = command(store, "export", "lab/run-Zyx-1", "lab/run-Qvw-2", "-o", str(form), "--dimensions", "goal", "--json")
    assert json.loads(done.stdout) == {"file": str(form), "dialogues": 8, "scores": 16}
    lines = filled(form, goal="5")
    lines[2]["score"] = "50"
    done = command(store, "import", str(saved(form, lines)), "lab/run-Zyx-1", "lab/run-Qvw-2", "--json")
    assert done.returncode == 3
    told = json.loads(done.stdout)
    check_keys("annotate import", told)
    assert [len(told["added"]), told["evaluator"], told["bad"][0]["reason"]] == [
        2,
        "human",
        "goal is 50, outside 0 to 10",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["export", "lab/a"], 2, "--output"),
        (["export", "lab/none", "-o", "x.csv"], 2, "lab/none"),
        (["export", "lab/a", "-o", "x.pdf"], 2, "neither a CSV nor a page"),
        (["export", "lab/a", "-o", "README.md"], 2, "neither a CSV nor a page"),
        (["export", "lab/a", "-o", "/proc/x.csv"], 1, "cannot be written"),
        (["export", "lab/a", "-o", "x.csv", "--dimensions", "charm"], 2, "charm"),
        (["export", "lab/a", "-o", "x.csv", "--agent", "third"], 2, "No agent of lab/a@v1.0.0 is 'third'"),
        (["export", "lab/a", "-o", "x.csv", "--dialogues", "0"], 2, "dialogues"),
        (["import", "missing.csv", "lab/a"], 1, "missing.csv"),
        (["import", "README.md", "lab/a"], 1, "has no column 'item'"),
        (["import", "README.md", "lab/none"], 2, "lab/none"),
        (["import", "README.md"], 2, "REF"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_the_hint_and_nothing_half_written(store: Store, arguments, code, says):
    put(store, [episode("1", ("Zyx-1", "Pi"), goals(1, 1))], "lab/a")
    done = command(store, *arguments)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert " hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert store.versions("lab/a") == ["v1.0.0"]
    assert not (ROOT / "x.csv").exists()
