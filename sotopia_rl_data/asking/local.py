"""A model in this process, asked in batches in a thread beside the event loop: shared by local judges and policies.

The caller loads the model and its tokenizer; this module imports no library for that. An answer follows from its
request alone, also where it is drawn: not from who else is in the batch, nor from what was drawn before. For speed,
serve the model with vLLM and name it as `openai:MODEL@URL`. Leaves out constrained decoding and several GPUs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import re
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sotopia_rl_data.asking.transport import with_schema_in_words
from sotopia_rl_data.control_tokens import ControlTokens
from sotopia_rl_data.errors import AskingError, Rejected, UsageError
from sotopia_rl_data.request import Finish, Reply, Request, Target, Usage

BATCH = 8
MAX_TOKENS = 2048
_PARAMETERS = ("temperature", "max_tokens", "top_p")
_GATHER_S = 0.02  # how long a batch waits for more requests to join it
_PEEKS, _PEEK = 256, 1 << 14  # a fingerprint reads 256 places of each file, 16 KiB at each
_WRONG = (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError)

_PLAIN = re.compile(r"[\w.^$\\-]*")  # a pattern without a part that could be tried in many ways
_TRY = r"""
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (1, 1))  # second; an honest expression takes microseconds
for pattern in json.load(sys.stdin):
    for tried in (pattern, rf"(^|.*\.){pattern}($|\..*)"):
        for name in ("model.layers.10.self_attn.q_proj", "vision_tower.vision_model.encoder.layers.23.mlp.fc1!"):
            try:
                re.fullmatch(tried, f"base_model.model.{name}")
            except (re.error, RecursionError, OverflowError):
                pass  # which PEFT will say
"""

Loaded = tuple[Any, Any]
"""A tokenizer that pads on the left, and a causal model on its device."""


def check_sampling(sampling: Mapping[str, Any] | None) -> None:
    """Raises UsageError for a parameter that a local model does not know."""
    unknown = sorted(set(sampling or ()) - set(_PARAMETERS))
    if unknown:
        raise UsageError(
            f"A local model takes no {unknown[0]!r}: its parameters are {', '.join(_PARAMETERS)}.",
            f"leave {unknown[0]} out",
        )


def check_adapter_settings(path: str | Path | None) -> None:
    """Raises ValueError where an `adapter_config.json` names modules by an expression that takes seconds on a name like
    those of models, tried in a process of its own. PEFT reads texts, the keys of `rank_pattern` and `alpha_pattern` and
    the items of `modules_to_save` and `layers_pattern` as expressions; other lists are of plain names."""
    settings = json.loads(Path(path).read_text(encoding="utf-8")) if path else None
    patterns: dict[str, str] = {}
    for name, value in settings.items() if isinstance(settings, dict) else ():
        if name.endswith(("modules", "pattern", "_to_save")):
            is_read = isinstance(value, dict) or name in ("layers_pattern", "modules_to_save")
            found = [value] if isinstance(value, str) else list(value or ()) if is_read else []
            patterns |= {one: name for one in map(str, found) if not _PLAIN.fullmatch(one)}
    if patterns:
        command = [sys.executable, "-I", "-c", _TRY]
        try:
            subprocess.run(command, input=json.dumps(list(patterns)), text=True, check=True)
        except subprocess.CalledProcessError as error:
            named = " or ".join(dict.fromkeys(patterns.values()))
            raise ValueError(f"its {named} is an expression that takes too long to try") from error


def fingerprint(folder: Path) -> str:
    """Hex SHA-256 over the folder's files: their names, their sizes, and 256 places spread over each file, since
    fine-tuning may have changed only the middle."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            for place in (*(size * n // _PEEKS for n in range(_PEEKS)), max(0, size - _PEEK)):
                file.seek(place)
                digest.update(file.read(_PEEK))
    return digest.hexdigest()


class BatchedModel(ABC):
    """Gathers requests into batches and passes one batch at a time to `answers`, in a thread beside the event loop."""

    concurrency = 2 * BATCH

    def __init__(self, target: Target) -> None:
        self.id = target.model
        self.target = target
        self._waiting: list[tuple[Request, asyncio.Future[Reply]]] = []
        self._working: asyncio.Task[None] | None = None

    async def send(self, request: Request) -> Reply:
        """One answer. Raises Rejected where the model cannot be loaded or the prompt does not fit it, and any other
        error of the batch: no caller is left waiting."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        working = self._working
        either: set[asyncio.Future[Any]] = {future, working}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not future.done():
                working.result()  # raises the batch's error
            return future.result()
        finally:
            future.cancel()

    async def close(self) -> None:
        """Give up the requests that wait."""
        if self._working is not None and not self._working.done():
            self._working.cancel()
        self._working = None
        self._waiting.clear()

    @abstractmethod
    def answers(self, requests: Sequence[Request]) -> Sequence[Reply | AskingError]:
        """An answer to each request, or the error in its place; runs in a thread."""

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(_GATHER_S)
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            replies = await asyncio.to_thread(self.answers, [request for request, _ in batch])
            for (_, future), reply in zip(batch, replies, strict=True):
                if future.done():
                    continue
                if isinstance(reply, AskingError):
                    future.set_exception(reply)
                else:
                    future.set_result(reply)


class LocalModel(BatchedModel):
    """A causal model that generates. `load` is called with the first request."""

    def __init__(self, target: Target, load: Callable[[], Loaded]) -> None:
        super().__init__(target)
        self._load = load
        self._model: _Model | None = None
        self._unloadable: Exception | None = None

    async def close(self) -> None:
        """Release the model."""
        await super().close()
        self._model = None

    def answers(self, requests: Sequence[Request]) -> Sequence[Reply | AskingError]:
        """The model's answer to each request, or the error in its place."""
        try:
            self._model = self._model or self._loaded()
            return self._model.answers(requests, self.id)
        except _WRONG as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            hint = "serve the model with vLLM, or name another model"
            return [Rejected(f"The model {self.id} cannot answer: {reason}.", hint)] * len(requests)

    def _loaded(self) -> _Model:
        """The model, loaded now. An error is remembered and raised again: loading can take minutes each time."""
        if self._unloadable is not None:
            raise self._unloadable
        try:
            return _Model(*self._load())
        except _WRONG as error:
            self._unloadable = error
            raise


class _Model:
    """The weights and the tokenizer."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self._tokenizer, self._model = tokenizer, model
        self._control = ControlTokens(tokenizer)

    def answers(self, requests: Sequence[Request], name: str) -> Sequence[Reply | AskingError]:
        """An answer to each request, or the error in its place. All share one sampling, but for their limits, which
        the context bounds: each limit makes a batch of its own."""
        answers: dict[int, Reply | AskingError] = {}
        texts = [self._text(request) for request in requests]
        sizes = [len(self._tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        context = getattr(self._model.config, "max_position_embeddings", None) or 1 << 30  # tokens
        by_limit: dict[int, list[int]] = {}
        for place, request in enumerate(requests):
            if sizes[place] >= context:
                reason = f"The question's {sizes[place]:,} tokens do not fit {name}."
                answers[place] = Rejected(reason, "name a model with a longer context")
            else:
                limit = int(request.target.sampling.get("max_tokens", MAX_TOKENS))
                by_limit.setdefault(min(limit, context - sizes[place]), []).append(place)
        for limit, places in by_limit.items():
            draws = _Draws.of([requests[place] for place in places])
            replies = self._generate([texts[place] for place in places], limit, draws, name)
            answers |= zip(places, replies, strict=True)
        return [answers[place] for place in range(len(requests))]

    def _text(self, request: Request) -> str:
        messages = list(request.messages)
        if request.answer_schema is not None:
            messages = with_schema_in_words(messages, request.answer_schema)
        messages = self._control.plain_messages(messages)
        if not self._tokenizer.chat_template:
            return "\n\n".join(message["content"] for message in messages) + "\n\n"
        from jinja2 import TemplateError  # tokenizers render chat templates with jinja2

        try:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except TemplateError as error:
            raise ValueError(f"its chat template refuses the question: {error}") from error

    def _generate(self, texts: list[str], limit: int, draws: _Draws | None, name: str) -> list[Reply]:
        inputs = self._tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = inputs.to(self._model.device)
        generated = self._model.generate(  # turns gradients off by itself
            **inputs,
            max_new_tokens=limit,
            pad_token_id=self._tokenizer.pad_token_id,
            do_sample=False,  # `draws` leave one token
            logits_processor=[draws] if draws else [],
        )[:, inputs["input_ids"].shape[1] :]
        ends = self._model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        replies = []
        for row, mask in zip(generated.tolist(), inputs["attention_mask"], strict=True):
            end = next((i for i, token in enumerate(row) if token in ends), None)
            finish: Finish = "length" if end is None else "stop"
            answer = row[:end]
            text = self._tokenizer.decode(answer, skip_special_tokens=True)
            replies.append(Reply(text, finish, name, Usage(input=int(mask.sum()), output=len(answer))))
        return replies


class _Draws:
    """Draws the next token of each row of a batch: a processor of logits that leaves this token alone.

    The numbers of a row come from a generator of its own, whose seed is its request's key.
    """

    def __init__(self, seeds: Sequence[str], temperature: float, top_p: float) -> None:
        self._generators = [random.Random(seed) for seed in seeds]
        self._temperature, self._top_p = temperature, top_p

    @classmethod
    def of(cls, requests: Sequence[Request]) -> _Draws | None:
        """The draws for requests that share one sampling; None where the likeliest token is taken."""
        sampling = requests[0].target.sampling
        temperature = float(sampling.get("temperature", 0) or 0)
        top_p = float(sampling.get("top_p", 1.0))
        return cls([request.key for request in requests], temperature, top_p) if temperature else None

    def __call__(self, _ids: Any, logits: Any) -> Any:
        """Minus infinity for all tokens but the one that is drawn for each row."""
        chances, tokens = (logits.float() / self._temperature).softmax(-1).sort(dim=-1, descending=True)
        sums = chances.cumsum(-1)
        last = (sums - chances < self._top_p).sum(-1, keepdim=True) - 1  # the likeliest, until they sum to top_p
        drawn = sums.new_tensor([[generator.random()] for generator in self._generators]) * sums.gather(-1, last)
        place = (sums < drawn).sum(-1, keepdim=True).minimum(last)
        return logits.new_full(logits.shape, -math.inf).scatter(-1, tokens.gather(-1, place), 0.0)
