"""Shards: every episode is in exactly one of them, each has the same share of the work, and nothing else decides."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.shards import WHOLE, Shard


@pytest.mark.slow
@given(st.dictionaries(st.text(), st.integers(0, 10**6), max_size=40), st.integers(1, 12))
def test_every_episode_is_in_exactly_one_shard(work: dict[str, int], count: int):
    parts = [Shard(number, count).of(work.items()) for number in range(1, count + 1)]
    assert all(sum(part(name) for part in parts) == 1 for name in work)


def test_the_order_of_the_episodes_decides_nothing():
    work = [(f"e{i}", i % 7) for i in range(100)]
    shuffled = random.Random(0).sample(work, len(work))
    one, other = Shard(2, 3).of(work), Shard(2, 3).of(shuffled)
    assert [one(name) for name, _ in work] == [other(name) for name, _ in work]


def test_each_shard_has_the_same_work_but_for_one_episode():
    work = {f"e{i}": 1_000 if i % 50 == 0 else 10 for i in range(1_000)}
    for number in range(1, 9):
        part = Shard(number, 8).of(work.items())
        done = sum(size for name, size in work.items() if part(name))
        assert abs(done - sum(work.values()) / 8) <= 1_001


def test_the_whole_is_one_shard_of_one():
    assert WHOLE.of([("a", 1)])("anything")
    assert (str(Shard.parse(" 3/8 ")), Shard.parse("1/1")) == ("3/8", WHOLE)


@pytest.mark.parametrize("text", ["", "3", "0/8", "9/8", "1/0", "-1/8", "a/b", "1/8/2", "1.5/8"])
def test_what_is_not_a_shard_is_refused_with_an_example(text: str):
    with pytest.raises(UsageError) as told:
        Shard.parse(text)
    assert "--shard 3/8" in told.value.hint
