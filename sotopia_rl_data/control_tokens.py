"""Texts in which the control tokens of a tokenizer are plain text.

A chat template puts texts between tokens such as `<|im_end|>`, and a tokenizer takes these for what they say wherever
they stand: an utterance that spells one would end its turn and could go on as somebody else. So a space is put behind
the first character of each: `< |im_end|>`. Texts without a control token are encoded as before.

Leaves out what templates mark with plain words ("### assistant:"), and added tokens that the tokenizer does not call
special, since code and tags in people's texts are among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from sotopia_rl_data.schema import Message

RULE = 1  # another number where texts are changed otherwise: part of the key of token ids that are kept
_SHORTEST = 3  # characters of a control token; shorter ones are ordinary text


class ControlTokens:
    """The control tokens of a Hugging Face tokenizer, as it is now."""

    def __init__(self, tokenizer: Any) -> None:
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        names = {str(token) for token in added if token.special} | set(getattr(tokenizer, "all_special_tokens", ()))
        long = sorted((name for name in names if len(name.strip()) >= _SHORTEST), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, long))) if long else None

    def plain(self, text: str) -> str:
        """The text with a space inside each control token."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda token: f"{token[0][0]} {token[0][1:]}", text)

    def plain_messages(self, messages: Iterable[Message]) -> list[Message]:
        """The messages with such texts; a message without a control token is the same object."""
        return [self._plain_message(message) for message in messages]

    def _plain_message(self, message: Message) -> Message:
        text = self.plain(message["content"])
        return message if text == message["content"] else {**message, "content": text}
