"""The report: one page, from disk, that shows what is there and obeys nothing that was said in a dialogue."""

from __future__ import annotations

import html
import json
import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from fixtures.browser import HOSTILE, needs_browser, page, quiet
from fixtures.opinions import label_row, labelled, rewarded, two_party

from sotopia_rl_data.cli.trust import report as command
from sotopia_rl_data.errors import SotopiaDataError, StoreError, UsageError
from sotopia_rl_data.query import Dataset
from sotopia_rl_data.report import contents, write_report
from sotopia_rl_data.report.page import embedded
from sotopia_rl_data.report.page import page as rendered
from sotopia_rl_data.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    """The report of the bundled samples, labelled by the offline judge."""
    from fixtures.flat_calls import label

    from sotopia_rl_data.importers import samples_path
    from sotopia_rl_data.importers.importing import import_dataset

    folder = tmp_path_factory.mktemp("samples")
    store = Store(folder / "store")
    import_dataset(store, [samples_path()], "demo/episodes")
    version = store.resolve(label(store, "demo/episodes", judges=["lexical"]).version)
    write_report(version, folder / "report.html")
    return folder / "report.html"


def data_of(path: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(found.group(1))


def test_the_page_holds_every_utterance_with_its_reward_dimensions_and_opinions(store: Store, tmp_path: Path):
    version = rewarded(store, [two_party(i) for i in range(5)], {"e0003": None})
    held = write_report(version, tmp_path / "r.html")
    data = data_of(tmp_path / "r.html")
    assert held == {"episodes": 5, "utterances": 30, "bytes": (tmp_path / "r.html").stat().st_size}
    assert data["dimensions"] == ["relationship", "goal"]
    assert data["opinions"] == ["ann", "bob"]
    utterances = data["utterances"]
    assert utterances["turn"][:6] == [0, 1, 2, 3, 4, 5]
    assert utterances["text"][7] == "turn 1 of episode 1"
    assert utterances["reward"][18:24] == [None] * 6
    rows = version.manifest.configs["attributions"]["train"].rows
    assert sum(v is not None for judge in utterances["said"] for d in judge for v in d) == rows
    assert data["agreement"]["names"] == ["ann", "bob"]
    assert dict(map(tuple, data["tiles"]))["with a reward"] == 24


def test_what_is_embedded_means_the_same_and_can_close_nothing():
    value = {"text": HOSTILE + "]]>\u2029", "lone": "\ud800"}
    text = embedded(value)
    assert not re.search("[<>&\u2028\u2029\u202e\u2066\ufeff]", text)
    assert json.loads(text) == value | {"lone": "\ufffd" * 3}


@pytest.mark.slow
def test_the_page_asks_for_nothing_and_allows_nothing(samples: Path):
    text = samples.read_text()
    policy = html.unescape(text.split("<style>")[0])
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    outside = set(re.findall(r"(?:https?:)?//[a-z][\w.-]+\.[a-z]+", text.split('id="data"')[0]))
    script = text.split("</script>")[1]
    assert not outside
    assert set(re.findall(r"https?://[^'\" ]+", script)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)


@pytest.mark.slow
def test_more_utterances_than_are_shown_are_drawn_in_whole_episodes(store: Store):
    version = rewarded(store, [two_party(i) for i in range(20)])
    found = contents(version, utterances=31, seed=1)
    assert found["shown"] == {"episodes": 5, "of": 20}
    assert found == contents(version, utterances=31, seed=1)
    assert found["episodes"]["id"] != contents(version, utterances=31, seed=2)["episodes"]["id"]
    assert dict(found["tiles"])["utterances"] == 120


@pytest.mark.slow
def test_rows_without_episodes_show_what_their_completions_say(store: Store):
    from fixtures.stores import commit, reward_row, rewards

    row = reward_row(1) | {"completion": [{"role": "assistant", "content": '{"action_type": "leave", "argument": ""}'}]}
    version = commit(store, {("rewards", "train"): rewards(reward_row(0), row)}).version
    found = contents(version)
    assert found["utterances"]["text"] == ["hello", ""]
    assert [found["actions"][i] for i in found["utterances"]["action"]] == ["speak", "leave"]
    assert found["agreement"] is None
    assert "hello" in rendered(found)


@pytest.mark.slow
def test_training_rows_are_shown_by_the_scenario_that_their_prompts_name(store: Store, tmp_path: Path):
    from sotopia_rl_data.importers.importing import import_dataset

    rows = [{"input": f"Scenario: Tree {i % 2}.\nTurn #{i}", "output": f"answer {i}", "value": i / 4} for i in range(4)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    found = contents(import_dataset(store, [tmp_path / "rows.json"], "lab/rows").version)
    scenarios = found["episodes"]["scenario"]
    assert sorted(scenarios) == ["Tree 0.", "Tree 1."]
    shown = found["utterances"]
    named = [scenarios[place] for place in shown["episode"]]
    assert sorted(zip(named, shown["turn"], shown["text"], shown["reward"], strict=True)) == [
        ("Tree 0.", 0, "answer 0", 0.0),
        ("Tree 0.", 1, "answer 2", 0.5),
        ("Tree 1.", 0, "answer 1", 0.25),
        ("Tree 1.", 1, "answer 3", 0.75),
    ]
    assert dict(found["tiles"]) == {
        "environments": 2, "utterances": 4, "with a reward": 4, "labels": 0, "failures": 0,
    }  # fmt: skip
    assert "answer 3" in rendered(found)


@pytest.mark.slow
def test_bad_input_is_a_sentence_and_leaves_the_file_that_was_there(store: Store, tmp_path: Path):
    unrewarded = labelled(store, [label_row("e", "a", 0, "goal", "ann", 1)])
    (tmp_path / "r.html").write_text("before")
    with pytest.raises(UsageError, match="holds no rewards"):
        write_report(unrewarded, tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == "before"
    version = rewarded(store, [two_party(0)])
    with pytest.raises(StoreError, match="cannot be written"):
        write_report(version, tmp_path / "no" / "r.html")
    run = CliRunner()
    arguments = ["lab/toy", "-o", str(tmp_path / "no" / "r.html"), "--store", str(store.root)]
    wrong = run.invoke(command, arguments, standalone_mode=False).exception
    assert isinstance(wrong, SotopiaDataError)
    assert wrong.hint
    arguments[2] = str(tmp_path / "r.html")
    assert json.loads(run.invoke(command, [*arguments, "--json"], standalone_mode=False).stdout)["utterances"] == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.html", "store"]


@pytest.mark.alone
@needs_browser
def test_the_samples_open_from_disk_filter_and_tell_what_each_opinion_said(samples: Path):
    assert samples.stat().st_size < 2_000_000
    with page() as tab:
        seconds = tab.open(samples)
        print(f"samples: {samples.stat().st_size:,} bytes, {seconds:.2f} s")
        assert seconds < 2
        assert tab.js("document.querySelectorAll('#overview svg').length") >= 6
        assert tab.js("document.getElementById('count').textContent") == "557 utterances"
        assert tab.js("document.querySelectorAll('.said').length") > 5
        tab.js("document.querySelector('.said').click()")
        assert "lexical" in tab.js("document.querySelector('.more').textContent")
        bars = "document.querySelector('#overview .card svg').outerHTML.length"
        before = tab.js(bars)
        tab.set("environment", "1", "change")
        tab.wait("document.getElementById('count').textContent.includes(' of 557')")
        assert tab.js(bars) != before
        tab.js("document.getElementById('reset').click()")
        tab.wait("document.getElementById('count').textContent === '557 utterances'")
        tab.set("low", 120)
        tab.set("agent", 0, "change")
        tab.wait("document.getElementById('count').textContent.includes(' of 557')")
        tab.js("document.getElementById('reset').click()")
        tab.set("search", "zzzz", "input")
        tab.wait("document.getElementById('count').textContent.startsWith('0 of')")
        assert "Nothing fits" in tab.js("document.getElementById('list').textContent")
        quiet(tab, samples)
        assert tab.js("fetch('http://127.0.0.1:9/').then(() => 'went out', () => 'refused')") == "refused"
        assert any("Content Security Policy" in json.dumps(one) for one in tab.noise)


@pytest.mark.slow
@needs_browser
def test_a_reward_stands_with_its_own_spread_and_there_is_no_empty_card(store: Store, tmp_path: Path):
    version = rewarded(store, [two_party(i) for i in range(3)])
    write_report(version, tmp_path / "r.html")
    (first,) = (
        Dataset(version).sql("SELECT spread FROM rewards ORDER BY episode_id, turn LIMIT 1").column(0).to_pylist()
    )
    with page(390, 844) as tab:
        tab.open(tmp_path / "r.html")
        shown = tab.js("[...document.querySelectorAll('.said small')].map(one => one.textContent)")
        assert shown[0] == f"± {first:.2f}"
        titles = tab.js("[...document.querySelectorAll('#trust h2')].map(one => one.textContent)")
        assert titles == ["Agreement", "Pair by pair"]  # nothing failed, and nobody was paid
        tab.js("document.querySelector('.said').click()")
        lines = tab.js("""[...document.querySelectorAll('.more td:first-child')].map(cell => {
            const words = document.createRange();
            words.selectNodeContents(cell);
            return words.getClientRects().length; })""")
        assert lines
        assert set(lines) == {1}, "a dimension's name is broken in two"
        wide = "document.querySelector('.more').scrollWidth - document.querySelector('.more').clientWidth"
        tab.js(f"document.querySelector('.more').scrollLeft = {wide}")
        edge = "(one => document.querySelector(one).getBoundingClientRect().right)"
        assert tab.js(f"{edge}('.more table') <= {edge}('.more')"), "the table leaves its frame"
        assert tab.js("document.documentElement.scrollWidth") <= 390


@pytest.mark.slow
@needs_browser
def test_the_filters_count_what_sql_counts(store: Store, tmp_path: Path):
    from sotopia_rl_data.query import sql

    version = rewarded(store, [two_party(i) for i in range(12)])
    write_report(version, tmp_path / "r.html")
    with page() as tab:
        tab.open(tmp_path / "r.html")
        tab.set("low", "100", "input")
        tab.wait("document.getElementById('count').textContent.includes(' of ')")
        counted = int(tab.js("document.querySelector('#count b').textContent"))
        rewards = "SELECT (min(round(reward, 4)) + max(round(reward, 4))) / 2 FROM rewards"
        found = sql(version, f"SELECT count(*) FROM rewards WHERE round(reward, 4) >= ({rewards}) - 1e-12")
        assert counted == found.column(0)[0].as_py()
        quiet(tab, tmp_path / "r.html")


@pytest.mark.slow
@needs_browser
def test_hostile_text_is_shown_as_text(store: Store, tmp_path: Path):
    said = [two_party(0, text=HOSTILE), two_party(1, text="long " * 2_000, environment=HOSTILE[:60])]
    version = rewarded(store, said)
    write_report(version, tmp_path / "r.html")
    with page() as tab:
        tab.open(tmp_path / "r.html")
        assert tab.js("document.documentElement.dataset.hacked || ''") == ""
        assert tab.js("document.querySelectorAll('img, iframe, #talk b b, .words b').length") == 0
        assert tab.js("document.scripts.length") == 2
        shown = tab.js("document.querySelector('.words').textContent")
        assert "</script><script>" in shown
        assert "<b>bold</b> &amp;" in shown
        assert "U+202Edesrever" in shown
        assert "\u202e" not in shown
        assert "שלום" in shown
        assert "nulU+0000" in shown
        tab.js("document.querySelectorAll('.row')[1].click()")
        assert tab.js("document.querySelector('.words').textContent.length") == 10_000
        assert tab.js("document.documentElement.scrollWidth <= innerWidth")
        quiet(tab, tmp_path / "r.html")


@pytest.mark.alone
@needs_browser
@pytest.mark.slow
def test_ten_thousand_utterances_open_within_five_seconds_and_stay_usable(store: Store, tmp_path: Path):
    version = rewarded(store, [two_party(i, turns=20, environment=f"env{i % 90}") for i in range(500)])
    held = write_report(version, tmp_path / "r.html")
    assert held["utterances"] == 10_000
    with page() as tab:
        seconds = tab.open(tmp_path / "r.html")
        print(f"10,000 utterances: {held['bytes']:,} bytes, {seconds:.2f} s")
        assert seconds < 5
        assert tab.js("document.querySelectorAll('*').length") < 5_000
        tab.js("document.querySelectorAll('.pane .pick button')[1].click()")
        tab.js("document.getElementById('list').scrollTop = 1e9")
        tab.settle()
        assert tab.js("document.querySelectorAll('.row').length") < 60
        assert "turn 19" in tab.js("[...document.querySelectorAll('.row')].at(-1).textContent")
        began = time.monotonic()
        tab.set("search", "episode 77", "input")
        tab.wait("document.querySelector('#count b').textContent === '20'")
        assert time.monotonic() - began < 2
        quiet(tab, tmp_path / "r.html")
