"""Simulations of τ-bench and τ²-bench: a task, the messages between user, assistant and tools, and the reward.

    {"task_id": …, "reward": 1.0, "info": {…}, "traj": [{"role": …, "content": …}], "trial": 0}
    {"simulations": [{"id": …, "task_id": …, "reward_info": {"reward": 1.0}, "messages": […], "trial": 0}], …}

A task is an environment, and each trial of it an episode. The reward and all that led to it are kept as `meta`.
"""

from __future__ import annotations

from typing import Any

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.dialogue import Setting, content_id
from sotopia_rl_data.importers.formats.chat import instructed, split_instructions, utterances
from sotopia_rl_data.importers.formats.format import Format, one_by_one
from sotopia_rl_data.importers.record import identifier, mapping
from sotopia_rl_data.schema import Episode

_LISTS = ("traj", "messages")


def read_simulation(value: Any) -> Episode:
    """The episode of a simulation. Raises InputError."""
    record = mapping(value, "the record")
    listed = next((key for key in _LISTS if record.get(key) is not None), None)
    if listed is None:
        raise InputError("`messages` is missing: it has no trajectory.")
    leading, rest = split_instructions(record[listed], listed)
    named = record.get("id") is not None
    meta = {key: one for key, one in record.items() if key not in (listed, "id")}
    scene = Setting(
        identifier(record, "id") if named else content_id("simulation", record),
        "simulation",
        "task-" + identifier(record, "task_id"),
        instructions="\n\n".join(leading),
        meta=meta,
    )
    return instructed(scene, utterances(rest, listed))


FORMAT = Format(
    "simulation",
    keys=(frozenset(_LISTS), frozenset({"task_id"}), frozenset({"reward", "reward_info"})),
    reader=one_by_one(lambda record, _: [read_simulation(record.value)]),
)
