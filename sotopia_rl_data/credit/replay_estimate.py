"""What `label --schema counterfactual` would ask and cost, before any model is asked.

Draws are counted exactly. How long plays go on is not known: each is taken to last as long as the dialogue did, and
`most_calls` says how many calls there would be if every play went to its turn limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotopia_rl_data.asking.estimate import Estimate
from sotopia_rl_data.asking.keys import without_api_keys
from sotopia_rl_data.asking.plan import AskOptions, Respondent
from sotopia_rl_data.costs.tokens import prompt_tokens
from sotopia_rl_data.credit.branching import ReplaySettings
from sotopia_rl_data.credit.counterfactual import chosen_turns
from sotopia_rl_data.labelers.plan import Elicitation, episodes_of, judges_of
from sotopia_rl_data.labelers.requests import asked_judges
from sotopia_rl_data.labelers.selection import Selection, episodes_version
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.rollouts.episode_run import EpisodeRun
from sotopia_rl_data.rollouts.estimate import ACTION, line_of
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
    settings: ReplaySettings,
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
    # By place among the respondents: a policy and a judge may be the same model, under one id.
    policy, partner, first_judge = 0, len(settings.players) - 1, len(settings.players)
    parent = episodes_version(store, source, lambda scored: None)
    lasted = {e.episode_id: len(e.turns) for files in parent.files("episodes").values() for e in episodes_of(files)}
    inputs: list[Counter[int]] = [Counter() for _ in respondents]
    hits = most = 0
    each = 2 * settings.alternatives * settings.rollouts
    with Ledger(options.ledger_in(store.root)) as ledger:
        chosen, left_out = chosen_turns(parent, only, settings)
        for turn in chosen:
            requests = [
                EpisodeRun(turn.draw(settings, k), settings.rules).first() for k in range(settings.alternatives)
            ]
            tokens = prompt_tokens(requests[0])
            known = sum(any(a.status == "answer" for a in ledger.attempts(request.key)) for request in requests)
            hits += known
            inputs[policy][tokens] += settings.alternatives - known
            for t in range(turn.turn + 1, lasted[turn.episode_id]):
                own = turn.scene.agents[t % len(turn.scene.agents)] == turn.agent
                inputs[policy if own else partner][tokens + ACTION * (t - turn.turn)] += each
            for judge in inputs[first_judge:]:
                judge[tokens + _RUBRIC] += each
            left = settings.rules.turns - turn.turn - 1
            most += settings.alternatives - known + each * (left + len(judges))
    lines = tuple(
        line_of(one, prices, 0 if place else hits, inputs[place], output=ACTION if place < first_judge else _SCORES)
        for place, one in enumerate(respondents)
    )
    return ReplayEstimate(prices.as_of, lines, len(chosen), left_out, len(chosen) * each, most)
