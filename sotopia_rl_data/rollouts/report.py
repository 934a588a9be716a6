"""What a rollout did: a frozen noun for whoever called it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sotopia_rl_data.asking.report import RunReport


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutReport(RunReport):
    """Also: of the `planned` episodes, `abandoned` have no end, because somebody could not be asked; `failed_turns` are
    no-ops that stand for answers that could not be read. `ended` counts the `episodes` by why they ended."""

    planned: int
    episodes: int
    utterances: int
    abandoned: int
    failed_turns: int
    ended: Mapping[str, int]
