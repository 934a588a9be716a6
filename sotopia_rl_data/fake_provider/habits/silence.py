"""Habits of servers that take a call and leave it without an answer."""

from __future__ import annotations

from sotopia_rl_data.fake_provider.habits.call import Call, Response, named

_FOR_EVER_S = 3_600.0


def never_answers(call: Call) -> Response:
    """Every call is taken, and nothing comes back."""
    return Response({}, after=_FOR_EVER_S)


def stops_after_the_headers(call: Call) -> Response:
    """The headers of a good answer come, and nothing after them."""
    return Response(call.reply(), drip=_FOR_EVER_S)


def drips(call: Call) -> Response:
    """An answer comes at one byte a second."""
    return Response(call.reply(), drip=1.0)


def falls_silent(call: Call) -> Response | None:
    """Ten calls are answered, then nothing comes back."""
    return never_answers(call) if call.number > 10 else None


HABITS = named([never_answers, stops_after_the_headers, drips, falls_silent])
