"""The comparison's page: plots and dialogues side by side, from disk, obeying nothing that was said."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures.browser import HOSTILE, needs_browser, page, quiet
from fixtures.comparisons import SEVEN, episode, goals, run
from fixtures.flat_calls import evaluate
from fixtures.labelling import put

from sotopia_rl_data.comparing import ComparisonOptions, compare
from sotopia_rl_data.comparing.page import write_comparison
from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.schema import Score
from sotopia_rl_data.store import Store, Version

HOW = ComparisonOptions(resamples=100)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def data_of(path: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(found.group(1))


def two(store: Store, **how) -> list[Version]:
    return [
        put(store, run(method, "P", seed=seed, shift=shift, size=(6, 2, 2), dimensions=SEVEN, **how), f"lab/{method}")
        for method, seed, shift in (("A", 1, 0.0), ("B", 2, 1.5))
    ]


def test_the_page_holds_every_figure_every_pair_and_what_was_said(store: Store, tmp_path: Path):
    versions = two(store)
    found = compare(versions, options=HOW)
    held = write_comparison(found, versions, tmp_path / "c.html")
    data = data_of(tmp_path / "c.html")
    assert (held["pairs"], held["episodes"]) == (24, 48)
    assert held["bytes"] == (tmp_path / "c.html").stat().st_size
    effect = data["conditions"][0]["contrasts"][0]["effects"][6]
    assert (effect["dimension"], effect["pairs"]) == ("goal", 24)
    assert effect["difference"] == found.conditions[0].contrasts[0].effect("goal").difference
    assert all(set(pair["sides"]) == {"0", "1"} for pair in data["pairs"])
    for pair in data["pairs"]:
        for side in pair["sides"].values():
            assert data["episodes"][side[0]]["agents"][side[1]]["model"] in "AB"
    assert data["episodes"][0]["turns"][0] == [0, 0, "speak", "hello there"]


def test_a_score_comes_with_its_judges_reason(store: Store, tmp_path: Path):
    for name, model in (("lab/a", "A"), ("lab/b", "B")):
        put(store, [episode("1", (model, "P"), goals(1, 1))], name)
        evaluate(store, name, judges=["lexical"])
    versions = [store.resolve("lab/a"), store.resolve("lab/b")]
    write_comparison(compare(versions, options=HOW), versions, tmp_path / "c.html")
    scores = data_of(tmp_path / "c.html")["episodes"][0]["scores"]
    assert {why for *_, by, why in scores if by == "lexical"} == {"counted words; understands nothing"}
    assert {why for *_, by, why in scores if by == "gpt-4o"} == {""}


def test_more_pairs_than_are_shown_are_drawn_and_what_is_in_the_way_stays(store: Store, tmp_path: Path):
    versions = two(store)
    found = compare(versions, options=HOW)
    assert write_comparison(found, versions, tmp_path / "c.html", pairs=5)["pairs"] == 5
    assert data_of(tmp_path / "c.html")["of"] == 24
    with pytest.raises(StoreError, match="cannot be written"):
        write_comparison(found, versions, tmp_path / "no" / "c.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.html", "store"]


@pytest.mark.slow
@needs_browser
def test_it_opens_from_disk_draws_every_condition_and_lays_dialogues_side_by_side(store: Store, tmp_path: Path):
    versions = []
    for one in two(store):
        episodes = run(one.name[-1], "P", seed=ord(one.name[-1]), size=(6, 2, 2), dimensions=SEVEN)
        judged = [
            replace(e, scores=(*e.scores, *(Score(s.agent, s.dimension, s.score, "human") for s in e.scores)))
            for e in episodes
        ]
        versions.append(put(store, judged, f"lab/two-{one.name[-1]}"))
    path = tmp_path / "c.html"
    write_comparison(compare(versions, sets={"few": ["env00", "env01"]}, options=HOW), versions, path)
    with page() as tab:
        tab.open(path)
        assert tab.js("document.querySelectorAll('#overview article').length") == 3
        assert tab.js("document.querySelectorAll('.forest circle').length") == 8
        assert tab.js("document.querySelectorAll('#pairs button').length") == 24
        assert tab.js("document.querySelectorAll('.side').length") == 2
        assert "A" in tab.js("document.querySelector('.side h3').textContent")
        before = tab.js("document.getElementById('overview').textContent")
        assert tab.js("document.querySelectorAll('#condition option').length") == 4
        tab.set("condition", "2", "change")
        assert tab.js("document.getElementById('overview').textContent") != before
        tab.js("document.querySelectorAll('#pairs button')[5].click()")
        assert tab.js("document.querySelector('#pairs [aria-selected=true]').dataset.pair") == "5"
        assert tab.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        quiet(tab, path)


@pytest.mark.slow
@needs_browser
def test_at_390_pixels_nothing_is_wider_than_the_window_and_letters_are_legible(store: Store, tmp_path: Path):
    versions, path = two(store), tmp_path / "c.html"
    write_comparison(compare(versions, options=HOW), versions, path)
    with page(390, 844, dark=True) as tab:
        tab.open(path)
        assert tab.js("document.documentElement.scrollWidth") <= 390
        letters = "[...document.querySelectorAll('#overview svg text')].map(t => t.getBoundingClientRect().height)"
        assert tab.js(f"Math.min(...{letters})") >= 10
        quiet(tab, path)


@pytest.mark.slow
@needs_browser
def test_what_was_said_is_shown_and_never_obeyed(store: Store, tmp_path: Path):
    for name, model in (("lab/a", "A"), ("lab/b", HOSTILE)):
        one = episode("1", (model, "P"), goals(1, 1), said=(HOSTILE, HOSTILE))
        put(store, [replace(one, scenario=HOSTILE, codename=HOSTILE)], name)
    versions = [store.resolve("lab/a"), store.resolve("lab/b")]
    path = tmp_path / "c.html"
    write_comparison(compare(versions, options=HOW), versions, path)
    with page() as tab:
        tab.open(path)
        assert "<b>bold</b>" in tab.js("document.querySelector('.turns').textContent")
        assert tab.js("document.documentElement.dataset.hacked") is None
        quiet(tab, path)
