"""Habits of models and servers that do not take a request as it is meant: its schema, its parameters, its length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sotopia_rl_data.fake_provider.answers import RequestRefused
from sotopia_rl_data.fake_provider.habits.call import Call, Habit, named

_LONG = 9_000  # characters of messages that are too long


def _way(body: Mapping[str, Any]) -> str:
    """How the schema of the answer is passed."""
    return str(
        (body.get("response_format") or {}).get("type") or ("json_schema" if "output_config" in body else "words")
    )


def _refuse(status: int = 400, message: str = "That is not how it goes here.", param: str | None = None) -> None:
    raise RequestRefused(status, message, "invalid_request_error", param=param)


def _has_system(call: Call) -> bool:
    return "system" in call.body or any(message["role"] == "system" for message in call.body["messages"])


def takes_no_temperature(call: Call) -> None:
    """A temperature is refused, in words of the server's own."""
    if "temperature" in call.body:
        _refuse(message="Its warmth is not yours to set.")


def wants_max_completion_tokens(call: Call) -> None:
    """The limit of the answer is refused under its older name."""
    if "max_tokens" in call.body:
        _refuse(message="The limit goes by another name.")


def takes_no_system_message(call: Call) -> None:
    """Only users and assistants may speak."""
    if _has_system(call):
        _refuse(message="Who is that third speaker?")


def no_schema_compiler(call: Call) -> None:
    """A schema is refused as a parameter."""
    if _way(call.body) == "json_schema":
        _refuse(message="The grammar cannot be built.")


def words_alone(call: Call) -> None:
    """Neither a schema nor a JSON mode is taken."""
    if _way(call.body) != "words":
        _refuse(message="Free text is all there is.")


def no_route_404(call: Call) -> None:
    """A router finds nobody who takes a schema."""
    if _way(call.body) == "json_schema":
        _refuse(404, "No provider takes all of these parameters.")


def unprocessable_422(call: Call) -> None:
    """A strict server does not know the field of the schema."""
    if _way(call.body) == "json_schema":
        _refuse(422, "Extra inputs.")


def not_implemented_501(call: Call) -> None:
    """A schema is what the server's authors have not come to yet."""
    if _way(call.body) == "json_schema":
        _refuse(501, "Not implemented.")


def forbidden_403(call: Call) -> None:
    """A schema is what a smaller plan does not include."""
    if _way(call.body) == "json_schema":
        _refuse(403, "Your plan has none of that.")


def neither_temperature_nor_schema(call: Call) -> None:
    """Two things are refused, one after the other."""
    takes_no_temperature(call)
    no_schema_compiler(call)


def neither_system_nor_json(call: Call) -> None:
    """A chat template without a system role on a server without JSON."""
    takes_no_system_message(call)
    words_alone(call)


def an_early_reasoner(call: Call) -> None:
    """Takes no temperature, no system message, no JSON, and the limit under its newer name alone."""
    for part in (takes_no_temperature, takes_no_system_message, words_alone, wants_max_completion_tokens):
        part(call)


def names_the_parameter(call: Call) -> None:
    """Each refusal names the parameter that is at fault, as OpenAI does."""
    for name in ("max_tokens", "temperature"):
        if name in call.body:
            _refuse(message="Unsupported.", param=name)


def names_the_wrong_parameter(call: Call) -> None:
    """The refusal names a parameter that is not at fault."""
    if _way(call.body) == "json_schema":
        _refuse(message="Unsupported.", param="temperature")


def refuses_at_random(call: Call) -> None:
    """One call of seven is refused as invalid, whatever it says; the identical call is then answered."""
    if call.number % 7 == 1:
        _refuse(message="The worker lost your request.")


def too_long(call: Call) -> None:
    """A long question is refused in whatever form it comes."""
    if len(str(call.body["messages"])) + len(str(call.body.get("system", ""))) > _LONG:
        _refuse(message="Too many tokens for this model.")


def too_long_without_temperature(call: Call) -> None:
    """A long question is refused, and so is a temperature."""
    too_long(call)
    takes_no_temperature(call)


def refuses_everything(call: Call) -> None:
    """Nothing is ever taken."""
    _refuse(message="No.")


def no_such_model(call: Call) -> None:
    """The model is not known."""
    _refuse(404, "There is no such model.")


HABITS: dict[str, Habit] = named(
    [
        takes_no_temperature,
        wants_max_completion_tokens,
        takes_no_system_message,
        no_schema_compiler,
        words_alone,
        no_route_404,
        unprocessable_422,
        not_implemented_501,
        forbidden_403,
        neither_temperature_nor_schema,
        neither_system_nor_json,
        an_early_reasoner,
        names_the_parameter,
        names_the_wrong_parameter,
        refuses_at_random,
        too_long,
        too_long_without_temperature,
        refuses_everything,
        no_such_model,
    ]
)
