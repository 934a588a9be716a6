"""models check: one tiny question that shows how a model is asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import asking, console
from sotopia_rl_data.errors import UsageError

if TYPE_CHECKING:
    from sotopia_rl_data.labelers.model_check import ModelCheck

_WAYS = {
    "json_schema": "as a schema that the server enforces",
    "json_object": "in JSON mode, with the schema in words",
    "text": "in words alone",
}


@click.group()
def models() -> None:
    """The models that can be asked."""


@models.command()
@click.argument("spec")
@asking.models
@asking.sampling(0)
@asking.prices_option("Prices of your own, over the built-in list.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=90.0,
    show_default=True,
    metavar="SECONDS",
    help="The longest wait for the answer.",
)
@console.json_option
def check(spec: str, prices: Path | None, timeout: float, as_json: bool, **options: Any) -> None:
    """Ask a model one tiny question: in which way it takes the schema of an answer, with which parameters, for how many
    tokens and USD.

    Nothing is kept. The exit code is 3 where the answer cannot be used.

    \b
    Examples:
      sotopia-rl-data models check gpt-4o
      sotopia-rl-data models check openai:qwen@http://localhost:8000/v1 --extra top_p=0.9
      sotopia-rl-data models check careful --judges judges.yaml --json
    """
    from sotopia_rl_data.asking.providers import ModelName, parse_model, sampling_of, takes_temperature
    from sotopia_rl_data.costs.prices import load
    from sotopia_rl_data.labelers.model_check import check_model

    found = asking.model_of(spec, options)
    name = found if isinstance(found, ModelName) else parse_model(found)
    if name is None:
        raise UsageError(
            f"{spec!r} is not a model behind an API.",
            "write gpt-4o, claude-…, openai:MODEL[@URL], anthropic:MODEL[@URL], or a name of a file for --judges",
        )
    own = options["named"].prices if options["named"] else {}
    default = {"temperature": 0} if takes_temperature(name.provider, name.model) else {}
    chosen = sampling_of(sampling_of(default, name.sampling), asking.sampling_of(options))
    shown = check_model(name, chosen, load(prices, own), timeout)
    if as_json:
        console.emit_json(shown.as_dict())
    else:
        _show(shown)
    if shown.fault:
        console.warn(f"The answer cannot be used: {shown.fault}.")
        click.get_current_context().exit(console.WITH_FAILURES)


def _show(shown: ModelCheck) -> None:
    from sotopia_rl_data.labelers.schemas import answers

    usage = shown.usage
    cost = "no known price" if shown.cost is None else f"{shown.cost:.6f} USD, at the prices of {shown.as_of}"
    rows = [
        ("model", shown.model),
        ("URL", shown.url),
        ("key", shown.key or "none"),
        ("model that answered", shown.returned_model or "not named"),
        ("schema sent", _WAYS[shown.way]),
        ("parameters", ", ".join(f"{name}={value}" for name, value in shown.parameters.items()) or "none"),
        ("answer", answers.shown(shown.answer)),
        ("ended", shown.finish),
        ("tokens", f"{usage.input} in, {usage.cached} of them cached, {usage.output} out"),
        ("cost", cost),
        ("seconds", f"{shown.seconds:.1f}"),
    ]
    console.table(["", ""], rows)
