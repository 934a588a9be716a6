"""A trained reward model, in use: `RewardModel.load("org/name@rev").score(prompt, completion)`.

It loads what `train rm` writes (a whole checkpoint or an adapter) and any stock sequence classifier. Prompts and
completions are messages or plain text. They are rendered by the model's own tokenizer and template, whatever tokenizer
the policy has, and the score is read at the token that ends the turn. Dialogues that share prefixes are scored in one
packed row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoModelForSequenceClassification

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.hashing import file_sha256
from sotopia_rl_data.schema import Message
from sotopia_rl_data.trainers.encoding import Encoded, Encoder, check_padding, load_tokenizer
from sotopia_rl_data.trainers.modeling import (
    check_adapter,
    check_patterns,
    check_vocabulary,
    context_of,
    fingerprint,
    loading_errors,
    split_revision,
    without_reports,
)
from sotopia_rl_data.trainers.reward_model import attention
from sotopia_rl_data.trainers.reward_model.head import FILE, KEY, RewardHead, from_config, load
from sotopia_rl_data.trainers.reward_model.precision import with_float32_head
from sotopia_rl_data.trainers.reward_model.tree import pack, shared_prefix
from sotopia_rl_data.trainers.templates import correct

Ids = NDArray[np.int32]
Text = str | Sequence[Message]
Dialogue = tuple[Text, Text]
RIGHT_MODEL = "name a folder that `train rm` wrote, or a sequence classifier"


class RewardModel:
    """Scores utterances. `head` says which targets it predicts and in which units, `name` and `revision` which model it
    is."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        name: str = "",
        revision: str | None = None,
        max_length: int | None = None,
        row_tokens: int = 16384,
    ) -> None:
        self.model = model.eval()
        self.name = name
        self.revision = revision
        self.head: RewardHead = from_config(model.config)
        check_padding(tokenizer)
        if not self.head.tokenizer and getattr(tokenizer, "chat_template", None):  # somebody else's: never tried
            correct(tokenizer, "rm")
        self.encoder = Encoder(tokenizer, min(filter(None, (max_length, context_of(model.config))), default=None))
        self.row_tokens = row_tokens
        self.packs: bool | None = None if attention.can_read_many(model) else False  # None: not tested yet
        self.batches: bool | None = None
        self._tested = np.array([0, 0])  # the longest sequence, and the most segments, of a row that was tested
        text_config = model.config.get_text_config()
        if text_config.pad_token_id is None:  # stock forwards refuse batches then
            model.config.pad_token_id = text_config.pad_token_id = tokenizer.pad_token_id
        check_vocabulary(tokenizer, model.get_input_embeddings().num_embeddings, name or "the reward model")
        if self.head.tokenizer and self.head.tokenizer != fingerprint(tokenizer):
            raise InputError(
                f"The tokenizer or chat template of {name or 'the reward model'} is not the one it was trained with.",
                "put back the tokenizer files that `train rm` wrote",
            )

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        max_length: int | None = None,
        row_tokens: int = 16384,
    ) -> RewardModel:
        """From a directory or a Hub id (`org/name`, `org/name@revision`), onto `device` (default: a GPU, if any).

        Raises NotFound where it cannot be loaded, InputError where tokenizer and model do not belong together.
        """
        where, pinned = split_revision(str(name))
        revision = revision or pinned
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        with loading_errors(str(name)), without_reports():
            local = snapshot(where, revision)
            model = _load(local, dtype or (torch.bfloat16 if str(device).startswith("cuda") else torch.float32))
            beside, commit = _tokenizer_of(local)
            tokenizer = load_tokenizer(beside, revision=commit)
        return cls(
            model.to(device),
            tokenizer,
            name=where,
            revision=identifier(local, where),
            max_length=max_length,
            row_tokens=row_tokens,
        )

    @property
    def identity(self) -> str:
        """`name@revision`, for the judge's name and the record of a run."""
        name = Path(self.name).resolve().name if Path(self.name).exists() else self.name
        return f"{name}@{self.revision}" if self.revision else name

    def record(self) -> dict[str, Any]:
        """What a run's record says of it."""
        return {"identity": self.identity, "head": self.head.to_config()}

    def conditions(self) -> dict[str, Any]:
        """What its scores depend on beside what `identity` names, as JSON values."""
        adapter = Path(self.name) / "adapter_config.json"
        return {
            "encoding": self.encoder.settings(),
            "dtype": str(next(self.model.parameters()).dtype),
            "adapter": file_sha256(adapter) if self.name and adapter.exists() else None,
        }

    def score(self, prompt: Text, completion: Text) -> float:
        """The reward of `completion` as the answer to `prompt`, in the units of the dataset it was trained on.

        Raises InputError where the prompt, even with its history cut, does not fit the model's context.
        """
        return float(self.score_batch([(prompt, completion)])[0])

    def score_batch(self, dialogues: Iterable[Dialogue]) -> NDArray[np.float64]:
        """[N] rewards; several heads as their weighted mean. Raises InputError as `score` does."""
        return self.head.aggregate(self.score_heads(dialogues))

    def score_heads(self, dialogues: Iterable[Dialogue]) -> NDArray[np.float64]:
        """[N, K] rewards by target, in the order of `head.targets`."""
        pairs = [(messages(prompt, "user"), messages(completion, "assistant")) for prompt, completion in dialogues]
        return self._of_encoded(self.encoder.encode(pairs))

    def score_rendered(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """[N, K] rewards of whole dialogues that are texts in the model's own chat template already. Raises InputError
        where one is blank or does not fit the model's context."""
        if not all(text.strip() for text in texts):
            raise InputError("A text is blank.", "send whole dialogues")
        return self._of_encoded(self.encoder.encode_rendered(texts))

    def _of_encoded(self, encoded: Sequence[Encoded | None]) -> NDArray[np.float64]:
        if any(row is None for row in encoded):
            raise InputError(
                f"A prompt does not fit into the {self.encoder.max_length} tokens of {self.name or 'the model'}.",
                "shorten the prompt, or use a reward model with a longer context",
            )
        ids = [row.ids for row in encoded if row is not None]
        logits = np.zeros((len(ids), len(self.head.targets)))
        with torch.no_grad():
            for rows in packed_rows(ids, self.row_tokens):
                logits[rows] = self._packed([ids[i] for i in rows])
        return self.head.rewards(logits)

    def _packed(self, ids: Sequence[Ids]) -> NDArray[np.float32]:
        """Logits of sequences that share prefixes: in one row where the model allows it. That is tested with the first
        row, and again where one is twice as long, or branches twice as much, as any that was tested."""
        if self.packs is False:
            return self._in_batches(ids)
        tree = pack(ids)
        packed = self._logits(attention.tree_inputs(tree))
        size = np.array([max(map(len, ids)), len(tree.segments)])
        if len(ids) == 1 or (self.packs and (size <= 2 * self._tested).all()):
            return packed
        self._tested = np.maximum(self._tested, size)
        alone = self._one_by_one(ids)
        allowed = attention.allowed_gap(self.model, alone, self._padded(ids[:4]))
        self.packs = attention.relative_gap(packed, alone) <= allowed
        return packed if self.packs else alone  # a score must not hang on what was scored before

    def _one_by_one(self, ids: Sequence[Ids]) -> NDArray[np.float32]:
        return np.concatenate([self._padded([sequence]) for sequence in ids])

    def _in_batches(self, ids: Sequence[Ids]) -> NDArray[np.float32]:
        """Logits of plain rows, padded to batches of at most `row_tokens` tokens, longest first; one by one where a
        first batch shows that the model's scores hang on the padding."""
        if self.batches is False:
            return self._one_by_one(ids)
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        parts = []
        while order:
            batch = order[: max(1, self.row_tokens // len(ids[order[0]]))]
            order = order[len(batch) :]
            parts.append((batch, self._batch([ids[i] for i in batch])))
        logits = np.zeros((len(ids), len(self.head.targets)), dtype=np.float32)
        for batch, of_batch in parts:
            logits[batch] = of_batch
        return logits

    def _batch(self, ids: Sequence[Ids]) -> NDArray[np.float32]:
        if len({len(sequence) for sequence in ids}) == 1 or self.batches:
            return self._padded(ids)
        alone = self._one_by_one(ids)
        if self.batches is None:
            padded, allowed = self._padded(ids), attention.allowed_gap(self.model, alone, alone)
            self.batches = attention.relative_gap(padded, alone) <= allowed
            return padded if self.batches else alone
        return alone

    def _padded(self, ids: Sequence[Ids]) -> NDArray[np.float32]:
        """Logits of one batch of sequences; padding is on the right, as the stock forward reads the last token before
        it."""
        shape = len(ids), max(map(len, ids))
        rows, mask = torch.full(shape, self.encoder.tokenizer.pad_token_id), torch.zeros(shape, dtype=torch.long)
        for row, sequence in enumerate(ids):
            rows[row, : len(sequence)] = torch.from_numpy(sequence.astype(np.int64))
            mask[row, : len(sequence)] = 1
        return self._logits({"input_ids": rows, "attention_mask": mask})

    def _logits(self, inputs: Mapping[str, Any]) -> NDArray[np.float32]:
        device = next(self.model.parameters()).device
        on_device = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
        logits: NDArray[np.float32] = self.model(**on_device).logits.float().cpu().numpy()
        return logits


def messages(text: Text, role: str) -> list[Message]:
    """Messages as they are; plain text as one message of `role` ("user" or "assistant")."""
    if isinstance(text, str):
        return [{"role": "assistant" if role == "assistant" else "user", "content": text}]
    return list(text)


def packed_rows(ids: Sequence[NDArray[np.int32]], row_tokens: int) -> Iterator[list[int]]:
    """For each packed row the numbers of its sequences: neighbours in sorted order, since these share prefixes, and at
    most `row_tokens` tokens when packed."""
    order = sorted(range(len(ids)), key=lambda i: ids[i].astype(">i4").tobytes())
    row: list[int] = []
    size = 0
    for i in order:
        new = len(ids[i]) - (shared_prefix(ids[row[-1]], ids[i]) if row else 0)
        if row and size + new > row_tokens:
            yield row
            row, size, new = [], 0, len(ids[i])
        row.append(i)
        size += new
    if row:
        yield row


def snapshot(name: str, revision: str | None) -> Path:
    """The directory of a model: itself, or the Hub's files at `revision` in the cache."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, revision=revision))


def identifier(local: Path, name: str) -> str:
    """What pins the model: the Hub's commit, or for a directory the SHA-256 of its weights (16 digits)."""
    if not Path(name).is_dir():
        return local.name
    digest = hashlib.sha256()
    for path in sorted(p for p in local.iterdir() if p.suffix == ".safetensors" or p.name in ("config.json", FILE)):
        digest.update(path.name.encode() + bytes.fromhex(file_sha256(path)))
    return digest.hexdigest()[:16]


def _tokenizer_of(local: Path) -> tuple[str, str | None]:
    """The model, and its revision, beside which the tokenizer is: the folder itself, or the base of its adapter."""
    adapter = local / "adapter_config.json"
    if (local / "tokenizer_config.json").exists() or not adapter.exists():
        return str(local), None
    settings = json.loads(adapter.read_text(encoding="utf-8"))
    return settings["base_model_name_or_path"], settings.get("revision")


def _load(local: Path, dtype: torch.dtype) -> nn.Module:
    """A whole checkpoint, or the base that an adapter names with the adapter merged into it."""
    adapter = local / "adapter_config.json"
    if not adapter.exists():
        model, info = AutoModelForSequenceClassification.from_pretrained(
            local, dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
        if info["missing_keys"]:  # these weights would be random: a policy, for example, has no score head
            raise InputError(f"{local} is not a reward model: it has no {min(info['missing_keys'])}.", RIGHT_MODEL)
        return attention.attend_as(with_float32_head(model, local), attention.NAME)
    from peft import PeftModel
    from peft.utils import load_peft_weights

    check_adapter(str(local), None, "SEQ_CLS", RIGHT_MODEL)
    settings = json.loads(adapter.read_text(encoding="utf-8"))
    head = load(local)
    check_patterns(settings["base_model_name_or_path"], settings.get("revision"))
    base, info = AutoModelForSequenceClassification.from_pretrained(
        settings["base_model_name_or_path"],
        revision=settings.get("revision"),
        num_labels=len(head["targets"]) if head else 1,
        dtype=dtype,
        output_loading_info=True,
        trust_remote_code=False,
    )
    own = load_peft_weights(str(local), device="cpu")
    for key in sorted(info["missing_keys"]):  # the head, which the adapter has to bring: else it would be random
        if not any(name.endswith(f".{key}") for name in own):
            raise InputError(f"The adapter {local} is not a reward model: it has no {key}.", RIGHT_MODEL)
    setattr(base.config, KEY, head)
    with_float32_head(base)
    return attention.attend_as(PeftModel.from_pretrained(base, local).merge_and_unload(), attention.NAME)
