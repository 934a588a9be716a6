"""The rewards of completions by judges: what `label` would ask about an utterance that nothing follows yet.

A completion is the last utterance of an episode: of one that is played now, or of the dialogue that its prompt shows.
The judges are asked the schema's questions about that utterance, through the ledger; the schema's rule makes of each
answer a number, opinions are averaged, and dimensions weighed, as in `label`. Nothing is normalised, since nothing is
fitted: with `utterance-quality` a reward is from 0 to 1. A schema that divides the score of an episode cannot be used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from sotopia_rl_data.asking.together import Spending
from sotopia_rl_data.errors import BadAnswer, BudgetSpent, InputError, UsageError
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.plan import Elicitation, LabelPlan, RewardSettings, prepare
from sotopia_rl_data.labelers.questions import LabelTally, QuestionPart, Questions
from sotopia_rl_data.rewards.normalise import average, reward
from sotopia_rl_data.rewards.rules import Turns, rule
from sotopia_rl_data.rollouts.actions import read_action
from sotopia_rl_data.schema import Agent, Attribution, Episode, Message, Turn
from sotopia_rl_data.serve.sources import Dialogue, Scores
from sotopia_rl_data.thoughts import without_thought

DEFAULT_SCHEMA = "utterance-quality"
_BASELINE = -1
_SPEAKER, _PARTNER = "agent", "partner"


class JudgeRewards:
    """Judges as the source of rewards; for one thread at a time.

    `asked` says what is asked of which judges (default schema: `utterance-quality`), `settings` what is made of their
    answers, `spending` how and from which budget they are asked; `close` closes it. Raises UsageError, KeyMissing.
    """

    batch = 64  # each waits for the slowest answer

    def __init__(self, asked: Elicitation, settings: RewardSettings, spending: Spending) -> None:
        plan, self._recipe = prepare(replace(asked, schema=asked.schema or DEFAULT_SCHEMA), settings)
        self._rule = rule(self._recipe.rule).over([plan.schema.measure])
        if self._rule.reads_score or not plan.judges:
            raise UsageError(
                f"The schema {plan.schema.id!r} divides the score of an episode that has ended; a completion has none.",
                f"serve a judge with --schema {DEFAULT_SCHEMA}, or with a rubric of your own",
            )
        spending.check(Questions(QuestionPart(plan, lambda: ())).judges)
        self._plan = _CompletionPlan(**{one.name: getattr(plan, one.name) for one in fields(plan)})
        self.spending = spending
        self.identity = f"{plan.schema.id} by {', '.join(judge.id for judge in plan.judges)}"
        self.targets = plan.dimensions

    def score(self, dialogues: Sequence[Dialogue]) -> Scores:
        """See `RewardSource.score`."""
        return self.of_last_turns([_episode_of(dialogue) for dialogue in dialogues])

    def of_last_turns(self, episodes: Sequence[Episode]) -> Scores:
        """[N, K] rewards by dimension of the last utterance of each episode, of which no more than that is known; NaN
        where an answer that is needed cannot be used. Raises AskingError where a judge cannot be asked."""
        questions = Questions(QuestionPart(self._plan, lambda: episodes))
        self._ask(questions)
        rows = questions.rows(self.spending.ledger, LabelTally())
        return np.array([self._rewards(episode, labels) for episode, (labels, _) in zip(episodes, rows, strict=True)])

    def aggregate(self, scores: Scores) -> Scores:
        """See `RewardSource.aggregate`."""
        return reward(self._recipe.weights, dict(zip(self.targets, scores.T, strict=True)))

    def close(self) -> None:
        """Close the ledger."""
        self.spending.close()

    def _ask(self, questions: Questions) -> None:
        """Ask what the ledger does not answer, within what is left of the budget."""
        try:
            self.spending.ask(questions)
        except BudgetSpent as error:
            cap = self.spending.options.budget
            hint = "raise --budget and start the server again: what was answered is kept"
            raise BudgetSpent(f"Nothing more fits under the server's budget of {cap:g} USD.", hint) from error

    def _rewards(self, episode: Episode, labels: Sequence[Attribution]) -> list[float]:
        """The rewards of an episode's last utterance, by dimension."""
        last = episode.turns[-1]
        mine = [row for row in labels if row.agent == last.agent]  # a packed question is about its partner too
        known = {(row.judge, row.sample, row.dimension, row.turn): _share(row) for row in mine}
        own = [turn.turn for turn in episode.turns if turn.agent == last.agent]
        turns = Turns.of(np.arange(len(own)) == 0)
        rewards = []
        for name in self.targets:
            opinions = []
            for judge in self._plan.judges:
                for sample in range(self._plan.samples):
                    asked = (judge.id, sample, name)
                    shares = np.array([known.get((*asked, turn), math.nan) for turn in own])
                    baseline = np.full(len(own), known.get((*asked, _BASELINE), math.nan))
                    opinions.append(self._rule.value(shares, baseline, turns, self._recipe.gamma)[-1:])
            rewards.append(float(average(self._recipe.average, np.array(opinions))[0]))
        return rewards


@dataclass(frozen=True, slots=True)
class _CompletionPlan(LabelPlan):
    """A plan that asks about the last utterance of an episode alone, with the second number where a label is the
    difference of two."""

    def questions(self, episode: Episode) -> Iterator[Question]:
        """The questions about the last utterance."""
        wanted = self._wanted(episode)
        every = LabelPlan.questions(self, episode)
        return (question for question in every if any((s.agent, s.turn) in wanted for s in question.slots.values()))

    def _wanted(self, episode: Episode) -> set[tuple[str, int]]:
        last = episode.turns[-1]
        wanted = {(last.agent, last.turn)}
        if self.schema.measure == "progress":
            before = [turn.turn for turn in episode.turns[:-1] if turn.agent == last.agent]
            wanted.add((last.agent, before[-1] if before else _BASELINE))
        elif self.schema.measure == "episode_score":
            wanted.add((last.agent, _BASELINE))
        return wanted


def _share(row: Attribution) -> float:
    """A raw number as a part of its scale."""
    return (row.raw - row.scale_min) / (row.scale_max - row.scale_min)


def _episode_of(dialogue: Dialogue) -> Episode:
    """The dialogue that a prompt shows, with its completion as the last utterance: what the agent was shown first is
    the scenario, further messages to it are its partner's utterances. Raises InputError."""
    if isinstance(dialogue, str):
        raise InputError(
            "A judge reads no text that is rendered in a model's chat template.",
            "send prompts and completions to /score",
        )
    prompt, completion = (_messages(part, role) for part, role in zip(dialogue, ("user", "assistant"), strict=True))
    opening = next((place + 1 for place, message in enumerate(prompt) if message["role"] == "user"), len(prompt))
    said = "\n".join(message["content"] for message in completion)
    turns = [_turn(place, message) for place, message in enumerate([*prompt[opening:], _assistant(said)])]
    return Episode(
        episode_id="asked",
        environment_id="asked",
        agents=(Agent(_SPEAKER, "Agent"), Agent(_PARTNER, "Partner")),
        turns=tuple(turns),
        scenario="\n\n".join(message["content"] for message in prompt[:opening]),
    )


def _messages(part: str | Sequence[Message], role: str) -> list[Message]:
    if not isinstance(part, str):
        return list(part)
    return [_assistant(part) if role == "assistant" else {"role": "user", "content": part}]


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _turn(place: int, message: Message) -> Turn:
    """What a message says or does: the agent's may be an action in JSON, after a thought."""
    if message["role"] != "assistant":
        return Turn(place, _PARTNER, "speak", message["content"])
    try:
        action = read_action(message["content"])
        return Turn(place, _SPEAKER, action.action_type, action.text)
    except BadAnswer:
        pass
    try:
        return Turn(place, _SPEAKER, "speak", without_thought(message["content"]))
    except BadAnswer:  # a thought without an end: nothing was said
        return Turn(place, _SPEAKER, "none")
