"""Schemas that show an episode in several views: up to a turn, up to the reply to it, or without it.

    direct-online      G·A_t          importance A_t without hindsight, from the episode up to and including the
                                      utterance; the judge is not told the score G, which is not known at that time
    goal-progress      P_t − P_(t−1)  how far the agent has got after each of its utterances, on any dimension; P_(−1)
                                      is judged from the setting alone, so that an agent's first utterance counts too,
                                      and its rewards add up to all of its progress
    utterance-quality  Q_t            how well the utterance serves its speaker, from the history up to and including it
    only-response      Q_t            the same, but also from the reply: what the others did until the agent acted
                                      again, and nothing later
    leave-one-out      S − S_(−t)     what the utterance was worth: the judge scores the whole episode (S), and the
                                      episode without the utterance, not knowing that anything was left out

G counts in direct-online alone. Both scores of leave-one-out are the judge's, so its leniency cancels out. The
counterfactual is naive: the others' words stay as they were, although they answered the utterance that is left out.
Source of all but leave-one-out: Sotopia-RL (arXiv 2508.03905), the online context of its ablation and the attribution
methods that it compares. The differences are computed by rules (`sotopia_rl_data/rewards/rules.py`).

A view is some of the episode's turns, and gives some of the agents one number for each dimension; what is not in the
view is never shown. Answers are nested the same way in all these schemas: agent key -> dimension -> integer. One call
asks about one view: `per-dimension` about one agent and dimension, `packed` about all of them. Where it asks for one
number, the measure stands in place of the dimension (see `offline.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.labelers.schemas import answers, phrasing
from sotopia_rl_data.labelers.schemas.phrasing import NEWEST, Packing, Wording
from sotopia_rl_data.schema import Episode, Measure, Message, Turn

BASELINE = -1
"""The `turn` of a view that is about no particular utterance."""


@dataclass(frozen=True, slots=True)
class View:
    """For which agents and which turn it gives a number, and what is shown: the places of its turns among the
    episode's, in order."""

    agents: tuple[str, ...]
    turn: int
    places: Sequence[int]


Views = Callable[[Sequence[Turn], tuple[str, ...]], Iterator[View]]
"""The views of an episode: given its utterances in order, and the agents that are asked about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turnwise:
    """A schema that asks view by view. `task` and `question` name its wordings.

    The numbers are the levels 0..scale, or with `in_range` the whole numbers in the dimension's own range. With
    `levels`, the wording of the importance levels is filled in.
    """

    id: str
    rule: str
    measure: Measure
    task: str
    question: str
    views: Views
    levels: bool = False
    in_range: bool = False
    needs_score: bool = False
    version: int = 2
    needs_judge: bool = True
    wording: Wording = NEWEST

    def bounds(self, scale: int, dimension: str) -> tuple[float, float]:
        """The range of a raw attribution: 0 to `scale`, or the dimension's own."""
        allowed = self.allowed(scale, dimension)
        return float(allowed[0]), float(allowed[-1])

    def allowed(self, scale: int, dimension: str) -> range:
        """The numbers that may be given on this dimension."""
        return phrasing.whole_numbers(dimension) if self.in_range else range(scale + 1)

    def values(self, scale: int) -> dict[str, object]:
        """What fills the placeholders of the task's wording."""
        levels = {"levels": phrasing.wording(phrasing.levels_wording(scale))} if self.levels else {}
        return {"scale": scale, **levels}

    def wording_sha256(self, scale: int = 3) -> str:
        """The hash of all wording files that go into a question. Raises UsageError where the scale has none."""
        # An unknown scale raises UsageError here, also where `levels` is False and its wording is not used.
        levels = phrasing.levels_wording(scale)
        used = [self.task, self.question, levels] if self.levels else [self.task, self.question]
        return phrasing.wordings_sha256([*used, *phrasing.shared(self.wording), phrasing.VIEW_HANDOVER])

    def questions(
        self, episode: Episode, dimensions: Sequence[str], evaluator: str | None, packing: Packing, scale: int
    ) -> Iterator[Question]:
        """See `Schema.questions`."""
        asked = self._asked_dimensions(episode, dimensions, evaluator)
        values, shown = self.values(scale), phrasing.ShownEpisode(episode, self.wording)
        for view in self.views(phrasing.in_turn(episode), tuple(asked)):
            text = shown.text([shown.turns[place] for place in view.places])
            shared = phrasing.shared_messages(self.task, text, values, phrasing.VIEW_HANDOVER, self.wording)
            pairs = [(agent, name) for agent in view.agents for name in asked[agent]]
            for group in phrasing.groups(pairs, packing):
                called = {name: name if packing == "packed" else self.measure for _, name in group}
                yield self._question(episode, view.turn, shared, group, called, scale)

    def read(self, question: Question, text: str) -> dict[Slot, float]:
        """The number of every slot. Raises BadAnswer where the text is not exactly what was asked for."""
        return answers.numbers(question, text)

    def _asked_dimensions(
        self, episode: Episode, dimensions: Sequence[str], evaluator: str | None
    ) -> dict[str, list[str]]:
        """For each acting agent the dimensions to ask about: those with a score, or all where no score is needed."""
        if self.needs_score:
            scores = phrasing.known_scores(episode, dimensions, evaluator)
            return phrasing.by_agent((score.agent, score.dimension) for score in scores)
        acting = {turn.agent for turn in episode.turns}
        return {agent.agent: list(dimensions) for agent in episode.agents if agent.agent in acting}

    def _question(
        self,
        episode: Episode,
        turn: int,
        shared: Sequence[Message],
        pairs: Sequence[tuple[str, str]],
        called: dict[str, str],
        scale: int,
    ) -> Question:
        """One call about the (agent, dimension) `pairs`. `called` is the name of each dimension in the answer."""
        keys = phrasing.agent_keys(episode)
        grouped = phrasing.by_agent(pairs)
        tail = phrasing.fill(
            self.question,
            turn=phrasing.turn_key(turn),
            agent=" and ".join(phrasing.called(episode, agent, self.wording) for agent in grouped),
            dimensions="\n".join(f"- {keys[agent]}: {self._described(name, scale)}" for agent, name in pairs),
            form=_form({keys[agent]: [called[name] for name in names] for agent, names in grouped.items()}),
            scale=scale,
        )
        numbers = {name: answers.one_of(self.allowed(scale, name)) for name in called}
        return Question(
            schema=self.id,
            episode=episode,
            messages=[*shared, {"role": "user", "content": tail}],
            answer_schema=answers.of_keys(
                {
                    keys[agent]: answers.of_keys({called[name]: numbers[name] for name in names})
                    for agent, names in grouped.items()
                }
            ),
            slots={(keys[agent], called[name]): Slot(agent, turn, name) for agent, name in pairs},
            scale=scale,
            cache_until=len(shared),
            measure=self.measure,
        )

    def _described(self, name: str, scale: int) -> str:
        allowed = self.allowed(scale, name)
        return f"{name}, {allowed[0]} to {allowed[-1]}" if self.in_range else name


def _form(grouped: dict[str, list[str]]) -> str:
    parts = (f'"{key}": {{' + ", ".join(f'"{name}": NUMBER' for name in names) + "}" for key, names in grouped.items())
    return "{" + ", ".join(parts) + "}"


# --- views ------------------------------------------------------------------------------------------------------------


def prefixes(turns: Sequence[Turn], agents: tuple[str, ...]) -> Iterator[View]:
    """For each utterance of these agents, the episode up to and including it."""
    for place, turn in enumerate(turns):
        if turn.agent in agents:
            yield View((turn.agent,), turn.turn, range(place + 1))


def prefixes_from_nothing(turns: Sequence[Turn], agents: tuple[str, ...]) -> Iterator[View]:
    """No turn yet, for all agents; then for each utterance the episode up to and including it."""
    if agents:
        yield View(agents, BASELINE, ())
    yield from prefixes(turns, agents)


def with_reply(turns: Sequence[Turn], agents: tuple[str, ...]) -> Iterator[View]:
    """For each utterance of these agents, the episode up to the agent's next one, not including that."""
    for place, turn in enumerate(turns):
        if turn.agent in agents:
            later = range(place + 1, len(turns))
            end = next((i for i in later if turns[i].agent == turn.agent), len(turns))
            yield View((turn.agent,), turn.turn, range(end))


def without_each(turns: Sequence[Turn], agents: tuple[str, ...]) -> Iterator[View]:
    """The whole episode, for all agents; then for each utterance the episode without it, for its speaker."""
    if agents:
        yield View(agents, BASELINE, range(len(turns)))
    for place, turn in enumerate(turns):
        if turn.agent in agents:
            yield View((turn.agent,), turn.turn, (*range(place), *range(place + 1, len(turns))))


def whole(turns: Sequence[Turn], agents: tuple[str, ...]) -> Iterator[View]:
    """For each utterance of these agents, the whole episode."""
    for turn in turns:
        if turn.agent in agents:
            yield View((turn.agent,), turn.turn, range(len(turns)))


# --- the schemas ------------------------------------------------------------------------------------------------------

DIRECT_ONLINE = Turnwise(
    id="direct-online",
    rule="direct",
    measure="importance",
    task="online.v1",
    question="online.question.v1",
    views=prefixes,
    levels=True,
    needs_score=True,
)
GOAL_PROGRESS = Turnwise(
    id="goal-progress",
    rule="progress",
    measure="progress",
    task="progress.v1",
    question="progress.question.v1",
    views=prefixes_from_nothing,
)
UTTERANCE_QUALITY = Turnwise(
    id="utterance-quality",
    rule="quality",
    measure="quality",
    task="quality.v1",
    question="quality.question.v1",
    views=prefixes,
)
ONLY_RESPONSE = Turnwise(
    id="only-response",
    rule="quality",
    measure="quality",
    task="response.v1",
    question="response.question.v1",
    views=with_reply,
)
LEAVE_ONE_OUT = Turnwise(
    id="leave-one-out",
    rule="counterfactual",
    measure="episode_score",
    task="score.v1",
    question="score.question.v1",
    views=without_each,
    in_range=True,
)
