"""How many bytes a token has in what judges are sent and say: by real tokenizers, on the bundled samples' questions.

    pip install bpe-openai && python benchmarks/token_bytes.py

`asking/tokens.py` counts four bytes of a prompt and two of an answer as a token; this shows how near that is for the
tokenizers of GPT-4 and GPT-4o (cl100k, o200k). Answers are the shortest that obey the schema, as `json.dumps` writes
them and without spaces. Prints a Markdown table, bytes a token; `estimate` is what would be counted, against the real
tokens.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from sotopia_rl_data.costs.tokens import answer_tokens, prompt_tokens, shortest
from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.importers import samples_path
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.labelers.plan import LabelPlan, episodes_of
from sotopia_rl_data.labelers.requests import request_of
from sotopia_rl_data.labelers.schemas import schema
from sotopia_rl_data.request import Request, Target
from sotopia_rl_data.store import Store

THREE, SEVEN = ("goal", "relationship", "knowledge"), tuple(one.name for one in SOTOPIA_EVAL)
BY = "sample-evaluator"


def requests(folder: Path, ask: str, dimensions: tuple[str, ...]) -> Iterator[Request]:
    """The questions about the bundled samples."""
    store = Store(folder)
    import_dataset(store, [samples_path()], "samples")
    plan = LabelPlan(schema("direct"), dimensions, BY, packing=ask)  # type: ignore[arg-type]
    for episode in episodes_of(chain.from_iterable(store.resolve("samples").files("episodes").values())):
        for question in plan.questions(episode):
            yield request_of(question, Target("openai", "gpt-4o", ""))


def texts(request: Request) -> tuple[str, str, str, str]:
    """Prompt, answer schema, answer with spaces, answer without."""
    answer = shortest(request)
    prompt = "".join(message["content"] for message in request.messages)
    return prompt, json.dumps(request.answer_schema), json.dumps(answer), json.dumps(answer, separators=(",", ":"))


def main() -> None:
    import bpe_openai

    print("| tokenizer | way | dimensions | bytes of prompt | schema | answer | without spaces | estimate in | out |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|")
    for name in ("cl100k_base", "o200k_base"):
        encoding = bpe_openai.get_encoding(name)
        for ask in ("per-dimension", "packed"):
            for dimensions in (THREE, SEVEN):
                with tempfile.TemporaryDirectory() as folder:
                    asked = list(requests(Path(folder), ask, dimensions))
                parts = [list(column) for column in zip(*map(texts, asked), strict=True)]
                size = [sum(len(text.encode()) for text in column) for column in parts]
                real = [sum(len(encoding.encode(text)) for text in column) for column in parts]
                ratios = " | ".join(f"{bytes_ / tokens:.2f}" for bytes_, tokens in zip(size, real, strict=True))
                into = sum(map(prompt_tokens, asked)) / (real[0] + real[1])
                out = sum(map(answer_tokens, asked)) / real[3]
                print(f"| {name} | {ask} | {len(dimensions)} | {ratios} | {into:.2f} | {out:.2f} |", flush=True)


if __name__ == "__main__":
    main()
