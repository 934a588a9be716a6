"""Judges by name: `judge("gpt-4o")`. There is a file for each judge; importing this package imports none of them.

A judge of your own is an id and one method (see `labelers/judge.py`): name it as `path/to/file.py:Name`, or register
it as an entry point in the group `sotopia_rl_data.judges`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sotopia_rl_data import plugins
from sotopia_rl_data.asking.providers import ModelName, parse_model
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.labelers.judge import Judge

GROUP = "sotopia_rl_data.judges"
BUILTINS = {"lexical": "sotopia_rl_data.labelers.judges.lexical:Lexical"}
MEANINGS = {
    "gpt-4o (any OpenAI model)": "asked at OpenAI, with OPENAI_API_KEY",
    "openai:MODEL[@URL]": "a model on any server that speaks OpenAI's protocol: vLLM, Together, DeepSeek, Ollama …",
    "claude-… (any Anthropic model)": "asked at Anthropic, with ANTHROPIC_API_KEY",
    "anthropic:MODEL[@URL]": "a model on any server that speaks Anthropic's protocol",
    "transformers:PATH_OR_ID": "a model loaded on this machine",
    "human:FILE.csv": "the annotations of people in a filled-in file",
    "replay:LEDGER[#MODEL]": "the answers that a ledger already has",
    "lexical": "an offline baseline that counts words; it needs no key",
    "path/to/file.py:Name": "a class of your own",
}
"""The forms in which a judge is named, and what each is."""
FORMS = ", ".join(MEANINGS)


def judge(spec: str | ModelName, sampling: Mapping[str, Any] | None = None, dimensions: Sequence[str] = ()) -> Judge:
    """The judge that `spec` names, or the model itself as a judge. `sampling` (temperature, max_tokens …) overrides a
    model's defaults; `dimensions` are those that people may have annotated (empty: SOTOPIA-EVAL's).

    Raises UsageError, which lists the forms of a spec, where there is no such judge, and KeyMissing where its provider
    needs an API key.
    """
    model = spec if isinstance(spec, ModelName) else _model(spec)
    if model is not None:
        from sotopia_rl_data.labelers.judges import api

        return api.judge(model, sampling)
    spec = str(spec)
    if spec.startswith("transformers:"):
        from sotopia_rl_data.labelers.judges import transformers

        return transformers.judge(spec.removeprefix("transformers:"), sampling)
    if sampling:
        raise UsageError(
            f"The judge {spec!r} is not a model, so it does not sample: {', '.join(sampling)} cannot be set.",
            f"leave {', '.join(sampling)} out, or name a model as the judge",
        )
    if spec.startswith("replay:"):
        return _replay(spec.removeprefix("replay:"))
    if spec.startswith("human:"):
        return _human(spec.removeprefix("human:"), dimensions)
    return _plugin(spec)


def samples(spec: str | ModelName) -> bool:
    """Whether the judge that `spec` names is a model, which takes a temperature and the like. Raises UsageError."""
    return isinstance(spec, ModelName) or spec.startswith("transformers:") or _model(spec) is not None


def _model(spec: str) -> ModelName | None:
    """The provider and model that `spec` names; None where it names another kind of judge."""
    return None if plugins.is_file(spec) else parse_model(spec)


def _human(file: str, dimensions: Sequence[str]) -> Judge:
    from sotopia_rl_data.labelers.judges.human import Human

    path, _, name = file.partition("#")
    if not path:
        raise UsageError(
            "The judge 'human:' needs a file after the colon.",
            "write human:FILE.csv, or human:FILE.csv#NAME where several people judge",
        )
    return Human(Path(path), name or "human", dimensions)


def _replay(ledger: str) -> Judge:
    from sotopia_rl_data.labelers.judges.replay import Replay

    path, _, selector = ledger.partition("#")
    if not path:
        raise UsageError(
            "The judge 'replay:' needs a ledger after the colon.", "write replay:LEDGER, as in replay:./store/.ledger"
        )
    return Replay(Path(path), selector)


def _plugin(spec: str) -> Judge:
    try:
        plugin = plugins.load("judge", GROUP, spec, BUILTINS)
    except UsageError as unknown:
        if plugins.is_file(spec) or spec in plugins.names(GROUP, BUILTINS):
            raise
        from difflib import get_close_matches

        others = sorted(set(plugins.names(GROUP, BUILTINS)) - set(BUILTINS))
        whole = [name for name in (form.partition(" ")[0] for form in MEANINGS) if ":" not in name and "…" not in name]
        close = get_close_matches(spec, [*whole, *others], n=1, cutoff=0.75)
        near = f" (did you mean {close[0]!r}?)" if close else ""
        hint = f"name one of: {', '.join([FORMS, *others])}"
        raise UsageError(f"{spec!r} is not a judge{near}.", hint) from unknown
    return _instance(spec, plugin)


def _instance(spec: str, plugin: Any) -> Judge:
    """The judge that the plug-in is, or that it makes. Raises UsageError where it lacks the id or the method."""
    hint = "repair the plug-in: calling it without arguments must return the judge"
    with plugins.calling(lambda error: UsageError(f"The judge {spec} cannot be made: {error}.", hint)):
        judge: Judge = plugin() if isinstance(plugin, type) else plugin
    if not isinstance(getattr(judge, "id", None), str) or not judge.id or not callable(getattr(judge, "answer", None)):
        raise UsageError(
            f"The plug-in {spec} is not a judge: it lacks the id or the method.",
            'give it an `id = "…"` and `async def answer(self, question) -> str`',
        )
    concurrency = getattr(judge, "concurrency", 1)
    if not isinstance(concurrency, int) or concurrency < 1:
        raise UsageError(
            f"The judge {spec} has the concurrency {concurrency!r}, but a whole number of 1 or more is needed.",
            "set its `concurrency` to how many questions it answers at once",
        )
    return judge
