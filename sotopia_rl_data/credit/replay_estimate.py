"""What `label --schema counterfactual` and `--schema shapley` would ask and cost, before any model is asked.

How long plays go on is not known: each is taken to last as long as the dialogue did, and `most_calls` says how many
calls there would be if every play went to its turn limit. Plays that begin alike send the same requests, so those of
Shapley values are counted by what the agent has said so far.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sotopia_rl_data.asking.estimate import Estimate
from sotopia_rl_data.asking.keys import without_api_keys
from sotopia_rl_data.asking.plan import AskOptions, Respondent
from sotopia_rl_data.costs.tokens import prompt_tokens
from sotopia_rl_data.credit.branching import Juncture, ReplaySettings
from sotopia_rl_data.credit.coalitions import ShapleySettings, by_agent
from sotopia_rl_data.credit.crediting import chosen_turns
from sotopia_rl_data.labelers.plan import Elicitation, judges_of
from sotopia_rl_data.labelers.requests import asked_judges
from sotopia_rl_data.labelers.selection import Selection, episodes_version
from sotopia_rl_data.ledger.attempt import Attempt
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.request import Request
from sotopia_rl_data.rollouts.episode_run import EpisodeRun, TurnRequest
from sotopia_rl_data.rollouts.estimate import ACTION, line_of
from sotopia_rl_data.rollouts.rollout import replay
from sotopia_rl_data.store import Store

_SCORES = 150
"""Tokens of a judge's scores, roughly."""
_RUBRIC = 1_000
"""Tokens of what a judge is told besides the dialogue, roughly."""


@dataclass(frozen=True, slots=True)
class ReplayEstimate(Estimate):
    """Adds: how many `turns` would be re-played by how many `plays`, how many are `left_out` since they come after the
    dialogue's end, and the `most_calls` if each play goes to its limit."""

    turns: int
    left_out: int
    plays: int
    most_calls: int

    @property
    def episodes(self) -> int:
        """The episodes that are played: the plays."""
        return self.plays

    @property
    def sentences(self) -> tuple[str, ...]:
        """What is said above the table."""
        told = f"To be re-played: {self.turns:,} of the turns, by {self.plays:,} plays as long as the dialogue was."
        if self.left_out:
            return (told, f"{self.left_out:,} turns come after the dialogue's end, and are left out.")
        return (told,)

    def as_dict(self) -> dict[str, Any]:
        """The estimate as JSON holds it."""
        own = {name: getattr(self, name) for name in ("turns", "left_out", "plays", "most_calls")}
        return Estimate.as_dict(self) | own


def estimate_replaying(
    store: Store,
    source: str | Path | None,
    settings: ReplaySettings | ShapleySettings,
    judged: Elicitation,
    *,
    only: Selection | None = None,
    options: AskOptions,
) -> ReplayEstimate:
    """What `label_by_replaying` would ask with the same arguments. Sends no request."""
    prices = options.price_list()
    with without_api_keys():
        judges = judges_of(judged.judges, judged.sampling)
    respondents: Sequence[Respondent] = [*settings.players, *asked_judges(judges)]
    first_judge = len(settings.players)
    parent = episodes_version(store, source, lambda scored: None)
    with Ledger(options.ledger_in(store)) as ledger:
        chosen, left_out = chosen_turns(parent, only, settings)
        if isinstance(settings, ShapleySettings):
            counts = _of_orders(chosen, settings, ledger)
        else:
            counts = _of_draws(chosen, settings, ledger)
    inputs = [*counts.players, *(counts.ends for _ in respondents[first_judge:])]
    lines = tuple(
        line_of(
            one, prices, 0 if place else counts.hits, inputs[place], output=_SCORES if place >= first_judge else ACTION
        )
        for place, one in enumerate(respondents)
    )
    most = counts.most + counts.plays * (len(respondents) - first_judge)
    return ReplayEstimate(prices.as_of, lines, len(chosen), left_out, counts.plays, most)


@dataclass(slots=True)
class _Counts:
    """Calls by their input tokens: of each of the `players` (by place, since a policy and a judge may be the same
    model, under one id), and of a judge of the `ends`. `hits` of the first player's are in the ledger."""

    players: list[Counter[int]]
    ends: Counter[int] = field(default_factory=Counter)
    hits: int = 0
    plays: int = 0
    most: int = 0


def _of_draws(chosen: Sequence[Juncture], settings: ReplaySettings, ledger: Ledger) -> _Counts:
    counts = _Counts([Counter() for _ in settings.players])
    policy, partner = counts.players[0], counts.players[-1]
    each = 2 * settings.alternatives * settings.rollouts
    for turn in chosen:
        requests = [EpisodeRun(turn.draw(settings, k), settings.rules).first() for k in range(settings.alternatives)]
        tokens = prompt_tokens(requests[0])
        known = sum(_is_known(ledger, request) for request in requests)
        counts.hits += known
        policy[tokens] += settings.alternatives - known
        for t in range(turn.turn + 1, turn.lasted):
            own = turn.scene.agents[t % len(turn.scene.agents)] == turn.agent
            (policy if own else partner)[tokens + ACTION * (t - turn.turn)] += each
        counts.ends[tokens + _RUBRIC] += each
        counts.plays += each
        counts.most += settings.alternatives - known + each * (settings.rules.turns - turn.turn - 1)
    return counts


def _of_orders(chosen: Sequence[Juncture], settings: ShapleySettings, ledger: Ledger) -> _Counts:
    counts = _Counts([Counter()])
    for agent in by_agent(chosen):
        scene, lasted = agent.turns[0].scene, agent.turns[0].lasted
        for sample in range(settings.samples):
            known, left = set[str](), dict[tuple[int, tuple[int, ...]], int]()
            for spec in agent.plays(settings, sample).values():
                run, said = EpisodeRun(spec, settings.rules), sorted(spec.planned[agent.turns[0].agent])
                request = None if run.world.done else replay(run, partial(_attempts, ledger, known))
                counts.plays += 1
                counts.ends[_RUBRIC + ACTION * lasted + (prompt_tokens(request) if request else 0)] += 1
                if request is None:
                    continue
                for t in range(run.world.turn, spec.until or lasted):
                    if scene.agents[t % len(scene.agents)] != agent.turns[0].agent:
                        before = tuple(turn for turn in said if turn < t)
                        left[t, before] = prompt_tokens(request) + ACTION * (t - run.world.turn)
            counts.hits += len(known)
            counts.players[0].update(tokens for (t, _), tokens in left.items() if t < lasted)
            counts.most += len(left)
    return counts


def _is_known(ledger: Ledger, request: Request) -> bool:
    return any(attempt.status == "answer" for attempt in ledger.attempts(request.key))


def _attempts(ledger: Ledger, known: set[str], request: TurnRequest) -> Sequence[Attempt]:
    """The attempts at a request, whose key is noted in `known` if it has an answer."""
    if _is_known(ledger, request):
        known.add(request.key)
    return ledger.attempts(request.key)
