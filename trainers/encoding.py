"""From messages to token ids, the same way in training and in use.

The chat template of the model's own tokenizer renders prompt and completion together. What it writes after the
assistant's closing token (usually a newline) is cut off, so that the score is always read at the token that ends the
turn. A prompt that does not fit loses whole turns in the middle of its history; the answer is never cut. The reward
model is trained on token ids (`Encoder.encode`), policies on messages that fit (`dialogues`), which TRL renders.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sotopia_rl_data.control_tokens import ControlTokens
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.schema import Message
from sotopia_rl_data.tables import MESSAGES
from sotopia_rl_data.trainers.data import DatasetRow, DatasetRows
from sotopia_rl_data.trainers.modeling import (
    check_vocabulary,
    fingerprint,
    first_line,
    loading_errors,
    split_revision,
    vocabulary_of,
)
from sotopia_rl_data.trainers.reward_model.tree import shared_prefix
from sotopia_rl_data.trainers.templates import HINT, Use, check_roles, check_texts, prepare_template
from sotopia_rl_data.trainers.tokenised import Tokenised, tokenised

if TYPE_CHECKING:
    from datasets import Dataset

    from sotopia_rl_data.trainers.config import TrainerConfig

# The beginning of a turn in a prompt: as the simulator's observations write it, or as our own view does.
TURN = re.compile(r"^(?:Turn #\d+|\[\d+\] )", re.MULTILINE)
BATCH = 256
KEYS = {  # columns that GRPO's reward functions receive too
    "episode_id": pa.string(),
    "environment_id": pa.string(),
    "agent": pa.string(),
    "turn": pa.int32(),
    "reward": pa.float64(),
}
Dialogue = tuple[Sequence[Message], Sequence[Message]]  # (prompt, completion)
ASSISTANT: tuple[Message, ...] = ({"role": "assistant", "content": ""},)
CUT = "[{count} turns are left out here]"


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids from the start of the prompt to the token that ends the assistant's turn; `turns_cut` is how many turns
    were left out. `whole` goes on to all that the template writes after the turn; `text` is what it was made of."""

    ids: NDArray[np.int32]
    whole: NDArray[np.int32]
    text: str
    turns_cut: int = 0


@dataclass(frozen=True, slots=True)
class Cuts:
    """What was cut so that rows fit: `turns` turns from `prompts` prompts; `too_long` rows do not fit even then."""

    turns: int
    prompts: int
    too_long: int


def count_cuts(encoded: Sequence[Encoded | None]) -> dict[str, int]:
    """What was cut so that these rows fit, by the fields of `Cuts`; a row that does not fit is None."""
    turns = [row.turns_cut for row in encoded if row is not None]
    return {"turns": sum(turns), "prompts": sum(count > 0 for count in turns), "too_long": len(encoded) - len(turns)}


def cuts_of_all(found: Tokenised, most: int | None) -> Cuts:
    """What was cut so that rows fit into `most` tokens. Raises InputError where none fits."""
    if not found.splits:
        raise none_fits(most)
    return Cuts(found.total("turns"), found.total("prompts"), found.total("too_long"))


def none_fits(most: int | None) -> InputError:
    """What is wrong where no row fits into `most` tokens."""
    return InputError(
        f"No prompt fits into {most} tokens, even with its history cut.",
        "raise max_length (grpo: max_prompt_length) with --set, or take a model with a longer context",
    )


class Encoder:
    """Renders and tokenises with one tokenizer, for one `use`. Raises InputError where it has no chat template, or one
    in which no special token ends an assistant's turn."""

    def __init__(self, tokenizer: Any, max_length: int | None = None, use: Use = "rm") -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise InputError(f"{_name(tokenizer)} has no chat template, so it cannot be given a dialogue.", HINT)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.use = use
        self._control = ControlTokens(tokenizer)
        self._checked: set[tuple[str, ...]] = set()  # the sequences of roles that the template has been tried with
        self._is_blank: dict[int, bool] = {}  # by token id: whether its text is only white space
        self._borders = Borders(tokenizer)
        self.end_of_turn = self._end_of_turn()

    def settings(self) -> dict[str, Any]:
        """What decides how a dialogue is encoded, as JSON values: the key of what is kept of it."""
        return {
            "tokenizer": fingerprint(self.tokenizer),
            "rules": _rules_of(self.tokenizer),
            "libraries": [version("tokenizers"), version("transformers")],
            "max_length": self.max_length,
            "use": self.use,
        }

    def encode(self, dialogues: Sequence[Dialogue]) -> list[Encoded | None]:
        """Each (prompt, completion) as ids; None where even the shortest form is longer than `max_length`.

        Where no completion is given, the ids are those with which a policy is asked for one. Raises InputError where
        the template cannot be used for dialogues of such roles.
        """
        encoded: list[Encoded | None] = []
        for at in range(0, len(dialogues), BATCH):  # the Python integers of all dialogues at once would fill the memory
            batch = dialogues[at : at + BATCH]
            for prompt, completion in batch:
                self._check(prompt, completion)
            asking = not any(completion for _, completion in batch)
            rendered = self._render([[*prompt, *completion] for prompt, completion in batch], asking)
            for one, (prompt, completion) in zip(rendered, batch, strict=True):
                encoded.append(one if self._fits(one.ids) else self._shortened(prompt, completion))
        return encoded

    def prompts(self, prompts: Sequence[Sequence[Message]]) -> list[NDArray[np.int32]]:
        """Prompts as the ids with which a policy is asked for an answer, whatever their length."""
        return [one.ids for one in self._render([list(prompt) for prompt in prompts], asking=True)]

    def answer_starts(self, prompts: Sequence[Sequence[Message]], rows: Sequence[Encoded]) -> list[int]:
        """How many ids of each row's `whole` are those with which a policy is asked, given the prompt: from there on,
        the template writes the answer."""
        texts = self._texts([list(prompt) for prompt in prompts], asking=True)
        borders = [self._borders.last_of(text, row) for text, row in zip(texts, rows, strict=True)]
        rests = self._ids([text[at:] for text, (at, _) in zip(texts, borders, strict=True)])  # before, both are equal
        return [
            start + shared_prefix(asked, row.whole[start:])
            for asked, row, (_, start) in zip(rests, rows, borders, strict=True)
        ]

    def encode_rendered(self, texts: Sequence[str]) -> list[Encoded | None]:
        """Texts that the chat template has rendered, as ids; None where one is longer than `max_length`."""
        if not texts:
            return []
        rows = [self._without_blank_end(ids, text) for ids, text in zip(self._ids(texts), texts, strict=True)]
        return [one if len(one.ids) and self._fits(one.ids) else None for one in rows]

    def _shortened(self, prompt: Sequence[Message], completion: Sequence[Message]) -> Encoded | None:
        def rendered(count: int) -> Encoded:
            return self._render([[*without_turns(prompt, count), *completion]], not completion)[0]

        count = fewest(cuts_of(prompt), lambda n: self._fits(rendered(n).ids))
        return None if count is None else replace(rendered(count), turns_cut=count)

    def _check(self, prompt: Sequence[Message], completion: Sequence[Message]) -> None:
        """Raises InputError where the template cannot be used for the first dialogue of such roles."""
        roles = tuple(message["role"] for message in (*prompt, *(completion or ASSISTANT)))
        if roles[-1] != "assistant":
            raise InputError(
                f"A completion ends with a message of the role {roles[-1]!r}, and an answer is the assistant's.",
                "import the rows anew with completions of the role assistant",
            )
        if roles not in self._checked:
            check_roles(self.tokenizer, roles, self.use)
            check_texts(self.tokenizer, self.plain((*prompt, *completion)), asking=not completion)
            self._checked.add(roles)

    def plain(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with their texts' control tokens as plain text."""
        return self._control.plain_messages(messages)

    def _fits(self, ids: Sized) -> bool:
        return self.max_length is None or len(ids) <= self.max_length

    def _render(self, dialogues: list[list[Message]], asking: bool = False) -> list[Encoded]:
        """Whole dialogues up to the token that ends them; or, `asking` for an answer, prompts to their last token."""
        texts = self._texts(dialogues, asking)
        rows = zip(self._ids(texts), texts, strict=True)
        return [Encoded(ids, ids, text) if asking else self._without_blank_end(ids, text) for ids, text in rows]

    def _texts(self, dialogues: list[list[Message]], asking: bool) -> list[str]:
        """Dialogues as the template writes them. Raises InputError where it fails."""
        if not dialogues:
            return []
        try:
            plain = [self.plain(messages) for messages in dialogues]
            return list(self.tokenizer.apply_chat_template(plain, add_generation_prompt=asking, tokenize=False))
        except Exception as error:  # a template is a program, which may raise anything
            raise InputError(f"The chat template cannot render a dialogue: {first_line(error)}.", HINT) from error

    def _ids(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Texts as the tokenizer encodes them; a fast one without computing where in the text each token lies."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            rows = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        else:
            backend.no_truncation()
            backend.no_padding()
            rows = [one.ids for one in backend.encode_batch_fast(texts, add_special_tokens=False)]
        return [np.array(ids, dtype=np.int32) for ids in rows]

    def _without_blank_end(self, whole: NDArray[np.int32], text: str) -> Encoded:
        """The ids up to the last one that is not only white space."""
        end = len(whole)
        while end and self._blank(int(whole[end - 1])):
            end -= 1
        return Encoded(whole[:end], whole, text)

    def _blank(self, token: int) -> bool:
        if token not in self._is_blank:
            self._is_blank[token] = not self.tokenizer.decode([token]).strip()
        return self._is_blank[token]

    def _end_of_turn(self) -> int:
        """The token that closes an assistant's turn, found by rendering one. Raises InputError where none does."""
        probe: list[Message] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        ids = self._render([probe])[0].ids
        last = int(ids[-1]) if len(ids) else None
        if last is None or last not in {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}:
            raise InputError(
                "The chat template does not end an assistant's turn with a special token, which tells where it ends.",
                HINT,
            )
        return last


class Borders:
    """The added tokens of a tokenizer, at which it splits a text before all else: the ids of what stands before one are
    the same whatever follows it."""

    def __init__(self, tokenizer: Any) -> None:
        added = getattr(tokenizer, "added_tokens_decoder", {})
        exact = {number: str(one) for number, one in added.items() if not (one.normalized or one.single_word)}
        longest = sorted(exact.values(), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest)) or "(?!)")
        self._ids = np.array(list(exact), dtype=np.int32)

    def last_of(self, text: str, row: Encoded) -> tuple[int, int]:
        """Where the last added token of `text` begins in it, and in the ids of `row`, whose text begins as `text` does
        up to there; 0, 0 where that cannot be told."""
        marks = list(self._pattern.finditer(text))
        if not marks or row.text[: marks[-1].end()] != text[: marks[-1].end()]:
            return 0, 0
        before, at = len(marks) - 1, marks[-1].start()
        places = np.flatnonzero(np.isin(row.whole, self._ids))
        if before + len(self._pattern.findall(row.text, at)) != len(places):  # plain text can make such an id too
            return 0, 0
        return at, int(places[before])


@dataclass(frozen=True, slots=True)
class Dialogues:
    """Rows whose prompts fit, as a `datasets.Dataset` for each split, what was cut for that, and a few of the `longest`
    prompts of train and validation."""

    splits: dict[str, Dataset]
    cuts: Cuts
    longest: tuple[Sequence[Message], ...] = ()


def dialogues(data: DatasetRows, encoder: Encoder, with_completion: bool, show: bool = False) -> Dialogues:
    """Every row's prompt, cut to fit, in key order; where completions are trained on, prompt and completion must fit.

    `show` a bar where it takes long. Raises InputError where none fits.
    """

    def encode(rows: Sequence[DatasetRow]) -> tuple[pa.Table, dict[str, int]]:
        return _fitted(rows, encoder, with_completion)

    settings = {"kind": "dialogues", "with_completion": with_completion, **encoder.settings()}
    found = tokenised(data, encode, settings, show)
    cuts = cuts_of_all(found, encoder.max_length)
    longest: list[Sequence[Message]] = []
    for split in [name for name in ("train", "validation") if name in found.splits]:
        rows = found.splits[split]
        lengths = rows.select_columns(["tokens"]).with_format("arrow")[:].column("tokens").to_numpy()
        longest += [rows[int(at)]["prompt"] for at in np.argsort(lengths, kind="stable")[-4:]]
    splits = {split: of_split.remove_columns("tokens") for split, of_split in found.splits.items()}
    return Dialogues(splits, cuts, tuple(longest))


def _fitted(rows: Sequence[DatasetRow], encoder: Encoder, with_completion: bool) -> tuple[pa.Table, dict[str, int]]:
    """The rows that fit, as messages, with the `tokens` of each; and what was cut."""
    encoded = encoder.encode([(row.prompt, row.completion if with_completion else ()) for row in rows])
    kept = [(row, fitted) for row, fitted in zip(rows, encoded, strict=True) if fitted is not None]
    prompts = [encoder.plain(without_turns(row.prompt, fitted.turns_cut)) for row, fitted in kept]
    tokens = [len(fitted.ids) for _, fitted in kept]
    columns = {"prompt": pa.array(prompts, MESSAGES), "tokens": pa.array(tokens, pa.int32())}
    if with_completion:
        columns["completion"] = pa.array([encoder.plain(row.completion) for row, _ in kept], MESSAGES)
    else:
        columns |= {name: pa.array([getattr(row, name) for row, _ in kept], kind) for name, kind in KEYS.items()}
    return pa.table(columns), count_cuts(encoded)


def tokenised_dialogues(data: DatasetRows, encoder: Encoder, completion_only: bool, show: bool = False) -> Dialogues:
    """Prompt and completion of every row, cut to fit, as `input_ids` and `labels` just as TRL makes them of messages;
    with `completion_only`, the labels of a prompt are -100. Raises InputError where none fits."""

    def encode(rows: Sequence[DatasetRow]) -> tuple[pa.Table, dict[str, int]]:
        return _imitated(rows, encoder, completion_only)

    settings = {"kind": "imitated", "completion_only": completion_only, **encoder.settings()}
    found = tokenised(data, encode, settings, show)
    return Dialogues(dict(found.splits), cuts_of_all(found, encoder.max_length))


def _imitated(rows: Sequence[DatasetRow], encoder: Encoder, completion_only: bool) -> tuple[pa.Table, dict[str, int]]:
    encoded = encoder.encode([(row.prompt, row.completion) for row in rows])
    kept = [(row, fitted) for row, fitted in zip(rows, encoded, strict=True) if fitted is not None]
    ids = [fitted.whole[: encoder.max_length] for _, fitted in kept]
    labels = [row.copy() for row in ids]
    if completion_only:
        prompts = [without_turns(row.prompt, fitted.turns_cut) for row, fitted in kept]
        for label, start in zip(labels, encoder.answer_starts(prompts, [fitted for _, fitted in kept]), strict=True):
            label[:start] = -100
    kind = pa.list_(pa.int32())
    return pa.table({"input_ids": pa.array(ids, kind), "labels": pa.array(labels, kind)}), count_cuts(encoded)


def check_padding(tokenizer: Any) -> None:
    """Raises InputError where there is no padding token, or where it also ends the turn."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        state = "is also its end-of-text token" if tokenizer.pad_token_id is not None else "is not set"
        raise InputError(
            f"The padding token of {_name(tokenizer)} {state}: a reward model would read its score a token too early.",
            "name another one: --set pad_token='<|some_unused_token|>'",
        )


def _rules_of(tokenizer: Any) -> str | None:
    """SHA-256 of all that a fast tokenizer splits texts by: merges, normaliser, flags of added tokens; else None."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    return sha256_of({**json.loads(backend.to_str()), "padding": None, "truncation": None})


def _name(tokenizer: Any) -> str:
    return getattr(tokenizer, "name_or_path", "") or "the model"


def tokenizer_of(config: TrainerConfig) -> Any:
    """The tokenizer that a run's configuration names, with the chat template that the run uses. A policy that starts
    from an adapter is asked as the adapter was trained.

    Raises NotFound, and what `load_tokenizer`, `prepare_template` and `check_vocabulary` raise.
    """
    name, revision = split_revision(config.model)
    template = config.chat_template
    if config.kind in ("grpo", "dpo") and config.policy_adapter and template is None:
        template = template_beside(config.policy_adapter)
    with loading_errors(config.model):
        tokenizer = load_tokenizer(name, pad_token=config.pad_token, chat_template=template, revision=revision)
        size = vocabulary_of(config.model)
    prepare_template(tokenizer, config.kind, config.template_kwargs)
    check_vocabulary(tokenizer, size, config.model)
    return tokenizer


def template_beside(adapter: str) -> str | None:
    """The path of the chat template that was saved with an adapter; None where there is none."""
    from transformers.utils import cached_file

    name, revision = split_revision(adapter)
    missing = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_gated_repo": False}
    with loading_errors(adapter):
        path: str | None = cached_file(name, "chat_template.jinja", revision=revision, **missing)
    return path


def load_tokenizer(
    name: str, *, pad_token: str | None = None, chat_template: str | None = None, revision: str | None = None
) -> Any:
    """The tokenizer of a model, with another padding token or chat template (a file's path) where one is named.

    Raises InputError where the template cannot be read, UsageError where the padding token is not in its vocabulary.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    if chat_template is not None:
        try:
            tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The chat template {chat_template} cannot be read: {error}.", "check the path") from error
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            raise UsageError(
                f"{pad_token!r} is not in the vocabulary of {name}.", "name a token of the vocabulary that no text uses"
            )
        tokenizer.pad_token = pad_token
    return tokenizer


def fewest(counts: Sequence[int], enough: Callable[[int], bool]) -> int | None:
    """The smallest of the ascending `counts` for which `enough` (monotone) is true; None where none is enough."""
    if not counts or not enough(counts[-1]):
        return None
    low, high = 0, len(counts) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(counts[middle]) else (middle + 1, high)
    return counts[low]


def cuts_of(prompt: Sequence[Message]) -> range:
    """The numbers of turns that can be left out, ascending. The first and the last turn shown always stay."""
    if _pairs(prompt):
        return range(2, 2 * _pairs(prompt) + 1, 2)
    return range(1, len(TURN.findall(prompt[-1]["content"])) - 1) if prompt else range(0)


def without_turns(prompt: Sequence[Message], count: int) -> list[Message]:
    """The prompt without the `count` turns that follow the first one of its history; a line says how many are left out.

    `count` is one of `cuts_of(prompt)`, or 0. In the chat layout turns are messages and are removed in pairs, so that
    the roles keep alternating. In the single layout they are the blocks of the last message that begin with `TURN`.
    """
    if count == 0:
        return list(prompt)
    note = CUT.format(count=count)
    if not _pairs(prompt):
        starts = [m.start() for m in TURN.finditer(prompt[-1]["content"])]
        text = prompt[-1]["content"]
        kept = f"{text[: starts[1]]}{note}\n{text[starts[1 + count] :]}"
        return [*prompt[:-1], {"role": prompt[-1]["role"], "content": kept}]
    head = _head(prompt)
    opening: Message = {"role": prompt[head - 1]["role"], "content": f"{prompt[head - 1]['content']}\n{note}"}
    return [*prompt[: head - 1], opening, *prompt[head + count :]]


def _head(prompt: Sequence[Message]) -> int:
    """How many leading messages set the scene: the system's, and the first other one."""
    return next((i + 1 for i, m in enumerate(prompt) if m["role"] != "system"), len(prompt))


def _pairs(prompt: Sequence[Message]) -> int:
    """Pairs of messages between the scene and the last message."""
    return max(0, (len(prompt) - _head(prompt) - 1) // 2)
