"""An answer's JSON schema in words, for servers that take none as a parameter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sotopia_rl_data.schema import Message


def with_schema_in_words(messages: Sequence[Message], schema: Mapping[str, Any]) -> list[Message]:
    """The same messages, the schema written at the end of the last."""
    words = f"\n\nAnswer with one JSON object and nothing else. It must obey this JSON Schema:\n{json.dumps(schema)}"
    last = messages[-1]
    return [*messages[:-1], {"role": last["role"], "content": last["content"] + words}]
