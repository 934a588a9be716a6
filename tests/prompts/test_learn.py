"""Learning the wrapper that a simulator really served, and rendering with it byte for byte."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from fixtures.places import Recordings
from fixtures.promises import check_keys
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sotopia_rl_data.errors import InputError, StoreError
from sotopia_rl_data.importers import read
from sotopia_rl_data.prompts import learn, load_template, render
from sotopia_rl_data.prompts.learn import compare
from sotopia_rl_data.schema import Agent, Episode, Observation

LOGS = {"v014": "v014/redis_json", "head_patched": "head_patched/local_storage/EpisodeLog"}

# --- recorded logs -----------------------------------------------------------------------------------------------


def recorded(recordings: Recordings, *names: str) -> list[Episode]:
    return [e for name in names for e in read([recordings.episodes / LOGS[name]]) if isinstance(e, Episode)]


def served(recordings: Recordings, name: str) -> list[str]:
    return (recordings.episodes / name / "served_prompts.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)


def of_episode(line: str) -> str:
    return json.loads(line)["episode"]


def thirds(lines: list[str]) -> dict[str, set[int]]:
    """Ways to take a third: every third line, the first or the last lines, every third episode."""
    order = {name: i for i, name in enumerate(dict.fromkeys(map(of_episode, lines)))}
    n = len(lines)
    taken = {f"lines {k}::3": set(range(k, n, 3)) for k in range(3)}
    taken |= {"first lines": set(range(n // 3)), "last lines": set(range(n - n // 3, n))}
    for k in range(3):
        taken[f"episodes {k}::3"] = {i for i, line in enumerate(lines) if order[of_episode(line)] % 3 == k}
    return taken


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LOGS))
@pytest.mark.parametrize("third", thirds(['{"episode": "any"}']))
def test_from_a_third_of_the_served_prompts_the_others_come_back_byte_for_byte(recordings, name, third, tmp_path):
    lines, episodes = served(recordings, name), recorded(recordings, name)
    taken = thirds(lines)[third]
    log = tmp_path / "third.jsonl"
    log.write_text("".join(lines[i] for i in sorted(taken)), encoding="utf-8")
    report = learn(log, episodes)
    assert report.different == 0
    assert report.exact == report.matched > 0

    template = load_template(report.template.save(tmp_path / "served.yaml"))
    by_id = {e.episode_id: e for e in episodes}
    verdicts = Counter()
    for i, line in enumerate(lines):
        request = json.loads(line)
        if i in taken or request["kind"] != "agent":
            continue
        if request["episode_id"] not in by_id:
            verdicts["no log"] += 1
            continue
        episode = by_id[request["episode_id"]]
        (agent,) = (a.agent for a in episode.agents if a.name == request["agent"])
        asked = [{"role": "user", "content": request["prompt"]}]
        verdicts[compare(template, episode, agent, request["turn"], asked)] += 1
        if verdicts["reordered"] == 0:
            assert render(episode, agent, request["turn"], "single", template) == asked
    assert set(verdicts) <= {"exact", "reordered", "no log"}
    others = [r for i, line in enumerate(lines) if i not in taken and (r := json.loads(line))["kind"] == "agent"]
    assert verdicts.total() == len(others) >= {"own": 14, "large": 38}[recordings.name]
    assert verdicts["no log"] == sum(r["episode"] == "head_patched-004" for r in others)


@pytest.mark.slow
def test_the_whole_logs_come_back_and_what_has_no_log_is_counted(recordings):
    v014, head = (
        learn(recordings.episodes / name / "served_prompts.jsonl", recorded(recordings, name)) for name in LOGS
    )
    counts = [(one.requests, one.exact, one.different, one.no_log, one.other) for one in (v014, head)]
    assert (
        counts
        == {
            "own": [(77, 67, 0, 0, 10), (39, 29, 0, 5, 5)],
            "large": [(420, 388, 0, 0, 32), (99, 65, 0, 5, 29)],
        }[recordings.name]
    )
    assert dict(v014.template.echoes)["{format_instructions}"] == "schema"
    assert v014.assumed == ("{action_list}",)
    assert v014.template.variants[0].actions[0][0] == "leave"


@pytest.mark.slow
def test_request_bodies_without_any_ids_are_matched_by_what_they_show(recordings, tmp_path):
    log = tmp_path / "bodies.jsonl"
    with log.open("w", encoding="utf-8") as file:
        for line in served(recordings, "v014"):
            request = json.loads(line)
            body = {"model": request["model"], "messages": [{"role": "user", "content": request["prompt"]}]}
            file.write(json.dumps({"body": body} if request["model"] == "sim-alpha" else body) + "\n")
    report = learn(log, recorded(recordings, "v014"))
    exact, other = {"own": (67, 10), "large": (388, 32)}[recordings.name]
    assert (report.exact, report.different, report.no_log, report.other) == (exact, 0, 0, other)
    assert len(report.template.variants) == 1


@pytest.mark.slow
def test_one_log_of_two_versions_gives_a_variant_for_each(recordings, tmp_path):
    log = tmp_path / "both.jsonl"
    log.write_text("".join(served(recordings, "v014") + served(recordings, "head_patched")), encoding="utf-8")
    report = learn(log, recorded(recordings, "v014", "head_patched"))
    exact = {"own": 67 + 29, "large": 388 + 65}[recordings.name]
    assert (report.exact, report.different, report.no_log) == (exact, 0, 5)
    assert [dict(v.when) for v in report.template.variants] == [{"dialect": ("legacy",)}, {"dialect": ("head",)}]


# --- a toy simulator ---------------------------------------------------------------------------------------------

KINDS = ["none", "speak", "non-verbal communication", "action", "leave"]
SCHEMA = '{"properties": {"action_type": {"enum": ["none", "speak"]}, "n": {"maxItems": 2}}, "type": "object"}'
Ask = Callable[[Episode, Agent, int, str], object]
"""What the toy simulator asks at a turn, given the joined observations: a prompt, or messages."""


def toy_episodes(
    count: int = 6, names: Iterable[str] = ("Ann Lee", "Ben", "Will", "José"), turns: int = 5
) -> list[Episode]:
    people = list(names)
    made = []
    for n in range(count):
        agents = tuple(
            Agent(
                f"id{n}{side}", people[(n + side) % len(people)], model=f"m{side}", goal=f"Win the {n}th round at last"
            )
            for side in (0, 1)
        )
        seen = [Observation(0, a.agent, f"\nScene {n}\nYou are {a.name}.\nGoal of {a.name}\n") for a in agents]
        seen += [Observation(t, a.agent, f"Turn #{t - 1}: word {n}.{t}\n") for t in range(1, turns) for a in agents]
        made.append(Episode(f"e{n}", f"env{n}", agents, (), observations=tuple(seen), dialect="legacy"))
    return made


def plain_ask(episode: Episode, me: Agent, turn: int, history: str) -> object:
    return f"You are {me.name}. {history}. 1. Turn #{turn}. 2. Pick {' '.join(KINDS)}: {SCHEMA} {{agent}} {{turn}}"


def write_log(path: Path, episodes: Iterable[Episode], ask: Ask, *, ids: bool = True, joiner: str = "\n") -> Path:
    with path.open("w", encoding="utf-8") as file:
        for episode in episodes:
            for agent in episode.agents:
                own = [o for o in episode.observations if o.agent == agent.agent]
                for turn in range(len(own)):
                    asked = ask(episode, agent, turn, joiner.join(o.text for o in own[: turn + 1]))
                    record = {"prompt": asked} if isinstance(asked, str) else {"messages": asked}
                    if ids:
                        record |= {"episode_id": episode.episode_id, "agent": agent.name, "turn": turn}
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return path


@pytest.mark.parametrize("ids", [True, False])
def test_the_template_is_the_wrapper_with_named_slots(tmp_path, ids):
    report = learn(write_log(tmp_path / "log", toy_episodes(), plain_ask, ids=ids), toy_episodes())
    assert (report.exact, report.matched) == (60, 60)
    (variant,) = report.template.variants
    assert variant.messages[0]["content"] == (
        "You are {agent}. {observations}. 1. Turn #{turn}. 2. Pick {actions}: {schema} {lbrace}agent} {lbrace}turn}"
    )
    assert variant.schema == SCHEMA
    assert variant.actions == (tuple(KINDS),)
    assert (report.template.joiner, report.template.separator, variant.when) == ("\n", " ", {})


def test_what_is_saved_is_what_was_learned_and_does_not_depend_on_the_order(tmp_path):
    episodes = toy_episodes()
    log = write_log(tmp_path / "log", episodes, plain_ask)
    one, other = learn(log, episodes).template, learn(log, reversed(episodes)).template
    assert one.sha256 == other.sha256
    path = one.save(tmp_path / "served.yaml")
    assert load_template(path) == one
    assert one.save(path) == path
    path.write_text("something else")
    with pytest.raises(InputError, match="is not this template"):
        one.save(path)
    assert path.read_text() == "something else"
    one.save(path, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "served.yaml"]


def test_a_template_that_cannot_be_saved_leaves_nothing(tmp_path):
    template = learn(write_log(tmp_path / "log", toy_episodes(), plain_ask), toy_episodes()).template
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        template.save(tmp_path / "file" / "served.yaml")
    with pytest.raises(StoreError, match="No such file or directory"):
        template.save(tmp_path / "missing" / "served.yaml")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError):
        template.save(tmp_path / "folder", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder", "log"]


def test_a_full_disk_leaves_neither_the_file_nor_a_part_of_it(tmp_path):
    learn(write_log(tmp_path / "log", toy_episodes(), plain_ask), toy_episodes()).template.save(tmp_path / "a.yaml")
    code = (
        "import resource, signal, sys; from sotopia_rl_data.prompts import load_template;"
        "sys.dont_write_bytecode = True; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (99, 99));"
        f"load_template({str(tmp_path / 'a.yaml')!r}).save({str(tmp_path / 'b.yaml')!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "StoreError" in done.stderr
    assert "b.yaml cannot be written (File too large)." in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.yaml", "log"]


def test_only_the_order_of_the_action_list_may_differ(tmp_path):
    def shuffled(episode, me, turn, history):
        kinds = random.Random(int(episode.episode_id[1:]) % 2).sample(KINDS, 5)
        strict = json.dumps({"properties": {"action_type": {"enum": kinds}}})
        return f"{me.name}: {history} Turn {turn} of 20, {', '.join(kinds)}. {strict}"

    episodes = toy_episodes()
    report = learn(write_log(tmp_path / "log", episodes, shuffled), episodes)
    (variant,) = report.template.variants
    assert len(variant.actions) == 2
    assert (report.exact, report.reordered, report.different) == (30, 30, 0)
    assert report.template.separator == ", "
    assert '"enum": ["{enum}"]' in variant.schema

    other = [{"role": "user", "content": shuffled(episodes[0], episodes[0].agents[0], 1, history(episodes[0], 1))}]
    unseen = other[0]["content"]
    for kind in KINDS[:2]:
        unseen = unseen.replace(kind, f"<{kind}>")
    unseen = unseen.replace("<none>", "speak").replace("<speak>", "none")
    agent = episodes[0].agents[0].agent
    assert compare(report.template, episodes[0], agent, 1, other) in ("exact", "reordered")
    assert compare(report.template, episodes[0], agent, 1, [{"role": "user", "content": unseen}]) == "reordered"
    fewer = [{"role": "user", "content": other[0]["content"].replace("leave, ", "").replace(", leave", "")}]
    assert compare(report.template, episodes[0], agent, 1, fewer) == "different"


def history(episode: Episode, turn: int, side: int = 0) -> str:
    agent = episode.agents[side].agent
    return "\n".join(o.text for o in episode.observations if o.agent == agent and o.turn <= turn)


@pytest.mark.parametrize(
    ("ask", "when"),
    [
        (lambda e, me, t, h: f"{me.name} {h} Turn {t}: {'speak leave' if t == 0 else ' '.join(KINDS)}!", {"first"}),
        (lambda e, me, t, h: f"{me.name} {h} Turn {t}: {'Hurry' if me.model == 'm1' else 'Relax'}", {"model"}),
        (lambda e, me, t, h: f"{me.name} {h} Turn {t}" + ("" if t == 0 else f" after {'!' * 3}"), {"first"}),
        (
            lambda e, me, t, h: f"{me.name} {h} Turn {t}" + ("A" if t == 0 else "") + ("B" if me.model == "m1" else ""),
            {"model", "first"},
        ),
    ],
)
def test_wrappers_that_differ_become_variants_with_the_fewest_conditions(tmp_path, ask, when):
    episodes = toy_episodes()
    report = learn(write_log(tmp_path / "log", episodes, ask), episodes)
    assert (report.exact, report.matched) == (60, 60)
    assert {name for v in report.template.variants for name in v.when} == when
    with_other_model = dataclasses.replace(
        episodes[0], agents=tuple(dataclasses.replace(a, model="m9") for a in episodes[0].agents)
    )
    if "model" in when:
        with pytest.raises(InputError, match="no variant"):
            render(with_other_model, "id00", 1, "single", report.template)


def test_a_system_message_turns_from_one_the_partner_and_the_goal_are_learned(tmp_path):
    def ask(episode, me, turn, history):
        (other,) = (a for a in episode.agents if a.agent != me.agent)
        return [
            {"role": "system", "content": f"Play {me.name} against {other.name}. Aim: {me.goal}."},
            {"role": "user", "content": f"<<{history}>> ({turn + 1}/20)"},
        ]

    episodes = toy_episodes()
    report = learn(write_log(tmp_path / "log", episodes, ask, joiner=" // "), episodes)
    assert report.exact == 60
    assert [dict(m) for m in report.template.variants[0].messages] == [
        {"role": "system", "content": "Play {agent} against {partner}. Aim: {goal}."},
        {"role": "user", "content": "<<{observations}>> ({turn_from_1}/20)"},
    ]


def test_observations_that_were_stripped_are_joined_so(tmp_path):
    def ask(episode, me, turn, history):
        return f"{me.name}\n\n{' | '.join(part.strip() for part in history.split('@@'))} @{turn}"

    report = learn(write_log(tmp_path / "log", toy_episodes(), ask, joiner="@@"), toy_episodes())
    assert (report.exact, report.template.strip, report.template.joiner) == (60, True, " | ")


def test_a_name_that_is_also_a_word_of_the_wrapper_stays_a_word(tmp_path):
    def ask(episode, me, turn, history):
        return f"{me.name}. Will you act? Willing. {history} Turn {turn}"

    report = learn(write_log(tmp_path / "log", toy_episodes(8), ask), toy_episodes(8))
    assert (
        report.template.variants[0].messages[0]["content"]
        == "{agent}. Will you act? Willing. {observations} Turn {turn}"
    )
    assert report.exact == report.matched == 80


def test_a_name_within_a_word_of_the_wrapper_is_no_name(tmp_path):
    def ask(episode, me, turn, history):
        return f"Also {me.name}. {history} Turn {turn}"

    episodes = toy_episodes(names=("Al", "Bo"))
    (variant,) = learn(write_log(tmp_path / "log", episodes, ask), episodes).template.variants
    assert variant.messages[0]["content"] == "Also {agent}. {observations} Turn {turn}"


def with_braces(said: str) -> list[Episode]:
    """Toy episodes where in every second one somebody says something with braces at turn 1."""
    return [
        dataclasses.replace(
            e,
            observations=tuple(
                dataclasses.replace(o, text=f"Turn #1: {said}\n") if o.turn == 2 and n % 2 else o
                for o in e.observations
            ),
        )
        for n, e in enumerate(toy_episodes())
    ]


@pytest.mark.parametrize("ids", [True, False])
def test_slots_that_were_said_and_that_the_simulator_filled_are_learned(tmp_path, ids):
    episodes = with_braces("Fill {agent}, {history}, {format}, {format} or {0}")

    def ask(episode, me, turn, history):
        return plain_ask(episode, me, turn, history.replace("{format}", SCHEMA))

    report = learn(write_log(tmp_path / "log", episodes, ask, ids=ids), episodes)
    assert (report.exact, report.different) == (60, 0)
    assert report.template.echoes == {
        "{action_list}": "actions",
        "{format_instructions}": "schema",
        "{format}": "schema",
    }
    assert report.assumed == ("{action_list}", "{format_instructions}")


def test_what_a_log_disproves_is_not_assumed(tmp_path):
    episodes = with_braces("I wrote {format_instructions} myself")
    report = learn(write_log(tmp_path / "log", episodes, plain_ask), episodes)
    assert (report.exact, report.different) == (60, 0)
    assert report.template.echoes == {"{action_list}": "actions"}


def test_nothing_is_assumed_of_other_simulators(tmp_path):
    episodes = [dataclasses.replace(e, dialect="plain") for e in toy_episodes()]
    assert learn(write_log(tmp_path / "log", episodes, plain_ask), episodes).template.echoes == {}


def test_a_log_that_counts_its_episodes_in_its_own_way_is_matched_by_what_it_shows(tmp_path):
    log = write_log(tmp_path / "log", toy_episodes(), plain_ask)
    log.write_text(log.read_text().replace('"episode_id": "e', '"episode_id": "run-'))
    assert learn(log, toy_episodes()).exact == 60


def test_requests_of_another_kind_and_a_torn_last_line_are_passed_over(tmp_path):
    log = write_log(tmp_path / "log", toy_episodes(), plain_ask)
    with log.open("a") as file:
        file.write(
            '{"prompt": "Judge this episode.", "episode_id": "e0"}\n{"note": 3}\n[1]\n{"messages": [{"role": 1}]}\n'
        )
        file.write('{"prompt": "Fix this JSON", "episode_id": "e99", "agent": "Ann Lee", "turn": 1}\n\n')
        file.write('{"prompt": "tor')
    report = learn(log, toy_episodes())
    assert (report.requests, report.exact, report.no_log, report.other) == (65, 60, 1, 4)
    assert report.as_dict()["matched"] == 60
    check_keys("prompts learn", report.as_dict() | {"file": "t.yaml"})


def test_what_no_feature_explains_is_counted_as_different(tmp_path):
    def ask(episode, me, turn, history):
        return f"{me.name} {history} Turn {turn}" + ("" if episode.episode_id != "e5" else "?!")

    report = learn(write_log(tmp_path / "log", toy_episodes(), ask), toy_episodes())
    assert (report.exact, report.different, report.lines) == (50, 10, tuple(range(51, 61)))


@pytest.mark.parametrize(
    ("ask", "what"),
    [
        (
            lambda e, me, t, h: f"{hash((e.episode_id, me.name, t))} {h} {random.Random(h).random()}",
            "The text around the observations",
        ),
        (lambda e, me, t, h: "no history at all", "shows what an agent observed"),
        (lambda e, me, t, h: h.split("\nTurn")[0] if t else h, "shows what an agent observed|first turns only"),
    ],
)
def test_where_nothing_consistent_is_found_it_says_so(tmp_path, ask, what):
    with pytest.raises(InputError, match=what) as caught:
        learn(write_log(tmp_path / "log", toy_episodes(turns=9), ask), toy_episodes(turns=9))
    assert caught.value.hint


def test_a_log_of_first_turns_cannot_tell_how_observations_are_joined(tmp_path):
    episodes = toy_episodes(turns=1)
    with pytest.raises(InputError, match="first turns only"):
        learn(write_log(tmp_path / "log", episodes, plain_ask), episodes)


def test_a_log_that_cannot_be_read_says_so(tmp_path):
    (tmp_path / "bad").write_text('{"prompt": "x"}\nnot json\n{}\n')
    (tmp_path / "binary").write_bytes(b"\xff\xfe\n")
    for name, what in (
        ("none", "cannot be read"),
        ("bad", "Line 2 .* is not JSON"),
        ("binary", "Line 1"),
        (".", "cannot be read"),
    ):
        with pytest.raises(InputError, match=what):
            learn(tmp_path / name, toy_episodes())
    with pytest.raises(InputError, match="0 episodes"):
        learn(
            write_log(tmp_path / "log", toy_episodes(), plain_ask),
            [dataclasses.replace(e, observations=()) for e in toy_episodes()],
        )


WRAPPING = st.text(
    st.one_of(st.sampled_from("{}agent observations\n:#'\"-|&*!> \t"), st.characters(codec="utf-8")), max_size=25
)


@pytest.mark.slow
@given(WRAPPING, WRAPPING, WRAPPING, WRAPPING, st.sampled_from(["\n", "", " ", "\n\n", "; "]))
@settings(max_examples=60, deadline=None)
def test_any_wrapper_comes_back_byte_for_byte(tmp_path_factory, before, middle, after, end, joiner):
    assume(not any(c.isdigit() or 0xD800 <= ord(c) < 0xE000 for c in before + middle + after + end))

    def ask(episode, me, turn, history):
        return f"{before}<{me.name}>{middle}({history}){after}[{turn}]{end}"

    episodes = toy_episodes(3, turns=4)
    log = write_log(tmp_path_factory.mktemp("any") / "log", episodes, ask, joiner=joiner)
    report = learn(log, episodes)
    assert (report.exact, report.matched) == (24, 24)
    assert load_template(report.template.save(log.parent / "served.yaml")) == report.template
