"""Habits of models whose answers cannot be used, however often they are asked."""

from __future__ import annotations

from sotopia_rl_data.fake_provider.habits.call import Call, Response, named


def prose_for_ever(call: Call) -> Response:
    """The model writes an essay in place of JSON."""
    return call.answer(lambda text: f"Every turn mattered in its own way, I think (essay {call.number}).")


def other_keys_for_ever(call: Call) -> Response:
    """The model answers in JSON of its own invention."""
    return call.answer(lambda text: '{"verdict": {"Jean": "good", "Noor": "better"}}')


def empty_for_ever(call: Call) -> Response:
    """The model says nothing at all."""
    return call.answer(lambda text: " \n")


def refuses_for_ever(call: Call) -> Response:
    """The model does not want to talk about people."""
    return call.answer(lambda text: "I cannot rate people.", finish="refusal")


def one_usable_in_ten(call: Call) -> Response | None:
    """One answer of ten can be used."""
    return None if call.number % 10 == 0 else prose_for_ever(call)


HABITS = named([prose_for_ever, other_keys_for_ever, empty_for_ever, refuses_for_ever, one_usable_in_ten])
