"""A shared prefix is in the provider's cache before its siblings come: measured by what real clients are billed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from fixtures.flat_calls import label
from fixtures.labelling import BOAT, BY, put

from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.schema import Episode, Score, Turn
from sotopia_rl_data.store import Store

SEVEN = tuple(one.name for one in SOTOPIA_EVAL)


def long_episode(number: int) -> Episode:
    """Twenty turns, scored on seven dimensions for both agents."""
    turns = tuple(
        Turn(
            turn,
            "ab"[turn % 2],
            "speak",
            f"In episode {number} I say for the {turn}th time what I think of the boat. " * 3,
        )
        for turn in range(20)
    )
    scores = tuple(Score(agent, name, 1, BY) for agent in "ab" for name in SEVEN)
    return Episode(f"e{number}", f"env{number}", BOAT.agents, turns, scores, scenario=f"Scenario {number}.")


def judge_at(provider: Running, protocol: str) -> str:
    return f"{protocol}:sim@{provider.openai_url if protocol == 'openai' else provider.url}"


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
def test_all_but_the_first_question_about_an_agent_find_the_task_and_the_episode_cached(tmp_path: Path, protocol: str):
    """14 questions an episode, 64 in flight: without the warm-up they would leave together and all be billed whole."""
    store = Store(tmp_path)
    put(store, map(long_episode, range(4)))
    with running(latency=0.1) as provider:
        done = label(store, "lab/episodes", judges=[judge_at(provider, protocol)], dimensions=SEVEN)
        usage = Counter(provider.log()["usage"])
    assert (done.asked, list(done.warnings)) == (56, [])
    (line,) = done.bill.lines
    assert (line.usage.input, line.usage.cached, line.usage.written) == (
        usage["input"],
        usage["cached"],
        usage["written"],
    )
    assert usage["cached"] > 0.75 * usage["input"]
    assert usage["written"] == 0 if protocol == "openai" else 0 < usage["written"] < usage["input"] / 5


@pytest.mark.slow
def test_a_cache_that_should_hit_and_does_not_is_a_warning(tmp_path: Path):
    store = Store(tmp_path)
    put(store, map(long_episode, range(2)))
    with running(cache=0) as provider:
        done = label(store, "lab/episodes", judges=[judge_at(provider, "openai")], dimensions=SEVEN)
        assert provider.log()["usage"]["cached"] == 0
    (warning,) = done.warnings
    assert warning.startswith("24 of 24 calls that began like one before them were billed in full")
