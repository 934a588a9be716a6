"""A tiny random Qwen2 with a real byte-level BPE tokenizer and a chat template, made in half a second.

For tests, examples and smoke runs where no model can be downloaded. Its weights are random: scores mean nothing.
The chat template is our own wording of the ChatML form that Qwen's instruct models use.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sotopia_rl_data.errors import InputError

HEADS = 4
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe yourself.<|im_end|>\\n' }}{% endif %}"
    "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{%- else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_TEXT = (
    "You and the other person talk. Your goal, your secret, the scenario and the turn number are given. ",
    '{"action_type": "speak", "argument": "I would like that very much, thank you."} ',
    '{"action_type": "non-verbal communication", "argument": "nods and smiles"} ',
    '{"action_type": "none", "argument": ""} ',
    "Turn #0: one said: hello, how are you today? ",
    "Turn #12: another said: let us find a compromise that works for both. ",
)


def make_tiny(
    path: str | Path,
    *,
    hidden: int = 64,
    layers: int = 2,
    kv_heads: int = 2,
    vocab: int = 1024,
    seed: int = 0,
    context: int = 8192,
    text: Iterable[str] = _TEXT,
) -> Path:
    """Write a causal model of `layers` layers and width `hidden` (float32), with tokenizer, to `path`; returns it.

    It has HEADS attention heads, `kv_heads` of them with keys and values, and reads at most `context` tokens.
    The vocabulary is learned from `text`, at most `vocab` entries, byte-level, so that any string can be encoded.
    """
    from transformers import Qwen2Config, Qwen2ForCausalLM, set_seed

    out = Path(path)
    tokenizer = tiny_tokenizer(vocab, text, context)
    tokenizer.save_pretrained(out)
    set_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 4,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(out)
    return out


def tiny_tokenizer(vocab: int = 1024, text: Iterable[str] = _TEXT, context: int = 8192) -> Any:
    """A byte-level BPE tokenizer with ChatML turns: `<|im_end|>` ends a turn, `<|endoftext|>` pads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    learn = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(text, learn)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[0],
        chat_template=TEMPLATE,
        model_max_length=context,
    )


def model_for_samples(out: str | Path) -> Path:
    """A tiny model whose vocabulary is that of the bundled samples; one that is there already stays. Returns `out`."""
    import shutil
    import tempfile

    from sotopia_rl_data.samples import path

    out = Path(out)
    if (out / "config.json").is_file():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        make_tiny(beside, vocab=2048, text=[path("plain").read_text(encoding="utf-8")])
        beside.chmod(0o755)  # as any folder; a temporary one is its owner's alone
        beside.rename(out)
    except OSError as error:
        if not (out / "config.json").is_file():  # where it is, another process was faster
            raise InputError(
                f"{out} cannot be written: {error.strerror}.", "empty the folder, or name another: --model"
            ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return out


if __name__ == "__main__":  # `python -m sotopia_rl_data.trainers.tiny DIR` writes a tiny model for the bundled samples
    import sys

    print(model_for_samples(sys.argv[1]))
