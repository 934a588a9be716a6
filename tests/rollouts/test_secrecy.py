"""What only the partner may see never enters an agent's prompt except by having been said: markers tell."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sotopia_rl_data.importers.profiles import RELATIONSHIPS
from sotopia_rl_data.prompts.template import Template, parse_template
from sotopia_rl_data.rollouts import DIALECTS, Action, Environment, Person, Scene, World, bundled, read_profiles
from sotopia_rl_data.schema import Message

AS_SERVED = parse_template(
    """
format: sotopia-rl-data template 1
observations: recorded
joiner: "\\n"
variants:
- messages: [{role: user, content: "{agent} {partner} {goal} {observations} {turn} {actions} {schema}"}]
""",
    "as-served",
)
LAYOUTS: Sequence[tuple[str, Template | None]] = (("single", None), ("chat", None), ("single", AS_SERVED))
MARKER = re.compile(r"MARK-\d+-")


class Planted:
    """A scene with a marker in every text that is not everybody's; `may` says who may read each."""

    def __init__(self, scene: Scene, dialect: str) -> None:
        self.may: dict[str, set[str]] = {}
        closeness = RELATIONSHIPS.index(scene.environment.relationship) if dialect == "legacy" else 0
        ids = scene.agents
        people = tuple(self._person(one, place, closeness, ids) for place, one in enumerate(scene.people))
        goals = tuple(
            f"{goal} {self.mark(ids[i])} <extra_info>{self.mark(ids[i])}<clarification_hint>{self.mark(ids[i])}"
            f"</clarification_hint></extra_info><p viewer='agent_{(i + 1) % len(ids)}'>{self.mark()}</p>"
            for i, goal in enumerate(scene.environment.goals)
        )
        hidden = [f'<p viewer="agent_{i}">{self.mark(one)}</p>' for i, one in enumerate(ids)]
        hidden += [f"<extra_info viewer='agent_{i}'><p>{self.mark(one)}</p></extra_info>" for i, one in enumerate(ids)]
        hidden += [f'<p viewer="environment">{self.mark()}</p>', f"<p viewer='agent_0, agent_1'>{self.mark()}</p>"]
        scenario = f"{scene.environment.scenario} {self.mark(*ids)} {''.join(hidden)}"
        self.scene = Scene(replace(scene.environment, scenario=scenario, goals=goals), people)

    def mark(self, *may: str) -> str:
        """A new marker for these agents."""
        marker = f"MARK-{len(self.may)}-"
        self.may[marker] = set(may)
        return marker

    def _person(self, person: Person, place: int, closeness: int, ids: Sequence[str]) -> Person:
        own = f"<p viewer='agent_{place}'>{self.mark(person.agent)}</p>"
        return replace(
            person,
            introduction=f"{person.introduction} {self.mark(*(ids if closeness > 1 else [person.agent]))}{own}",
            personality=f"{person.personality} {self.mark(*(ids if closeness > 2 else [person.agent]))}",
            secret=f"{person.secret} {self.mark(person.agent)}",
        )


def text(messages: Sequence[Message]) -> str:
    return "\n".join(message["content"] for message in messages)


def check(world: World, may: Mapping[str, set[str]]) -> int:
    """Every agent's prompt now, in every layout: no marker that is not its own. Returns how many were read."""
    read = 0
    for layout, template in LAYOUTS:
        for agent in world.scene.agents:
            found = set(MARKER.findall(text(world.prompt(agent, layout, template))))
            assert {marker for marker in found if agent not in may[marker]} == set()
            read += len(found)
    return read


def told(world: World, planted: Planted) -> None:
    """Two turns: what is said to all is everybody's from then on; a span for a viewer is the viewer's."""
    first, second = world.scene.agents[:2]
    public, span = planted.mark(first), planted.mark(first)
    secret = next(iter(MARKER.findall(world.scene.people[0].secret)))
    world.step({first: Action("speak", f"{public} <p viewer='agent_1'>{span}</p> {secret}")})
    planted.may[public] = planted.may[secret] = set(world.scene.agents)
    planted.may[span] = {first, second}
    read = check(world, planted.may)
    assert {public, span, secret} <= set(MARKER.findall(text(world.prompt(second))))
    world.step({second: Action("leave")})
    assert check(world, planted.may) == read


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
def test_over_all_pairs_of_the_profiles_no_prompt_holds_what_only_the_partner_may_see(recordings, dialect):
    pairs = 0
    for scene in read_profiles(recordings.profiles).scenes():
        planted = Planted(scene, dialect)
        world = World(planted.scene, dialect)
        own = {agent: {marker for marker, may in planted.may.items() if agent in may} for agent in planted.scene.agents}
        for agent in planted.scene.agents:  # and all that is its own is there
            assert set(MARKER.findall(text(world.prompt(agent)))) == own[agent]
        check(world, planted.may)
        told(world, planted)
        pairs += 1
    assert pairs == {"own": 16, "large": 450}[recordings.name]


# --- more than two, whispering -------------------------------------------------------------------------------------

CAST = [person for scene in bundled() for person in scene.people]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["none", "speak", "non-verbal communication", "action", "leave"]),
        st.sets(st.integers(0, 3)),
        st.integers(-1, 4),
    ),
    max_size=8,
)


def crowd(size: int, relationship: str) -> Scene:
    goals = tuple(f"Outlast number {(i + 1) % size}." for i in range(size))
    return Scene(Environment("crowd", "A lift between two floors.", goals, "", relationship), tuple(CAST[:size]))


def act(planted: Planted, agent: str, dialect: str, action_type: str, to: set[int], viewer: int) -> Action:
    """An action with a marker in it, for all or for those it is private to, and one in a span for one viewer."""
    ids = planted.scene.agents
    others = tuple(one for i, one in enumerate(ids) if i in to and one != agent)
    sees = {agent, *others} if others and dialect == "head" else set(ids)
    if action_type in ("none", "leave"):
        return Action(action_type, to=others)
    span = ""
    if viewer >= 0:
        may = {one for i, one in enumerate(ids) if i == viewer} & sees
        span = f" <p viewer='agent_{viewer}'>{planted.mark(agent, *may)}</p>"
    return Action(action_type, f"{planted.mark(*sees)}{span}", others)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(2, 4),
    relationship=st.sampled_from(RELATIONSHIPS),
    dialect=st.sampled_from(DIALECTS),
    order=st.sampled_from(["round-robin", "random", "simultaneous"]),
    steps=STEPS,
)
def test_whatever_is_said_and_whispered_nobody_reads_more_than_is_for_them(size, relationship, dialect, order, steps):
    size = 2 if dialect == "legacy" else size
    planted = Planted(crowd(size, relationship), dialect)
    world = World(planted.scene, dialect, order=order, max_stale=100)
    check(world, planted.may)
    for action_type, to, viewer in steps:
        if world.done:
            break
        world.step({agent: act(planted, agent, dialect, action_type, to, viewer) for agent in world.acting})
        check(world, planted.may)


def test_a_whisper_is_seen_by_the_one_who_whispers_and_those_it_is_for():
    scene = crowd(3, "friend")
    first, second, third = scene.agents
    world = World(scene, "head")
    world.step(
        {first: world.read(first, json.dumps({"action_type": "speak", "argument": "psst", "to": [CAST[1].name]}))}
    )
    seen = {receiver: said for _, receiver, said in world.messages()[1]}
    whisper = f"Turn #0: {CAST[0].name} [private to ['{CAST[1].name}']]  said: \"psst\"\n"
    assert list(seen.values()) == [whisper, whisper, "Turn #0: \n"]
    assert "psst" not in text(world.prompt(third))
    assert "psst" in text(world.prompt(second, "chat"))
    assert world.episode("e").turns[0].to == (second,)


def test_in_the_older_dialects_nothing_is_private():
    scene = crowd(3, "friend")
    world = World(scene, "0.1.5")
    world.step({scene.agents[0]: Action("speak", "psst", (scene.agents[1],))})
    assert {said for _, _, said in world.messages()[1]} == {f'Turn #0: {CAST[0].name} said: "psst"\n'}
    assert world.episode("e").turns[0].to == ()
