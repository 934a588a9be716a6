"""Episodes that are over, on their way into a version: turns, what was served, what was scored, what failed.

They end in any order; the stage puts rows into theirs. Scores are held until the end, for their range.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pyarrow as pa

from sotopia_rl_data import tables
from sotopia_rl_data.rollouts.episode_run import EpisodeRun
from sotopia_rl_data.schema import Attribution
from sotopia_rl_data.splits import split_of
from sotopia_rl_data.store.stage import Stage

BATCH = 64
SERVED = tables.rewards_schema([])


class Recording:
    """What a run has played so far. Bounded memory, but for the scores and one reason for each failure."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._waiting: dict[str, list[EpisodeRun]] = {}
        self._scores: dict[str, list[Attribution]] = {}  # by split
        self.episodes = self.utterances = self.failed_turns = self.abandoned = 0
        self.reasons: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()

    @property
    def first_reason(self) -> str:
        """Why an episode failed, the commonest."""
        return next((reason.rstrip(".") for reason, _ in self.reasons.most_common(1)), "none was asked for")

    def add(self, run: EpisodeRun) -> None:
        """Take an episode that is over."""
        split = split_of(run.spec.scene.environment.environment_id, 0)
        waiting = self._waiting.setdefault(split, [])
        waiting.append(run)
        self.reasons.update(failure.reason for failure in run.failures)
        if len(waiting) >= BATCH:
            self._flush(split)

    def finish(self) -> None:
        """Write what is left. Every config of the version is there then, if empty."""
        for split in list(self._waiting):
            self._flush(split)
        rewards = [score.raw for scores in self._scores.values() for score in scores]
        for split, scores in self._scores.items():
            low, high = min(rewards), max(rewards)
            scaled = [replace(score, scale_min=low, scale_max=high) for score in scores]
            self._stage.write("attributions", split, tables.attribution_table(scaled))
        self._stage.write("failures", "train", tables.FAILURES.empty_table())

    def provenance(self) -> dict[str, Any]:
        """What is worth knowing besides the recipe: counts, why episodes ended, what failed."""
        counts = {"episodes": self.episodes, "utterances": self.utterances, "failed_turns": self.failed_turns}
        return {
            "counts": counts | {"abandoned": self.abandoned},
            "ended": dict(sorted(self.ended.items())),
            "failures": dict(self.reasons.most_common(100)),
        }

    def _flush(self, split: str) -> None:
        """Write and count the episodes that wait for this split."""
        runs = self._waiting.pop(split)
        played = [run for run in runs if not run.abandoned]
        episodes = [run.episode() for run in played]
        failures = [failure for run in runs for failure in run.failures]
        if played:
            self._stage.write("episodes", split, tables.episode_table(episodes))
            self._stage.write("rewards", split, _served(played))
        if failures:
            self._stage.write("failures", split, tables.failure_table(failures))
        scores = [score for run in played for score in run.scores]
        if scores:
            self._scores.setdefault(split, []).extend(scores)
        abandoned = len(runs) - len(played)  # one failure each; every other failure is a turn's
        self.episodes += len(played)
        self.abandoned += abandoned
        self.failed_turns += len(failures) - abandoned
        self.utterances += sum(len(episode.turns) for episode in episodes)
        self.ended.update(episode.reasoning.partition("terminated: ")[2].strip(" ;\n") for episode in episodes)


def _served(runs: Iterable[EpisodeRun]) -> pa.Table:
    """Prompts and completions as rows of `rewards` that have no reward yet."""
    rows = [
        {
            "episode_id": run.spec.episode_id,
            "environment_id": run.spec.scene.environment.environment_id,
            "agent": exchange.prompt.agent,
            "turn": exchange.prompt.turn,
            "prompt": list(exchange.prompt.messages),
            "completion": [{"role": "assistant", "content": exchange.completion}],
            "reward": None,
            "n_opinions": 0,
            "spread": None,
        }
        for run in runs
        for exchange in run.served
    ]
    return pa.Table.from_pylist(rows, schema=SERVED)
