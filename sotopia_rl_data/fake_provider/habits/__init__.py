"""Habits of real providers, by name: what they do to some or all calls, in words of our own.

A habit is a function in one of this folder's files, named in `HABITS`. It takes a `Call` and returns a `Response`, or
None where the call is answered as without it; or it raises RequestRefused. The whole server plays the habit that
`--habit` names; and under the path `/NAME` every server plays the habit NAME, with counts of its own at
`/NAME/__log__`. Live calls and the lines of batches meet the same habit.
"""

from __future__ import annotations

from sotopia_rl_data.fake_provider.habits import (
    completions,
    forms,
    lengths,
    limits,
    margin,
    providers,
    silence,
    telling,
    thoughts,
    useless,
)
from sotopia_rl_data.fake_provider.habits.call import Habit

HABITS: dict[str, Habit] = {
    **completions.HABITS,
    **forms.HABITS,
    **lengths.HABITS,
    **limits.HABITS,
    **margin.HABITS,
    **providers.HABITS,
    **silence.HABITS,
    **telling.HABITS,
    **thoughts.HABITS,
    **useless.HABITS,
}
