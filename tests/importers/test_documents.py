"""The values inside a JSON document: the same however it is cut into blocks, and a mistake costs one of them."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sotopia_rl_data.importers.documents import json_document

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Cut(io.BytesIO):
    """A stream that gives a few bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data)
        self.size = size

    def read(self, size: int | None = -1) -> bytes:
        return super().read(self.size)


def values_of(text: str, depth: int, size: int = 1 << 20) -> list[Any]:
    """The values at this depth, and the reason in place of a value that cannot be read."""
    entries = json_document(Cut(text.encode("utf-8", "surrogatepass"), size), "a.json", depth)
    return [record.value if wrong is None else wrong.message for record, wrong in entries]


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(VALUES, max_size=5), st.integers(1, 9), st.sampled_from([None, 1]))
def test_a_document_is_the_same_in_blocks_of_any_size(values, size, indent):
    assert values_of(json.dumps(values, indent=indent, ensure_ascii=False), 1, size) == values
    assert values_of(json.dumps(values, indent=indent), 0, size) == [values]
    keyed = {f"k{i}": value for i, value in enumerate(values)}
    assert values_of(json.dumps(keyed, indent=indent), 1, size) == values
    assert values_of(json.dumps({"a": values, "b": 7, "c": values}, indent=indent), 2, size) == values * 2


@pytest.mark.parametrize("size", [1, 3, 1 << 20])
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ('{"a": oh}', "not JSON: Expecting value at character 7."),
        ("oh", "not JSON: Expecting value at character 1."),
        ('{"a" 1}', "not JSON: Expecting ':' delimiter at character 6."),
        ('{"a": "\\ud800"}', "its text holds half of a surrogate pair, which is not Unicode."),
        ('"a\nb"', "not JSON: Invalid control character at at character 3."),
    ],
)
def test_a_mistake_costs_one_value(wrong, reason, size):
    assert values_of(f'[{{"b": "],[{{"}}, {wrong}, [1, {{}}]]', 1, size) == [{"b": "],[{"}, reason, [1, {}]]


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_what_breaks_off_gives_what_comes_before_and_says_so(size):
    assert values_of("[1, 2", 1, size) == [1, 2, "not JSON: the document ends before its end."]
    *before, last = values_of('[1, {"a": "x', 1, size)
    assert before == [1]
    assert last.endswith(", and nothing can be read from here on.")
    assert values_of("[1]]", 1, size) == [1, "not JSON: ] closes nothing."]
    assert values_of("[NaN, Infinity, 18446744073709551616]", 1, size) == [None, None, 2**64]


def test_a_value_that_is_too_long_ends_the_document():
    entries = json_document(io.BytesIO(b'["' + b"x" * 5_000_000 + b'", 1]'), "a.json", 1, limit=1000)
    assert next(wrong and wrong.message for _, wrong in entries) == "longer than 1,000 bytes."
