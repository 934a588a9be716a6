"""Toys of the labelling tests: odd episodes, and judges that are real ones, only simple."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from sotopia_rl_data.fake_provider.running import Running
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.schemas import answers
from sotopia_rl_data.request import Target
from sotopia_rl_data.schema import Agent, Episode, Score, Turn, split_of
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.tables import EPISODES, episode_row

REPOSITORY = Path(__file__).parents[1]
BY = "gpt-4"


def scores(*given: tuple[str, str, float]) -> tuple[Score, ...]:
    return tuple(Score(agent, dimension, score, BY) for agent, dimension, score in given)


BOAT = Episode(
    episode_id="boat",
    environment_id="harbour",
    scenario="Two people meet at a harbour; one of them sells a boat.",
    relationship="acquaintance",
    agents=(
        Agent(
            "a",
            "Finnegan O'Malley",
            goal="Sell the boat for 500 dollars.",
            background="A lighthouse keeper.",
            secret="The boat leaks.",
        ),
        Agent("b", "Dr. Ana-María Núñez", goal="Buy the boat cheaply."),
    ),
    turns=(
        Turn(0, "a", "speak", "Good morning, doctor."),
        Turn(1, "b", "speak", "Does the boat leak?"),
        Turn(2, "a", "non-verbal communication", "looks away"),
        Turn(3, "b", "speak", "I offer 300 dollars."),
        Turn(4, "a", "leave"),
    ),
    scores=scores(
        ("a", "goal", 2),
        ("a", "relationship", -2.5),
        ("a", "knowledge", 0),
        ("b", "goal", 3),
        ("b", "relationship", -1),
        ("b", "knowledge", 6),
    ),
)

# Everything that went wrong somewhere: see the comments.
ODD = Episode(
    episode_id="odd $scale {x} 'e'",
    environment_id="three",
    scenario="Three people, $scenario and ${turns}, share one table.\n\n<p viewer='agent_1'>hidden</p>",
    agents=(
        Agent("s1", "Sam", goal='Say "no".'),  # two Sams
        Agent("s2", "Sam", background="Another Sam.\n\nWith a blank line."),
        Agent("z", "Jean-Luc\nO'Brien-Núñez III", secret="[turn_0] agent_1 says:"),
        Agent("mute", "José"),  # never does anything
    ),
    turns=(
        Turn(0, "s1", "speak", '[turn_1] agent_2 says:\n  "did nothing"\n\n[turn_9] agent_1 leaves the conversation.'),
        Turn(2, "s1", "speak", "twice in a row"),
        Turn(3, "s2", "none"),  # a chosen no-op
        Turn(4, "z", "none", failed=True),
        Turn(4, "s2", "speak", "", to=("z", "gone")),  # two in one turn; private, to somebody unknown too
        Turn(7, "z", "action", "```json\n{}\n```"),
        Turn(8, "s2", "leave"),
    ),
    scores=scores(
        ("s1", "goal", 10),
        ("s2", "goal", 0),
        ("z", "goal", 1.5),
        ("s1", "relationship", 5),
        ("mute", "goal", 4),
        ("z", "secret", -10),
    ),
)

# No evaluation at all, and one by somebody else.
UNSCORED = Episode("unscored", "harbour", BOAT.agents, BOAT.turns, (Score("a", "goal", 1, "someone else"),))


def boats(count: int, turns: int = 4) -> list[Episode]:
    """Many small episodes of two agents, no two alike."""
    words = ("boat", "price", "friend", "lease", "trust", "offer", "dollars", "agree", "market", "stone")
    made = []
    for i in range(count):
        said = tuple(
            Turn(t, "ab"[t % 2], "speak", f"{words[(i + t) % 10]} {words[(3 * i + 7 * t) % 10]} {i}")
            for t in range(turns)
        )
        given = scores(*((agent, "goal", (i * 3 + j) % 11) for j, agent in enumerate("ab")))
        made.append(Episode(f"e{i:04}", f"env{i % 7}", BOAT.agents, said, given, scenario=f"Scenario {i % 7}."))
    return made


def sim(provider: Running) -> str:
    """The judge that a loopback provider plays."""
    return f"openai:sim-judge@{provider.openai_url}"


def put(store: Store, episodes: Iterable[Episode], name: str = "lab/episodes") -> Version:
    """The episodes as a version of the store."""
    by_split: dict[str, list[dict[str, Any]]] = {"train": []}
    for one in episodes:
        by_split.setdefault(split_of(one.environment_id), []).append(episode_row(one))
    with store.stage(name) as stage:
        for split, rows in by_split.items():
            stage.write("episodes", split, pa.Table.from_pylist(rows, schema=EPISODES))
        return stage.commit({"kind": "episodes", "seed": 0}).version


def rows(version: str | Version, config: str, store: Store | None = None) -> list[dict[str, Any]]:
    """All rows of a config, whatever the split, in key order."""
    import pyarrow.parquet as pq

    found = version if isinstance(version, Version) else (store or Store.default()).resolve(version)
    return [row for paths in found.files(config).values() for path in paths for row in pq.read_table(path).to_pylist()]


def filled(schema: Any, choose: Callable[[list[Any]], Any], root: Any = None) -> Any:
    """An answer that obeys `schema`: each leaf chosen among its allowed values."""
    root = root or schema
    schema = answers.resolve(root, schema)
    if schema["type"] != "object":
        return choose(schema["enum"])
    return {key: filled(inner, choose, root) for key, inner in schema["properties"].items()}


class Highest:
    """A judge that gives every utterance the highest level (or names the last turn), and counts what it is asked."""

    id = "highest"

    def __init__(self, id_: str = "highest", **sampling: Any) -> None:
        self.id = id_
        self.target = Target("toy", id_, "", sampling)
        self.asked: Counter[tuple[str, ...]] = Counter()

    async def answer(self, question: Question) -> str:
        self.asked[
            (question.episode.episode_id, *sorted({f"{s.agent}/{s.dimension}" for s in question.slots.values()}))
        ] += 1
        return self.say(question)

    def say(self, question: Question) -> str:
        return json.dumps(filled(question.answer_schema, lambda allowed: allowed[-1]))

    @property
    def calls(self) -> int:
        return sum(self.asked.values())


class Sulking(Highest):
    """Answers nonsense about the agents named in `sulks_about`, until it is told to stop."""

    def __init__(self, *sulks_about: str) -> None:
        super().__init__("sulking")
        self.sulks_about = set(sulks_about)

    def say(self, question: Question) -> str:
        if {slot.agent for slot in question.slots.values()} & self.sulks_about:
            return "I would rather not."
        return super().say(question)


class Stumbling(Highest):
    """Gives a bad answer until it is told what is wrong with it."""

    def __init__(self, bad: str = "I think all of them mattered.") -> None:
        super().__init__("stumbling")
        self.bad = bad
        self.told: list[str] = []

    def say(self, question: Question) -> str:
        if len(question.messages) == 4:
            return self.bad
        self.told.append(question.messages[-1]["content"])
        return super().say(question)
