"""Prefix-tree packing against one row an utterance at its best batch size, side by side, and that they agree.

    python benchmarks/tree_packing.py                        # CPU: hidden size 1024, float32
    python benchmarks/tree_packing.py --device cuda --shape 0.5B --shape 7B --dtype bfloat16

Random weights, our own prompt layouts, one 20-turn episode an agent (10 utterances). For each case: tokens, ratio, time
of the best plain batch size and of the packed row, speed-up, tokens/s, peak memory (on a CPU: the process's highest so
far) and, where the device's peak is known (PEAKS, or --peak TFLOP/s), model FLOP utilisation: 2·N or 6·N FLOPs a token
for forward or forward + backward, attention not counted.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, Qwen2Config

from sotopia_rl_data.prompts import prompts_of
from sotopia_rl_data.schema import Agent, Episode, Turn
from sotopia_rl_data.trainers.encoding import Encoder
from sotopia_rl_data.trainers.reward_model.attention import attend_as, relative_gap, tree_inputs
from sotopia_rl_data.trainers.reward_model.tree import pack
from sotopia_rl_data.trainers.tiny import tiny_tokenizer

TEXT = (
    "we could maybe share the character and swap outfits between screenings because fairness matters to me although I "
    "really want this role today so let us find a compromise that works for both of us and keeps the tradition alive"
)

PEAKS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}  # dense bfloat16 TFLOP/s, from NVIDIA's data sheets

SHAPES = {  # hidden, intermediate, layers, heads, key-value heads, vocabulary
    "64": (64, 176, 2, 4, 2, 4096),
    "1024": (1024, 2816, 2, 16, 4, 4096),
    "0.5B": (896, 4864, 24, 14, 2, 151936),
    "7B": (3584, 18944, 28, 28, 4, 152064),
}
BATCHES = {"cpu": (1, 2, 5), "cuda": (1, 2, 4, 8, 16)}


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(TEXT.split(), k=count))


def episode(turns: int, rng: random.Random) -> Episode:
    """Two agents with backgrounds of the published profiles' length, 38 words an utterance."""
    people = tuple(
        Agent(i, name, goal=words(rng, 40), background=words(rng, 45), secret=words(rng, 10))
        for i, name in (("a", "Mia Davis"), ("b", "Benjamin O'Hara"))
    )
    said = tuple(Turn(t, "ab"[t % 2], "speak", words(rng, 38)) for t in range(turns))
    return Episode("e", "v", people, said, scenario=words(rng, 50))


def cases(turns: int) -> dict[str, list[tuple[int, ...]]]:
    """The sequences of one agent in each layout, and 16 completions of one prompt."""
    rng = random.Random(0)
    one = episode(turns, rng)
    text = [m["content"] for _, _, prompt, answer in prompts_of(one, "single") for m in [*prompt, *answer]]
    encoder = Encoder(tiny_tokenizer(vocab=4000, text=text, context=32768))

    def sequences(layout: str) -> list[tuple[int, ...]]:
        mine = [(p, c) for agent, _, p, c in prompts_of(one, layout) if agent == "a"]
        return [e.ids for e in encoder.encode(mine) if e]

    prompt = next(p for agent, turn, p, _ in prompts_of(one, "single") if (agent, turn) == ("a", turns // 4 * 2))
    answers = [
        [{"role": "assistant", "content": f'{{"action_type": "speak", "argument": "{words(rng, 38)}"}}'}]
        for _ in range(16)
    ]
    group = [e.ids for e in encoder.encode([(prompt, a) for a in answers]) if e]
    return {"chat": sequences("chat"), "single": sequences("single"), "16 completions": group}


def model_of(shape: str, dtype: torch.dtype, device: str, attention: str) -> Any:
    hidden, inner, layers, heads, kv, vocab = SHAPES[shape]
    config = Qwen2Config(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=32768, num_labels=1, pad_token_id=0,
        use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForSequenceClassification.from_config(config, dtype=dtype)
    return attend_as(model, attention)


def plain_batches(ids: Sequence[Sequence[int]], size: int, device: str) -> list[dict[str, Any]]:
    """Rows of similar length together, padded right: the kindest that plain batching can be."""
    ordered = sorted(ids, key=len)
    found = []
    for at in range(0, len(ordered), size):
        rows = ordered[at : at + size]
        long = len(rows[-1])
        batch = torch.tensor([[*r, *[0] * (long - len(r))] for r in rows], device=device)
        mask = torch.tensor([[1] * len(r) + [0] * (long - len(r)) for r in rows], device=device)
        found.append({"input_ids": batch, "attention_mask": mask})
    return found


def run(model: Any, batches: Sequence[dict[str, Any]], train: bool) -> None:
    for batch in batches:
        if not train:
            with torch.no_grad():
                model(**batch)
            continue
        (model(**batch).logits.float() ** 2).sum().backward()
    model.zero_grad(set_to_none=True)


def timed(work: Callable[[], None], device: str, repeats: int) -> float:
    """Median seconds after one warm-up; on a CPU, of this process's own CPU time, which neighbours do not disturb."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    found = []
    for _ in range(repeats):
        start = clock()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(clock() - start)
    return statistics.median(found)


def measure(model: Any, ids: list[tuple[int, ...]], train: bool, options: argparse.Namespace) -> dict[str, Any]:
    """One case: the best plain batch size, the packed row, their ratio."""
    tree = pack(ids)
    packed = [{k: v.to(options.device) if isinstance(v, torch.Tensor) else v for k, v in tree_inputs(tree).items()}]
    plain = {}
    for size in (s for s in BATCHES[options.device] if s <= len(ids)):
        batches = plain_batches(ids, size, options.device)
        plain[size] = timed(lambda of=batches: run(model, of, train), options.device, options.repeats)
    best = min(plain, key=lambda size: plain[size])
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(lambda: run(model, packed, train), options.device, options.repeats)
    row = {
        "tokens apart": tree.apart,
        "tokens packed": len(tree),
        "token ratio": round(tree.ratio, 2),
        "best batch": best,
        "plain s": round(plain[best], 4),
        "packed s": round(seconds, 4),
        "speed-up": round(plain[best] / seconds, 2),
    }
    row |= {
        "packed tokens/s": round(len(tree) / seconds),
        "utterances/s": round(len(ids) / seconds, 1),
        "peak GiB": round(peak_bytes(options.device) / 2**30, 2),
    }
    peak = options.peak or known_peak(options)
    if peak:
        parameters = sum(p.numel() for n, p in model.named_parameters() if "embed" not in n)
        row["MFU %"] = round(100 * (6 if train else 2) * parameters * len(tree) / seconds / (peak * 1e12), 1)
    return row


def peak_bytes(device: str) -> int:
    """The most memory that was used: allocated by PyTorch on a GPU, resident of the process on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def known_peak(options: argparse.Namespace) -> float | None:
    """The device's dense TFLOP/s, for 16-bit weights on a GPU that we know."""
    if options.device != "cuda" or options.dtype == "float32":
        return None
    name = torch.cuda.get_device_name()
    return next((peak for known, peak in PEAKS.items() if known in name), None)


@torch.no_grad()
def gap(model: Any, ids: list[tuple[int, ...]], device: str) -> float:
    """How far packed scores are from plain ones, as a share of their range."""
    packed = model(**{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in tree_inputs(pack(ids)).items()})
    alone = [model(input_ids=torch.tensor([i], device=device), attention_mask=None).logits for i in ids]
    return relative_gap(packed.logits.float().cpu().numpy(), torch.cat(alone).float().cpu().numpy())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", action="append", choices=SHAPES)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--attention", default="prefix_tree", choices=("prefix_tree", "flex_attention"))
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peak", type=float, help="the device's dense TFLOP/s in this dtype")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    results = []
    for shape in options.shape or ["1024"]:
        model = model_of(shape, getattr(torch, options.dtype), options.device, options.attention)
        for name, ids in cases(options.turns).items():
            difference = gap(model, ids, options.device)
            for train in (False, True) if name != "16 completions" else (False,):
                what = "forward + backward" if train else "forward"
                row = {
                    "shape": shape,
                    "case": name,
                    "what": what,
                    **measure(model, ids, train, options),
                    "gap": f"{difference:.0e}",
                }
                results.append(row)
                if not options.json:
                    print("  ".join(f"{k}={v}" for k, v in row.items()), flush=True)
    if options.json:
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
