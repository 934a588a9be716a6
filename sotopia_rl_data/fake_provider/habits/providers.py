"""Habits of whole providers: what is true of all calls to one of them."""

from __future__ import annotations

from sotopia_rl_data.fake_provider.habits.call import Call, Response, named


def prose_unless_constrained(call: Call) -> Response | None:
    """A base model, which writes prose wherever no parameter of the request holds a schema."""
    if "response_format" in call.body or "output_config" in call.body:
        return None
    return call.answer(lambda _: "The two of them talk about it for a while, and she says that she is fine.")


HABITS = named([prose_unless_constrained])
