"""What nobody has measured yet: reward models and GRPO steps on one GPU, in about ten minutes.

    python benchmarks/gpu.py                 # one GPU; for the GRPO steps, vLLM beside the train extra
    python benchmarks/gpu.py --smoke         # tiny shapes on a CPU, without vLLM: to see that it runs

Random weights of the 0.5B and 7B shapes, LoRA on every linear layer, bfloat16, gradient checkpointing. It prints a JSON
line for each: tokens/s, model FLOP utilisation (4·N a token: forward, and backward through frozen weights; attention
not counted), packed against plain rows and both attentions; the most memory that was allocated, beside what `train
--plan` counts, so that the difference is what kernels and the allocator take in passing; the seconds of a GRPO step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tree_packing import PEAKS, SHAPES, cases, model_of, plain_batches, timed
from tree_packing import run as forward_and_backward

from sotopia_rl_data.trainers.config import RMConfig
from sotopia_rl_data.trainers.memory import ActivationCounts, static_of
from sotopia_rl_data.trainers.reward_model.attention import tree_inputs
from sotopia_rl_data.trainers.reward_model.tree import pack
from sotopia_rl_data.trainers.tiny import tiny_tokenizer


def lora(model: Any, checkpointing: bool = True) -> Any:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=16, lora_alpha=32, target_modules="all-linear"))
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    return model.train()


def reward_models(shapes: list[str], device: str, out: str) -> Iterator[dict[str, Any]]:
    """Forward and backward of one episode-agent's utterances, plain and packed."""
    peak = next((of for name, of in PEAKS.items() if device == "cuda" and name in torch.cuda.get_device_name()), None)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    attentions = ("prefix_tree", "flex_attention") if device == "cuda" else ("prefix_tree",)
    config = RMConfig(output_dir=out, adapter="lora", gradient_checkpointing=True, use_cpu=device == "cpu", bf16=False)
    for shape in shapes:
        for attention in attentions:
            model = lora(model_of(shape, dtype, device, attention))
            with torch.device("meta"):
                meta = lora(model_of(shape, dtype, "meta", "prefix_tree"), checkpointing=False)
            frozen = sum(one.numel() for name, one in model.named_parameters() if "embed" not in name)
            for layout, ids in cases(20).items():
                tree = tree_inputs(pack(ids))
                packed = [{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in tree.items()}]
                plain = plain_batches(ids, 4, device)
                for rows, batches in (("packed", packed), ("plain", plain)):
                    if attention != "prefix_tree" and rows == "plain":
                        continue
                    if device == "cuda":
                        torch.cuda.reset_peak_memory_stats()
                    seconds = timed(partial(forward_and_backward, model, batches, True), device, 3)
                    tokens = sum(batch["input_ids"].numel() for batch in batches)
                    row = {"shape": shape, "attention": attention, "layout": layout, "rows": rows, "tokens": tokens}
                    row |= {"seconds": round(seconds, 4), "tokens/s": round(tokens / seconds)}
                    row |= {"utterances/s": round(len(ids) / seconds, 1)}
                    if peak:
                        row["MFU %"] = round(100 * 4 * frozen * tokens / seconds / (peak * 1e12), 1)
                    if device == "cuda":
                        row["allocated GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
                    if rows == "packed":
                        static, found = static_of(meta, config), ActivationCounts().of(meta, config, tree)
                        counted = static.weights + static.gradients + found.saved + found.recomputed
                        row["counted GiB"] = round(counted / 2**30, 3)
                    yield row
            if device == "cuda":
                torch.cuda.empty_cache()


def grpo(root: Path, shape: str, with_vllm: bool) -> dict[str, Any]:
    """Seconds of a GRPO step of 8 prompts and 64 completions, by a random policy and reward model of this shape."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    hidden, inner, layers, heads, kv, vocab = SHAPES[shape]
    tokenizer = tiny_tokenizer(vocab=2048, context=8192)
    tokenizer.save_pretrained(root / "policy")
    config = Qwen2Config(
        vocab_size=max(vocab, len(tokenizer)), hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=8192, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(root / "policy")
    program = [sys.executable, "-m", "sotopia_rl_data"]
    common = ["--dataset", "lab/e-rewards", "--store", str(root / "store"), "--model", str(root / "policy")]
    steps = ["max_steps=3", "save_strategy=no", "eval_strategy=no", "disable_tqdm=true"] if with_vllm else []
    settings = [word for setting in steps for word in ("--set", setting)]

    def run(*words: str) -> None:
        done = subprocess.run([*program, *words], stdout=subprocess.DEVNULL)
        if done.returncode not in (0, 3):  # 3: not everything could be labelled, as usual
            sys.exit(done.returncode)

    run("import", "--name", "lab/e", "--store", str(root / "store"))
    run("label", "lab/e", "--judge", "lexical", "--preset", "goal-only", "--store", str(root / "store"))
    presets = ("default", "1x80gb") if with_vllm else ("tiny", "tiny")
    run("train", "rm", *common, "--preset", presets[0], *settings, "-o", str(root / "rm"))
    began, policy = time.perf_counter(), root / "grpo"
    judged = ["--reward-model", str(root / "rm")]
    run("train", "grpo", *common, "--preset", presets[1], *judged, *settings, "-o", str(policy))
    logged = [json.loads(line) for line in (policy / "metrics.jsonl").read_text().splitlines()]
    times = [row["time"] for row in logged if "reward" in row]
    return {
        "shape": shape,
        "grpo": "vLLM, colocated" if with_vllm else "transformers",
        "seconds a step": round((times[-1] - times[0]) / max(1, len(times) - 1), 2),
        "seconds in all": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny shapes on a CPU, without vLLM")
    smoke = parser.parse_args().smoke
    if not smoke and not torch.cuda.is_available():
        print("There is no GPU here: python benchmarks/gpu.py --smoke tries the script on a CPU.")
        return
    with tempfile.TemporaryDirectory() as folder:
        for row in reward_models(["64"] if smoke else ["0.5B", "7B"], "cpu" if smoke else "cuda", folder):
            print(json.dumps(row), flush=True)
        print(json.dumps(grpo(Path(folder), "64" if smoke else "0.5B", with_vllm=not smoke)), flush=True)


if __name__ == "__main__":
    main()
