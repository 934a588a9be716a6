"""The page, in a browser and through Gradio's own client: the same dialogue as without it, seen and heard."""

from __future__ import annotations

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pyarrow.parquet as pq
import pytest
from fixtures.browser import HOSTILE, needs_browser, page
from fixtures.demo_page import begin, open_page, press, say, send, served, shown, tab_to, thankful, unfold

from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.store import Store

pytest.importorskip("gradio", reason="needs the demo extra: pip install -e '.[demo]'")
pytestmark = pytest.mark.slow

SLOW = """
import asyncio, json
async def slow(prompt):
    await asyncio.sleep(1)
    return json.dumps({"action_type": "speak", "argument": f"turn {prompt.turn}"})
"""


def rows(store: Store, config: str) -> list[dict[str, Any]]:
    version = store.latest("demo/talks")
    assert version is not None
    files = [path for paths in version.files(config).values() for path in paths]
    return [row for path in files for row in pq.read_table(path).to_pylist()]


@needs_browser
def test_eight_turns_by_keyboard_alone_on_a_phone_and_the_saved_rows_are_what_the_page_shows(tmp_path: Path):
    with served(tmp_path, *thankful(tmp_path)) as url, page(390, 844) as tab:
        open_page(tab, url)
        tab_to(tab, "it.textContent.trim() === 'Begin'")
        menus = "[...document.querySelectorAll('.options')].map(one => one.getBoundingClientRect().height)"
        tab.wait(f"{menus}.join() === '0,0,0'", 10)  # a menu that stays open after Tab has gone on hides the next
        press(tab, "Enter", 13, "\r")
        tab.wait("/your turn/.test(document.querySelector('.status').textContent)")
        for words in ("hello", "well, thank you", "so?", "thank you"):
            say(tab, words)
        seen = shown(tab)
        assert [one["words"] for one in seen][:3] == ["hello", "turn 1", "well, thank you"]
        levels = [0, 0, 1, 2, 2, 3, 3, 3]
        parts = ("relationship", "knowledge", "goal")
        assert [one["chips"] for one in seen] == [
            [f"{name} {level / 3:.2f}" for name in ("reward", *parts)] for level in levels
        ]
        for name in ("What would best-of-4 have said?", "The end: SOTOPIA-EVAL, and saving"):
            tab_to(tab, f"it.textContent.trim().startsWith({name!r})")
            press(tab, "Enter", 13, "\r")
        tab_to(tab, "it.id === 'best'")
        press(tab, "Enter", 13, "\r")
        tab.wait("document.querySelectorAll('.drafts li').length === 1")
        assert tab.js("document.querySelector('.drafts').textContent").startswith("bestwhat was saidturn 7, thank you")
        tab_to(tab, "it.id === 'save'")
        press(tab, "Enter", 13, "\r")
        tab.wait("/Saved: demo.talks@v1.0.0/.test(document.querySelector('.status').textContent)")
        assert tab.js("document.documentElement.scrollWidth") == 390
        assert [one for one in tab.requests if not one.startswith((url, "data:"))] == []
        streams = [one for one in tab.requests if "/queue/data" in one]
        assert len(streams) == 1, "an answer that comes between two streams is seen only with the next event"
        assert not [one for one in tab.requests if "heartbeat" in one], "two streams for each page: three are too many"
        assert [one for one in tab.noise if one["params"].get("entry", {}).get("level") != "info"] == []
    store = Store(tmp_path / "store")
    saved = sorted(rows(store, "rewards"), key=lambda row: row["turn"])
    assert [(row["turn"], json.loads(row["completion"][0]["content"])["argument"]) for row in saved] == [
        (one["turn"], one["words"]) for one in seen
    ]
    assert [[f"{row[f'raw_{name}']:.2f}" for name in parts] for row in saved] == [
        [chip.split()[-1] for chip in one["chips"][1:]] for one in seen
    ]
    assert [f"{row['reward']:.2f}" for row in saved] == [one["chips"][0].split()[-1] for one in seen]


@needs_browser
def test_hostile_words_are_text_in_the_dialogue_the_scores_and_the_report(tmp_path: Path):
    scene = {
        "environment_id": "x",
        "codename": "a' onmouseover='document.documentElement.dataset.hacked = 1' \" {{7*7}}",
        "scenario": "A room. &lt;img src=x onerror='document.documentElement.dataset.hacked = 1'&gt;",
        "agents": [
            {
                "name": "**Ann** \u202e{{7*7}}",
                "goal": "# win **it** ${document.documentElement.dataset.hacked = 'goal'}",
            },
            {"name": "Bob", "goal": "lose it"},
        ],
    }
    (tmp_path / "scenes.json").write_text(json.dumps([scene]))
    with served(tmp_path, "--scenarios", str(tmp_path / "scenes.json")) as url, page(1280, 900, dark=True) as tab:
        open_page(tab, url)
        begin(tab)
        marked = "# **bold** _it_ [a](javascript:1) {{7*7}} ${7*7} {{#each x}}"
        for words in (HOSTILE.replace("\x00", ""), marked, "`x`"):
            say(tab, words)
        seen = [one["words"] for one in shown(tab)][::2]
        assert "<script>document.documentElement" in seen[0]
        assert "U+202E" in seen[0]
        assert seen[1:] == [marked, "`x`"]
        assert tab.js("document.querySelector('.who').textContent") == "**Ann** U+202E{{7*7}} turn 0"
        unfold(tab)
        tab.js("document.querySelector('#evaluate').click()")
        tab.wait("document.querySelector('iframe')")
        assert tab.js("document.querySelectorAll('table tbody tr').length") == 7
        assert "**Ann** U+202E{{7*7}}" in tab.js("document.querySelector('table').textContent")
        assert tab.js("document.documentElement.dataset.hacked") is None
        assert [one for one in tab.requests if not one.startswith((url, "data:", "about:"))] == []


@needs_browser
def test_every_control_has_a_name_and_no_arrow_lies_over_a_choice(tmp_path: Path):
    with served(tmp_path) as url, page(1280, 900) as tab:
        open_page(tab, url)
        tab_to(tab, "it.textContent.trim() === 'Begin'")  # past the menus, whose options are shown then
        unfold(tab)
        nodes = tab.send("Accessibility.getFullAXTree")["nodes"]
        controls = [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"] and node["role"]["value"] in ("button", "textbox", "combobox", "listbox", "radio")
        ]
        assert [one for one in controls if not one[1]] == []
        assert {"Begin", "Send", "Save", "Your words", "Scenario"} <= {name for _, name in controls}
        room = tab.js("""[...document.querySelectorAll('input[role=combobox]')].map(box =>
            box.parentElement.querySelector('.icon-wrap').getBoundingClientRect().left
            - (box.getBoundingClientRect().right - parseFloat(getComputedStyle(box).paddingRight)))""")
        assert len(room) > 3
        assert min(room) >= 0


@needs_browser
@pytest.mark.skipif("AXE" not in os.environ, reason="needs axe: `npm pack axe-core`, and AXE=its axe.min.js")
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_serious(tmp_path: Path, dark: bool):
    axe = Path(os.environ["AXE"]).read_text("utf-8")
    with served(tmp_path, *thankful(tmp_path)) as url, page(390, 844, dark=dark) as tab:
        open_page(tab, url)
        begin(tab)
        say(tab, "thank you")
        unfold(tab)
        tab.js("document.querySelector('#best').click()")
        tab.wait("document.querySelectorAll('.drafts li').length === 1")
        tab.js("document.querySelector('#evaluate').click()")
        tab.wait("document.querySelector('iframe')")
        tab.js(f"{axe}; 1")
        found = tab.js(
            "axe.run().then(all => all.violations.map(one => `${one.impact}: ${one.id}: ${one.nodes[0].html}`))"
        )
        assert [one for one in found if not one.startswith(("minor", "moderate"))] == []


@needs_browser
def test_a_judge_that_is_slow_down_or_over_the_budget_is_told_of_and_takes_no_word_away(tmp_path: Path):
    from gradio_client import Client

    dear = {"sim-down": [0, 0, 0, 0, 9], "sim-slow": [0, 0, 0, 0, 9], "sim-dear": [2.5, 2.5, 2.5, 10, 100]} | {
        "broken": [0] * 5
    }
    (tmp_path / "prices.json").write_text(json.dumps({"as_of": "2026-11-01", "hosts": {"*": dear}}))
    with running(latency=60) as provider:
        at = {"sim-down": "http://127.0.0.1:9/v1", "sim-slow": provider.openai_url, "sim-dear": provider.openai_url}
        judges = [word for name, url in at.items() for word in ("--judge", f"openai:{name}@{url}")]
        (tmp_path / "broken.py").write_text("async def broken(prompt):\n    raise OSError('out of order')\n")
        policies = ("--policy", "scripted:firm", "--policy", f"{tmp_path}/broken.py:broken")
        limits = ("--timeout", "3", "--budget", "0.0001", "--prices", str(tmp_path / "prices.json"))
        with served(tmp_path, *policies, *judges, *limits) as url:
            client = Client(url, verbose=False, httpx_kwargs={"timeout": 300})
            for name, told in (("sim-slow", "no answer within 3 s|said nothing"), ("sim-dear", "Nothing more fits")):
                client.predict(0, 0, "scripted:firm", name, api_name="/begin")
                client.predict("speak", "hello", api_name="/say")
                client.predict(api_name="/answer_say")
                _, said, _ = client.predict(api_name="/reward_say")
                assert re.search(told, said), said
            drafts = client.submit(0, api_name="/best_of")
            told = [said for _, said in drafts]
            assert ("scripted:firm is thinking" in told[0], "Nothing more fits" in told[-1]) == (True, True), told
            client.predict(0, 0, "broken", "sim-down", api_name="/begin")
            for words, name, told in (
                (" ", "answer_say", None),
                ("hello", "answer_say", "out of order"),
                ("twice", "reward_say", "out of order"),
            ):
                said = client.predict("speak", words, api_name="/say")[3]
                assert ("There are no words" in said) == (words == " ")
                assert ("It is not your turn" in said) == (words == "twice")
                after = client.predict(api_name=f"/{name}")[1]
                assert told is None or told in after
            with page(1280, 900) as tab:
                open_page(tab, url)
                begin(tab)
                send(tab, "hello")
                tab.wait("document.querySelector('.status.bad')")
                said = tab.js("document.querySelector('.status').textContent")
                assert re.search("Press “Ask again” to try once more", said), said
                assert "127.0.0.1" not in said
                assert [(one["words"], one["chips"]) for one in shown(tab)][:1] == [("hello", ["reward …"])]
                assert len(shown(tab)) == 2


def test_no_file_is_taken_and_a_browser_may_load_from_the_demo_alone(tmp_path: Path):
    with served(tmp_path) as url:
        answer = httpx2.get(url, trust_env=False, timeout=60)
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        file = {"files": ("x", b"x" * 5_000)}
        assert httpx2.post(f"{url}/gradio_api/upload", files=file, trust_env=False, timeout=60).status_code == 413


@needs_browser
def test_eight_tabs_of_one_browser_talk_in_turn_and_a_hidden_one_gets_its_answer(tmp_path: Path):
    (tmp_path / "slow.py").write_text(SLOW)
    with served(tmp_path, "--policy", f"{tmp_path}/slow.py:slow") as url, page(1280, 900) as first:
        tabs = [first, *(first.another(1280, 900) for _ in range(7))]
        for tab in tabs:
            open_page(tab, url)  # all but the last one hidden
        for words in ("hello", "well?"):
            for tab in tabs:
                tab.show()
                if words == "hello":
                    begin(tab)
                say(tab, words)
        tabs[0].show()
        send(tabs[0], "and now?")
        tabs[0].wait("document.querySelectorAll('.turn').length === 5")
        tabs[1].show()
        say(tabs[1], "bye")
        tabs[0].wait("document.querySelectorAll('.turn').length === 6 && !document.querySelector('.waiting')")
        tabs[0].show()
        say(tabs[0], "bye")
        assert [one["words"] for one in shown(tabs[0])][::2] == ["hello", "well?", "and now?", "bye"]


@needs_browser
def test_the_server_ends_without_a_traceback_while_a_page_is_open(tmp_path: Path):
    with page(390, 844) as tab:
        with served(tmp_path) as url:
            open_page(tab, url)
            begin(tab)
            assert [one for one in tab.requests if "/queue/data" in one]
        assert (tmp_path / "stderr").read_text() == "open it in a browser; Ctrl-C ends it\n"


def test_twenty_people_at_once_through_gradios_client(tmp_path: Path):
    from gradio_client import Client

    with served(tmp_path, *thankful(tmp_path)) as url:

        def talk(number: int) -> str:
            client = Client(url, verbose=False, httpx_kwargs={"timeout": 300})
            client.predict(0, number % 2, "counting", "thanks", api_name="/begin")
            for turn in range(2):
                client.predict("speak", f"I am {number}, {turn}", api_name="/say")
                client.predict(api_name="/answer_say")
                client.predict(api_name="/reward_say")
            return str(client.predict(api_name="/save"))

        began = time.monotonic()
        with ThreadPoolExecutor(20) as people:
            saved = list(people.map(talk, range(20)))
        assert all("Saved: demo/talks@" in one for one in saved), (saved, time.monotonic() - began)
    store = Store(tmp_path / "store")
    talks = rows(store, "episodes")
    said = sorted(turn["text"] for row in talks for turn in row["turns"] if turn["text"].startswith("I am"))
    assert said == sorted(f"I am {number}, {turn}" for number in range(20) for turn in range(2))
    assert None not in {row["reward"] for row in rows(store, "rewards")}
