"""The state machine of a rollout on toys: who acts, who sees what, what ends it, in each dialect."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sotopia_rl_data.errors import BadAnswer, UsageError
from sotopia_rl_data.importers.formats.episode_log import read_episode_log
from sotopia_rl_data.prompts import render
from sotopia_rl_data.rollouts import (
    DIALECTS,
    FAILED,
    NOTHING,
    Action,
    Environment,
    Person,
    Scene,
    TurnPrompt,
    World,
    play,
    read_action,
    scripted,
)

ANN = Person("ann", "Ann Lee", "Ann", "Ann Lee is a baker.", "Ann is calm.", "Ann sleepwalks")
BOB = Person("bob", "Bob O'Hara", "Bob", "Bob O'Hara is a clerk.", "Bob is loud.", "Bob sings")
CAY = Person("cay", "Cay Moss", "Cay", "Cay Moss is a nurse.", "Cay is kind.", "Cay bets")
SAY, LEAVE = Action("speak", "hello"), Action("leave")


def scene(*people: Person, relationship: str = "friend") -> Scene:
    goals = tuple(f"{person.called}'s own goal" for person in people)
    return Scene(Environment("env", "Two neighbours and one tree.", goals, "tree", relationship), people)


def two(relationship: str = "friend") -> Scene:
    return scene(ANN, BOB, relationship=relationship)


def run(world: World, *actions: Action) -> World:
    """Play one action a turn, by whose turn it is."""
    for action in actions:
        (agent,) = world.acting
        world.step({agent: action})
    return world


def test_agents_act_in_turn_and_the_others_are_forced_to_do_nothing():
    world = World(two())
    assert (world.turn, world.acting) == (0, ("ann",))
    run(world, SAY, Action("action", "waves"))
    assert world.acting == ("ann",)
    assert world.messages()[0][2:] == [
        ("Ann Lee", "Environment", 'said: "hello"'),
        ("Bob O'Hara", "Environment", "did nothing"),
    ]
    assert world.messages()[1] == [
        ("Environment", "Ann Lee", 'Turn #0: Ann Lee said: "hello"\n'),
        ("Environment", "Bob O'Hara", 'Turn #0: Ann Lee said: "hello"\n'),
        ("Ann Lee", "Environment", "did nothing"),
        ("Bob O'Hara", "Environment", "[action] waves"),
    ]


def test_two_scripted_policies_play_to_an_end_and_say_the_same_each_time():
    def once() -> World:
        world = World(two())
        asyncio.run(play(world, {"ann": scripted("warm"), "bob": scripted("firm")}, "e1"))
        return world

    world = once()
    assert world.done
    assert 10 <= world.turn <= 17
    assert world.messages()[world.turn - 1][2:] != []
    assert once().messages() == world.messages()
    assert {t.failed for t in world.episode("e1").turns} == {False}


def test_who_is_not_due_cannot_act_and_who_is_must():
    world = World(two())
    with pytest.raises(UsageError, match="Turn 0 needs an action of ann; those given are of bob"):
        world.step({"bob": SAY})
    with pytest.raises(UsageError, match="those given are of nobody"):
        world.step({})
    run(world, LEAVE)
    with pytest.raises(UsageError, match="The episode is over"):
        world.step({"bob": SAY})


@pytest.mark.parametrize("dialect", ["legacy", "0.1.5", "head"])
def test_the_turn_limit_ends_it_after_that_many_turns(dialect):
    world = World(two(), dialect, max_turns=3)
    run(world, SAY, SAY)
    assert not world.done
    run(world, SAY)
    assert (world.done, world.turn, len(world.messages())) == (True, 3, 4)
    assert world.ended == "Environment comments: terminated: The conversation is too long; \n"


def test_forced_no_ops_count_as_silence_but_not_in_head():
    # legacy: the second agent's first no-op is the third "did nothing" in a row; the first agent's is the second
    assert run(World(two()), SAY, NOTHING).ended.endswith("The conversation stales for too long; \n")
    assert not run(World(two()), SAY, SAY, NOTHING).done
    assert run(World(two()), SAY, SAY, NOTHING, NOTHING).done
    assert not run(World(two(), "head"), SAY, NOTHING, NOTHING).done
    assert run(World(two(), "head"), SAY, NOTHING, NOTHING, NOTHING).done


def test_leaving_ends_an_episode_of_two_in_every_dialect():
    assert run(World(two()), SAY, LEAVE).ended == "Environment comments: terminated: Agent 2 is leaving; \n"
    for dialect in ("0.1.5", "head"):
        assert run(World(two(), dialect), SAY, LEAVE).ended.endswith("Too few active agents; \n")


def test_with_three_who_left_counts_as_back_after_a_forced_no_op_but_not_in_head():
    three = scene(ANN, BOB, CAY)
    forgotten = run(World(three, "0.1.5"), LEAVE, SAY, LEAVE)
    assert not forgotten.done  # ann's forced no-ops came after her leaving
    gone = run(World(three, "head"), LEAVE, SAY, LEAVE)
    assert gone.ended.endswith("terminated: Too few active agents; \n")
    back = run(World(three, "head"), LEAVE, SAY, SAY, SAY, LEAVE)
    assert not back.done  # ann was asked again, and came back


def test_four_agents_fall_silent_at_once_in_0_1_5():
    four = scene(ANN, BOB, CAY, Person("dan", "Dan Roe"))
    assert run(World(four, "0.1.5"), SAY).ended.endswith("The conversation stales for too long; \n")
    assert not run(World(four, "head"), SAY).done


def test_legacy_is_for_two():
    with pytest.raises(UsageError, match="is for two agents; the scene has 3") as error:
        World(scene(ANN, BOB, CAY))
    assert "--dialect" in error.value.hint


@pytest.mark.parametrize("rules", [{"max_turns": 0}, {"max_stale": -1}, {"order": "alphabetical"}])
def test_rules_that_there_are_not_are_refused(rules):
    with pytest.raises(UsageError):
        World(two(), **rules)
    with pytest.raises(UsageError, match=re.escape("'1.0' is not a dialect")):
        World(two(), "1.0")


def test_at_once_everybody_acts_and_everybody_sees_all_of_it():
    world = World(two(), order="simultaneous")
    assert world.acting == ("ann", "bob")
    world.step({"bob": Action("action", "waves"), "ann": SAY})
    assert world.messages()[1][0][2] == 'Turn #0: Ann Lee said: "hello";Bob O\'Hara [action] waves\n'
    assert [(t.turn, t.agent) for t in world.episode("e").turns] == [(0, "ann"), (0, "bob")]


def test_a_random_order_is_drawn_from_the_seed():
    def actors(seed: int) -> list[str]:
        world = World(two(), "head", order="random", seed=seed, max_turns=12)
        found = []
        while not world.done:
            found += world.acting
            run(world, SAY)
        return found

    assert actors(1) == actors(1)
    assert len({tuple(actors(seed)) for seed in range(8)}) > 1
    assert set(actors(1)) == {"ann", "bob"}


@pytest.mark.parametrize(
    ("relationship", "known"),
    [
        ("stranger", "Unknown"),
        ("know_by_name", "Ann Lee "),
        ("acquaintance", "Ann Lee is a baker. "),
        ("friend", "Ann Lee is a baker. Personality and values description: Ann is calm. "),
        ("romantic_relationship", "Ann Lee is a baker. Personality and values description: Ann is calm. "),
        ("family_member", "Ann Lee is a baker. Personality and values description: Ann is calm. "),
    ],
)
def test_how_much_one_knows_of_the_other_depends_on_the_relationship(relationship, known):
    seen_by_bob = World(two(relationship)).messages()[0][1][2]
    assert f"\nAnn Lee's background: {known}\nBob O'Hara's background: Bob O'Hara is a clerk." in seen_by_bob
    assert "Bob's secrets: Bob sings\n" in seen_by_bob
    assert "Ann Lee's goal: Unknown\nBob O'Hara's goal: Bob's own goal\n" in seen_by_bob
    newer = World(two(relationship), "head").messages()[0][1][2]
    assert "\nAnn Lee's background: Unknown\n" in newer


def test_what_is_not_told_has_no_label_and_what_is_empty_has_its_label_alone():
    bare = Person("bob", "Bob O'Hara", introduction="Bob O'Hara is a clerk.")
    openings = World(scene(ANN, bare)).messages()[0]
    assert "\nBob O'Hara's background: Bob O'Hara is a clerk. \nAnn" in openings[0][2]
    assert "\nBob O'Hara's background: Bob O'Hara is a clerk.\nAnn" in openings[1][2]
    empty = scene(ANN, replace(bare, personality="", secret=""))
    own = "Bob O'Hara is a clerk. Personality and values description:  Bob's secrets:"
    assert f"\nBob O'Hara's background: {own} \nAnn" in World(empty).messages()[0][1][2]
    assert f"\nBob O'Hara's background: {own}\nAnn" in World(empty, "head").messages()[0][1][2]  # which trims


def test_three_names_are_listed_as_in_a_sentence():
    opening = World(scene(ANN, BOB, CAY), "head").messages()[0][2][2]
    assert "\nParticipants: Ann Lee, Bob O'Hara, and Cay Moss\n" in opening


def test_head_writes_a_space_before_an_action_and_names_those_whom_it_is_for():
    world = run(World(scene(ANN, BOB, CAY), "head"), Action("speak", "psst", ("bob",)), Action("none", to=("cay",)))
    assert [text for _, _, text in world.messages()[0][3:]] == [
        '[private to ["Bob O\'Hara"]]  said: "psst"',
        " did nothing",
        " did nothing",
    ]
    assert world.messages()[1][4][2] == "[private to ['Cay Moss']]  did nothing"
    with pytest.raises(UsageError, match="private to zoe"):
        run(world, Action("speak", "psst", ("zoe",)))


# --- laws, for whatever is done ------------------------------------------------------------------------------------

# what a log keeps: of no-ops and leaving no words, and no lone surrogates, which UTF-8 cannot hold
WORDS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ['" said: "', "did nothing", "]] [x", "<b>"]
)
ACTIONS = st.builds(Action, st.sampled_from(["speak", "action", "non-verbal communication"]), WORDS) | st.builds(
    Action, st.sampled_from(["none", "leave"]), failed=st.booleans()
)
MOST = 6
CASTS = {2: (ANN, BOB), 3: (ANN, BOB, CAY)}
WORLDS = st.builds(
    lambda size, dialect, **rules: World(scene(*CASTS[2 if dialect == "legacy" else size]), dialect, **rules),
    st.sampled_from([2, 3]),
    st.sampled_from(DIALECTS),
    max_turns=st.integers(1, MOST),
    max_stale=st.integers(0, 3),
    order=st.sampled_from(["round-robin", "simultaneous", "random"]),
    seed=st.integers(0, 9),
)


@given(world=WORLDS, data=st.data())
def test_every_episode_ends_and_its_messages_are_whole(world, data):
    while not world.done:
        turn, acting = world.turn, world.acting
        assert 0 <= turn < MOST
        assert acting
        assert world.ended == ""
        world.step({agent: data.draw(ACTIONS) for agent in acting})
        assert world.turn == turn + 1
    assert (world.acting, world.ended != "") == ((), True)
    agents = world.scene.agents
    assert [len(turn) for turn in world.messages()] == [2 * len(agents)] * world.turn + [len(agents)]
    episode = world.episode("e")
    assert {(o.turn, o.agent) for o in episode.observations} == {(t, a) for t in range(world.turn + 1) for a in agents}
    assert [t.turn for t in episode.turns] == sorted(t.turn for t in episode.turns)
    assert {t.turn for t in episode.turns} == set(range(world.turn))


@given(
    dialect=st.sampled_from(["legacy", "0.1.5", "head"]), actions=st.lists(ACTIONS, max_size=6), whisper=st.booleans()
)
def test_the_log_of_a_round_is_read_back_as_the_same_episode(dialect, actions, whisper):
    world = World(two() if dialect == "legacy" else scene(ANN, BOB, CAY), dialect, max_stale=20)
    for action in actions:
        if world.done:
            break
        others = tuple(one for one in world.scene.agents if one not in world.acting)
        run(world, replace(action, to=others[:1] if whisper and dialect == "head" else ()))
    ours = world.episode("e", models=("judge", *("mine",) * len(world.scene.people)))
    record = {"pk": "e", "environment": "env", "agents": list(world.scene.agents), "models": list(ours.models)}
    record |= {"messages": world.messages(), "reasoning": world.ended, "rewards": [], "tag": ""}
    theirs, _ = read_episode_log(record, "", None)
    assert theirs.turns == tuple(replace(turn, failed=None) for turn in ours.turns)
    assert theirs.observations == ours.observations
    assert theirs.agents == ours.agents
    assert (theirs.scenario, theirs.environment_id, theirs.reasoning) == (ours.scenario, "env", ours.reasoning)


# --- completions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "completion",
    [
        '{"action_type": "speak", "argument": "hi {there}"}',
        ' \n{"argument": "hi {there}", "action_type": " speak ", "extra": 1}\n',
        '```json\n{"action_type": "speak", "argument": "hi {there}"}\n```',
        'Sure {ok}: {"action_type": "speak", "argument": "hi {there}"} Bye.',
        '{"properties": {"action_type": "speak", "argument": "hi {there}"}, "type": "object"}',
        '{"action_type": {"value": "speak"}, "argument": {"value": "hi {there}"}}',
    ],
)
def test_an_action_is_read_in_every_wrapping_that_the_library_takes(completion):
    assert read_action(completion) == Action("speak", "hi {there}")


def test_half_of_a_surrogate_pair_becomes_a_question_mark_as_elsewhere():
    assert read_action('{"action_type": "speak", "argument": "a\\ud83d"}') == Action("speak", "a?")


def test_no_ops_and_leaving_have_no_words():
    assert read_action('{"action_type": "leave"}') == LEAVE
    assert read_action('{"action_type": "none", "argument": "hm"}') == NOTHING


@pytest.mark.parametrize(
    ("completion", "said"),
    [
        ("", "no JSON object"),
        ("hello", "no JSON object"),
        ("[]", "no JSON object"),
        ('{"argument": "hi"}', "no JSON object with an action_type"),
        ('{"action_type": "sing", "argument": "la"}', "The action type is 'sing'; there are none, speak"),
        ('{"action_type": 1, "argument": "la"}', "The action type is 1"),
        ('{"action_type": "speak"}', "The argument of 'speak' is None, not text"),
        ('{"action_type": "speak", "argument": 3}', "is 3, not text"),
        ('{"action_type": "speak", "argument": "hi"', "no JSON object"),
    ],
)
def test_what_is_no_action_is_refused_with_a_reason(completion, said):
    with pytest.raises(BadAnswer, match=re.escape(said)):
        read_action(completion)
    assert World(two()).read_or_nothing("ann", completion) == FAILED


@pytest.mark.parametrize(
    ("to", "said"),
    [
        (None, "`to` is None"),
        ("Bob O'Hara", "not a list of names"),
        (["Zoe"], "`to` names 'Zoe'; the others are Bob"),
        (["Ann Lee"], "`to` names 'Ann Lee'"),
        ([3], "`to` names 3"),
    ],
)
def test_head_wants_the_names_of_others_in_to(to, said):
    world = World(scene(ANN, BOB, CAY), "head")
    with pytest.raises(BadAnswer, match=re.escape(said)):
        world.read("ann", json.dumps({"action_type": "speak", "argument": "hi", "to": to}))
    answer = json.dumps({"action_type": "speak", "argument": "hi", "to": ["Cay Moss", "Bob O'Hara", "Cay Moss"]})
    assert world.read("ann", answer) == Action("speak", "hi", ("cay", "bob"))
    assert World(two()).read("ann", answer) == Action("speak", "hi")


def test_people_are_told_apart_by_name_so_no_two_share_one():
    with pytest.raises(UsageError, match="has two people called Bob O'Hara"):
        scene(ANN, BOB, replace(CAY, name=BOB.name))


@pytest.mark.slow
@given(st.text() | st.recursive(st.none() | st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from(["action_type", "argument", "properties", "value", "to"]), x)).map(json.dumps))  # fmt: skip
def test_any_completion_is_an_action_or_a_flagged_no_op(completion):
    for dialect in ("legacy", "head"):
        action = World(two(), dialect).read_or_nothing("ann", completion)
        assert action == FAILED or not action.failed


# --- policies ------------------------------------------------------------------------------------------------------


def test_a_policy_is_asked_what_it_may_see_and_only_when_it_is_its_turn():
    asked: list[TurnPrompt] = []

    async def policy(question: TurnPrompt) -> str:
        asked.append(question)
        return '{"action_type": "speak", "argument": "hm"}' if question.turn < 3 else "I quit"

    world = World(two(), max_turns=4)
    served = asyncio.run(play(world, {"ann": policy, "bob": policy}, "e7", layout="chat"))
    assert [(q.episode_id, q.agent, q.turn, q.own) for q in asked] == [
        ("e7", "ann", 0, 0), ("e7", "bob", 1, 0), ("e7", "ann", 2, 1), ("e7", "bob", 3, 1),
    ]  # fmt: skip
    assert [one.prompt for one in served] == asked
    assert served[-1].completion == "I quit"
    assert [t.failed for t in world.episode("e7").turns] == [False, False, False, True]
    assert asked[2].messages == tuple(render(world.episode("e7"), "ann", 2, "chat"))


def test_what_a_policy_raises_is_not_swallowed():
    async def policy(question: TurnPrompt) -> str:
        raise RuntimeError("no power")

    with pytest.raises(RuntimeError, match="no power"):
        asyncio.run(play(World(two()), {"ann": policy, "bob": policy}, "e"))


def test_there_are_two_scripted_policies():
    with pytest.raises(UsageError, match="no scripted policy 'shy'"):
        scripted("shy")
    whispering = World(scene(ANN, BOB, CAY), "head")
    asyncio.run(play(whispering, dict.fromkeys(whispering.scene.agents, scripted("warm", 3)), "e"))
    assert {t.failed for t in whispering.episode("e").turns} == {False}
