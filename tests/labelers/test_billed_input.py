"""Packed and per-dimension prompts against instructions-first ones, in what a provider with a prefix cache bills."""

from __future__ import annotations

import pytest

from benchmarks.billed_input import episode, ratios


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
def test_billed_input_of_an_episode_of_20_turns_seven_dimensions_and_both_agents(protocol: str):
    found = ratios(protocol, episode(turns=20, words=30))
    print({way: {name: round(one[name], 3) for name in ("plain", "half", "tenth")} for way, one in found.items()})
    assert (found["instructions first"]["calls"], found["instructions first"]["cached"]) == (14, 0)
    assert found["packed"]["plain"] <= 1 / 8
    assert found["packed"]["premium"] <= 0.105  # no other question shares the episode: it is not written to a cache
    assert found["per-dimension"]["calls"] == 14
    assert found["per-dimension"]["half"] <= 0.65
    assert found["per-dimension"]["tenth"] <= 0.3
