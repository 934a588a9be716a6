"""`label --schema shapley`: dialogues played anew with some of an agent's turns, and what each turn adds."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fixtures.playing import Sampler, act

from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.credit.coalitions import ShapleySettings
from sotopia_rl_data.credit.crediting import ReplayReport, label_by_replaying
from sotopia_rl_data.credit.game import AGENTS, NEUTRAL, Game, State
from sotopia_rl_data.credit.playing import Played, played
from sotopia_rl_data.credit.replay_estimate import estimate_replaying
from sotopia_rl_data.credit.shapley import coalition_values, shapley_values
from sotopia_rl_data.credit.solved import Step, solved
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.plan import Elicitation, episodes_of
from sotopia_rl_data.labelers.schemas import answers
from sotopia_rl_data.labelers.selection import Selection
from sotopia_rl_data.request import Request
from sotopia_rl_data.rollouts.episode_run import TurnRequest
from sotopia_rl_data.schema import Agent, Episode, Turn
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.store.verify import verify
from sotopia_rl_data.tables import episode_table

NAMES = ("ann", "bob")
WORTH = {(): 1, ("gold",): 3, ("lead",): 4, ("gold", "lead"): 9}


class Goldsmith:
    """A judge that knows what Ann's words are worth together."""

    id = "goldsmith"

    async def answer(self, question: Question) -> str:
        score = self.score(list(question.episode.turns))
        return json.dumps(answers.compose(question.answer_schema, lambda schema, path: self.fill(schema, score)))

    def score(self, turns: Sequence[Turn]) -> int:
        return WORTH[tuple(turn.text for turn in turns if turn.agent == "ann" and turn.text)]

    def fill(self, schema: answers.Json, score: int) -> int | str:
        return score if "enum" in schema else "weighed"


def dialogue(store: Store, *said: str, name: str = "lab/e") -> Version:
    """One dialogue of Ann and Bob, who speak in turn; who says "leave" leaves, who says nothing does nothing."""
    agents = tuple(Agent(name, name.title(), goal="Talk.") for name in NAMES)
    kinds = {"leave": "leave", "": "none"}
    turns = tuple(
        Turn(t, NAMES[t % 2], kinds.get(text, "speak"), "" if text in kinds else text)  # type: ignore[arg-type]
        for t, text in enumerate(said)
    )
    episode = Episode("e", "mine", agents, turns, scenario="They dig.")
    with store.stage(name) as stage:
        stage.write("episodes", "train", episode_table([episode]))
        return stage.commit({"kind": "episodes"}).version


def shapley(
    store: Store, policy: Sampler, judge: Goldsmith, agent: str = "ann", *, samples: int = 3, turns: int | None = None
) -> ReplayReport:
    named = Selection(frozenset({("e", agent, None, None)}))
    settings = ShapleySettings(policy=policy, samples=samples, turns=turns)
    return label_by_replaying(store, "lab/e", settings, Elicitation(judges=[judge]), only=named)


def talking() -> Sampler:
    return Sampler("talking", lambda request: act(argument=f"Say on. ({request.sample})"))


def test_values_of_two_turns_are_exact_in_every_sample_and_add_up(tmp_path: Path):
    store, policy = Store(tmp_path), talking()
    dialogue(store, "gold", "Oh.", "lead", "Oh.")
    report = shapley(store, policy, Goldsmith())
    credits = {one.turn: one.estimate.credit for one in report.estimates}
    assert credits == {0: ((3 - 1) + (9 - 4)) / 2, 2: ((4 - 1) + (9 - 3)) / 2}  # the two orders of two turns
    assert sum(credits.values()) == 9 - 1  # v(all) − v(none)
    version = report.committed.version
    assert (version.name, report.turns, report.plays) == ("lab/e-shapley", 2, 3 * 4)
    assert verify(version).problems == ()
    (rows,) = (pq.read_table(path).to_pylist() for path in version.files("attributions")["train"])
    told = [(row["turn"], row["sample"], row["schema"], row["measure"], row["raw"]) for row in rows]
    assert told == [(t, s, "shapley", "step", 3.5 if t == 0 else 4.5) for t in (0, 2) for s in range(3)]


class Adder(Goldsmith):
    """It counts Ann's words, and makes little of two."""

    def score(self, turns: Sequence[Turn]) -> int:
        return (1, 4, 2, 9)[sum(turn.agent == "ann" and bool(turn.text) for turn in turns)]


def test_in_every_sample_the_values_add_up_to_what_all_turns_bring(tmp_path: Path):
    store = Store(tmp_path)
    dialogue(store, *["gold", "Oh."] * 3)
    report = shapley(store, talking(), Adder(), samples=5)
    (rows,) = (pq.read_table(path).to_pylist() for path in report.committed.version.files("attributions")["train"])
    for sample in range(5):
        values = sorted(row["raw"] for row in rows if row["sample"] == sample)
        assert values == [-2.0, 5.0, 5.0]  # who is in the middle in both orders, and who is first in one of them
        assert sum(values) == 9 - 1


def test_who_is_not_said_to_speak_does_nothing_and_the_others_are_drawn_anew_for_as_long_as_it_lasted(tmp_path: Path):
    store = Store(tmp_path)
    dialogue(store, "gold", "Oh.", "lead", "Oh.")
    report = shapley(store, talking(), Goldsmith(), samples=2)
    plays = [e for files in store.resolve(report.replays).files("episodes").values() for e in episodes_of(files)]
    told = {play.episode_id: [turn.text or turn.action_type for turn in play.turns] for play in plays}
    assert len(told) == report.plays == 2 * 4
    for name, said in told.items():
        bits = name.rpartition("-with-")[2]
        assert said[::2] == [word if bit == "1" else "none" for word, bit in zip(("gold", "lead"), bits, strict=True)]
        assert [text.startswith("Say on.") for text in said[1::2]] == [True, True]


def test_plays_that_begin_alike_ask_once_the_estimate_knows_it_and_nothing_is_asked_again(tmp_path: Path):
    store, policy = Store(tmp_path), talking()
    dialogue(store, "gold", "Oh.", "lead", "Oh.")
    settings = ShapleySettings(policy=policy, samples=3)
    judged, named = Elicitation(judges=[Goldsmith()]), Selection(frozenset({("e", "ann", None, None)}))

    def estimate() -> list[tuple[int, int]]:
        told = estimate_replaying(store, "lab/e", settings, judged, only=named, options=AskOptions())
        assert (told.turns, told.plays) == (2, 12)
        return [(line.hits, line.asked) for line in told.lines]

    asked = 3 * (2 + 4)  # a sample's four plays begin in two ways, and go on in four
    assert estimate() == [(0, asked), (0, 12)]
    report = shapley(store, policy, Goldsmith())
    assert len({request.key for request in policy.sent}) == len(policy.sent) == asked
    assert estimate()[0] == (asked, 0)
    again = shapley(store, policy, Goldsmith())
    assert (again.asked, again.created, again.digest) == (0, False, report.digest)


def test_where_there_are_too_few_turns_the_hint_is_more_of_them_since_no_turn_is_left_out_without_its_agent(
    tmp_path: Path,
):
    store = Store(tmp_path)
    dialogue(store, "gold", "Oh.", "lead", "Oh.")
    with pytest.raises(UsageError, match="it is over by then") as wrong:
        shapley(store, talking(), Goldsmith(), turns=2)
    assert wrong.value.hint == "give more --turns"


def test_silence_ends_no_play(tmp_path: Path):
    store = Store(tmp_path)
    dialogue(store, *[""] * 8)
    silent = Sampler("silent", lambda request: act("none", ""))
    report = shapley(store, silent, Goldsmith())
    plays = [e for files in store.resolve(report.replays).files("episodes").values() for e in episodes_of(files)]
    assert {len(play.turns) for play in plays} == {8}
    assert {one.estimate.credit for one in report.estimates} == {0.0}


class Hesitant(Goldsmith):
    """It cannot tell what lead alone is worth."""

    def fill(self, schema: answers.Json, score: int) -> int | str:
        return "?" if score == WORTH["lead",] else Goldsmith.fill(self, schema, score)


def test_of_a_sample_in_which_a_play_has_no_score_nothing_is_credited(tmp_path: Path):
    store = Store(tmp_path)
    dialogue(store, "gold", "Oh.", "lead", "Oh.")
    report = shapley(store, talking(), Hesitant(), samples=2)
    assert report.failures == {"not every play of its two orders has a score": 2 * 2}
    assert report.estimates == []


def test_turns_after_the_agent_left_are_left_out(tmp_path: Path):
    store = Store(tmp_path)
    dialogue(store, "gold", "Oh.", "leave", "Oh.", "lead")
    report = shapley(store, talking(), Goldsmith())
    assert (report.turns, report.left_out) == (2, 1)


def test_one_sample_is_refused():
    with pytest.raises(UsageError, match="give no interval"):
        ShapleySettings(policy=talking(), samples=1)


# --- against the truth of known games ---------------------------------------------------------------------------------


class Umpire(Goldsmith):
    """Plays the partner in a game by its policy, and judges by its scores. What chance does depends on the number of
    the play, which the partner says with each of its moves."""

    id = "umpire"

    def __init__(self, one: Played, agent: int) -> None:
        self.game: Game = one.game
        self.start, self.agent = one.said[0].state, agent

    def partner(self, request: Request) -> str:
        assert isinstance(request, TurnRequest)
        run = request.run
        number, turns = run.spec.repetition, run.episode().turns
        state = self.state(turns, number)
        if self.game.over(state):
            return act("leave", "")
        policy = self.game.policy(state, 1 - self.agent)
        (move,) = self.luck(number, len(turns), "move").choices(list(policy), list(policy.values()))
        return act("leave", "") if move == "leave" else act(argument=f"{move} {number}")

    def score(self, turns: Sequence[Turn]) -> int:
        number = next((int(t.text.split()[1]) for t in turns if t.agent != NAMES[self.agent] and t.text), 0)
        points = self.game.score(self.state(turns, number), self.agent)
        return int(points + self.luck(number, len(turns), "rounding").random())  # whole points, right on average

    def state(self, turns: Sequence[Turn], number: int) -> State:
        state = self.start
        for t, turn in enumerate(turns):
            if self.game.over(state):
                break
            wanted = turn.text.split()[0] if turn.text else turn.action_type
            move = wanted if wanted in self.game.legal(state, t % 2) else NEUTRAL
            came = self.game.outcomes(state, t % 2, move)
            (outcome,) = self.luck(number, t, "chance").choices(came, [one.probability for one in came])
            state = outcome.state
        return state

    def luck(self, *place: object) -> random.Random:
        return random.Random(repr(place))


@pytest.mark.slow
def test_estimates_through_the_ledger_come_to_the_truth_of_small_games(tmp_path: Path):
    small = [one for one in (played(number, 3) for number in range(60)) if len(one.said) > 2 and one.length <= 6][:3]
    far = []
    for number, one in enumerate(small):
        for agent in AGENTS:
            store, umpire = Store(tmp_path / f"{number}-{agent}"), Umpire(one, agent)
            dialogue(store, *(step.move for step in one.said))
            policy = Sampler("partner", umpire.partner)
            report = shapley(store, policy, umpire, NAMES[agent], samples=40, turns=one.length)
            said: Sequence[Step] = one.said
            truth = shapley_values(coalition_values(solved(one.game), said, agent, one.length))
            values = [estimate.estimate for estimate in report.estimates]
            assert len(values) == len(truth)
            far += [(value.credit - true) / value.error for value, true in zip(values, truth, strict=True)]
    assert max(map(abs, far)) < 4
    assert sum(x * x for x in far) / len(far) > 0.05  # the errors are not too wide to say anything
