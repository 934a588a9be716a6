"""Habits of providers in how they refuse for rate and for money, and in how they tell it."""

from __future__ import annotations

from typing import NoReturn

from sotopia_rl_data.fake_provider.answers import RequestRefused
from sotopia_rl_data.fake_provider.habits.call import Call, Habit, Response, named

_FIRST = 6  # calls that are refused where a limit lets the later ones through
_LARGE = 9_000  # characters of messages that do not fit under a limit of tokens a minute


def _limit(call: Call, message: str, status: int = 429, **headers: str) -> NoReturn:
    """Refuse as for rate, with the identifiers of the call's protocol."""
    kind, code = ("requests", "rate_limit_exceeded") if call.openai else ("rate_limit_error", "")
    raise RequestRefused(status, message, kind, code, {name.replace("_", "-"): told for name, told in headers.items()})


def limit_that_mentions_billing(call: Call) -> None:
    """The first calls meet a limit whose message talks of billing, quota and credit."""
    if call.number <= _FIRST:
        message = "Quota of requests a minute used up. Add credit on the billing page for a higher quota."
        _limit(call, message, retry_after="1")


def limit_in_a_list(call: Call) -> Response | None:
    """The first calls meet a limit that Google's servers tell as a list, with the time to wait inside the body."""
    if call.number > _FIRST:
        return None
    wait = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"}
    error = {"code": 429, "message": "Quota exceeded, see your plan and billing details.", "details": [wait]}
    return Response([{"error": error | {"status": "RESOURCE_EXHAUSTED"}}], 429, {"Retry-After": ""})


def limit_inside_a_200(call: Call) -> Response | None:
    """The first calls meet a limit that a gateway tells with status 200, as a number or by its name."""
    told = {"code": 429, "msg": "Not so fast.", "data": None}
    named = {"error": {"message": "Not so fast.", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}
    return Response(told if call.number % 2 else named) if call.number <= _FIRST else None


def limit_as_403(call: Call) -> None:
    """The first calls meet a limit under the status of a permission that lacks."""
    if call.number <= _FIRST:
        raise RequestRefused(403, "Slow down.", "forbidden", headers={"Retry-After": "0.5"})


_UNDER = (498, 403, 420, 413, 400, 404)  # statuses under which limits were told


def limit_under_any_status(call: Call) -> None:
    """The first calls meet a limit that nothing tells as one: another status each, and no time to wait."""
    if call.number <= _FIRST:
        raise RequestRefused(_UNDER[call.number - 1], "Not now.", "busy")


def refuses_for_a_while(call: Call) -> None:
    """After ten answers six calls are refused as if the key were wrong."""
    if 10 < call.number <= 10 + _FIRST:
        raise RequestRefused(401 if call.number % 2 else 403, "Try that later.", "busy")


def _one_in_eight(status: int) -> Habit:
    """A habit of refusals under this status."""

    def habit(call: Call) -> None:
        if call.number > 10 and call.number % 8:
            raise RequestRefused(status, "Not now.", "busy")

    habit.__doc__ = f"After ten answers a limit lets one call of eight through, and tells the others {status}."
    return habit


def odd_retry_after(call: Call) -> None:
    """The first calls are asked to wait for times that nobody can wait for."""
    if call.number <= _FIRST:
        _limit(
            call, "Too many.", retry_after=("nan", "-30", "inf", "99999999999", "1e300", "tomorrow")[call.number - 1]
        )


def wall_of_429(call: Call) -> None:
    """Nothing is ever let through, and no time is named."""
    _limit(call, "The free requests of today are used up.", retry_after="")


def wall_after_ten_answers(call: Call) -> None:
    """Ten calls are answered, then nothing is let through any more."""
    if call.number > 10:
        _limit(call, "The free requests of today are used up.", retry_after="")


def overloaded_for_ever(call: Call) -> None:
    """The server is overloaded whenever it is asked."""
    raise RequestRefused(529 if not call.openai else 503, "Overloaded, come back later.", headers={"Retry-After": "1"})


def too_large_for_the_limit(call: Call) -> None:
    """A long question is more than the tokens of a minute: it is refused for rate whenever it is asked."""
    if len(str(call.body["messages"])) > _LARGE:
        _limit(call, "Limit of tokens a minute reached.", retry_after="0.05")


def empty_account(call: Call) -> None:
    """There is no money in the account."""
    kind, code = ("insufficient_quota", "insufficient_quota") if call.openai else ("billing_error", "")
    raise RequestRefused(429 if call.openai else 400, "The account is empty.", kind, code, {"Retry-After": ""})


def account_that_runs_dry(call: Call) -> None:
    """Ten calls are answered, then the account is empty."""
    if call.number > 10:
        empty_account(call)


def account_that_runs_dry_in_words(call: Call) -> None:
    """As before, and only the message says why."""
    if call.number > 10:
        raise RequestRefused(400, "The balance is too low.", "invalid_request_error")


def payment_required(call: Call) -> None:
    """An empty account, told by the status alone."""
    raise RequestRefused(402, "No.")


def key_refused_inside_a_200(call: Call) -> Response:
    """A gateway that tells with status 200 that the key is wrong."""
    return Response({"code": 401, "msg": "The token is not known.", "data": None})


def page_of_a_firewall(call: Call) -> Response:
    """A page in place of an error, with the reason among its words."""
    page = (
        "<html><head><style>p { color: red }</style></head><body><p>Your network was <b>blocked</b>.</p></body></html>"
    )
    return Response(page.encode() if call.headers else {"error": "Your network was blocked."}, 403)


def redirect(call: Call) -> Response:
    """The server sends its callers to another URL."""
    return Response({}, 307, {"Location": "http://127.0.0.1:9/v1/chat/completions?token=hunter2secret"})


HABITS: dict[str, Habit] = {f"one_in_eight_and_{status}": _one_in_eight(status) for status in (400, 401, 403)} | named(
    [
        limit_that_mentions_billing,
        limit_in_a_list,
        limit_inside_a_200,
        limit_as_403,
        limit_under_any_status,
        refuses_for_a_while,
        odd_retry_after,
        wall_of_429,
        wall_after_ten_answers,
        overloaded_for_ever,
        too_large_for_the_limit,
        empty_account,
        account_that_runs_dry,
        account_that_runs_dry_in_words,
        payment_required,
        key_refused_inside_a_200,
        page_of_a_firewall,
        redirect,
    ]
)
