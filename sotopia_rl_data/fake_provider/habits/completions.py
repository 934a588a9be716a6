"""Habits of models and servers in how a completion is told: thoughts, bytes around JSON, usage, faults inside a 200."""

from __future__ import annotations

from sotopia_rl_data.fake_provider.habits.call import Call, Response, named


def thought_without_a_beginning(call: Call) -> Response:
    """The prompt has opened the thought, so that only its end is seen."""
    return call.answer(lambda text: "They want every turn rated.\nThe score was high.\n</think>\n\n" + text)


HABITS = named([thought_without_a_beginning])
