"""The state machine of a rollout on toys: who acts, who sees what, what ends it, in each dialect."""

from __future__ import annotations

import asyncio

import pytest

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.rollouts import NOTHING, Action, Environment, Person, Scene, World, play, scripted

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
    with pytest.raises(UsageError, match="Turn 0 is for ann; it was given bob"):
        world.step({"bob": SAY})
    with pytest.raises(UsageError, match="it was given nothing"):
        world.step({})
    run(world, LEAVE)
    with pytest.raises(UsageError, match="the episode is over"):
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
