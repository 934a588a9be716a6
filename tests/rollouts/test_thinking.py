"""Self-play of models that think aloud: no thought is played, none stays in a completion, and SFT rows are clean."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.flat_calls import plan_of, rollout
from fixtures.playing import rows, scenes

from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.rollouts.scenarios import scenes_of
from sotopia_rl_data.store import Store


@pytest.fixture(scope="module")
def provider() -> Iterator[Running]:
    with running() as one:
        yield one


def played(store: Store, at: Running, protocol: str, **given: Any) -> tuple[list[Any], list[str]]:
    """The turns of every episode, and the completions that behaviour cloning would imitate."""
    url = at.openai_url if protocol == "openai" else at.url
    policy = f"{protocol}:sim@{url}"
    rollout(store, plan_of(a=policy, b=policy, sampling={"max_tokens": 500}, **given), "lab/play")
    turns = "SELECT episode_id, turns FROM episodes ORDER BY episode_id"
    kept = "SELECT completion FROM rewards ORDER BY episode_id, turn, agent"
    return rows(store, "lab/play", turns), [row["completion"][0]["content"] for row in rows(store, "lab/play", kept)]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
def test_all_bundled_scenes_are_played_as_if_nothing_had_been_thought(protocol: str, provider: Running, tmp_path: Path):
    plain, said = played(Store(tmp_path / "plain"), provider, protocol, scenes=scenes_of(), turns=6)
    at = provider.playing("thinks_in_every_way")
    thinking, completions = played(Store(tmp_path / "thinking"), at, protocol, scenes=scenes_of(), turns=6)
    assert [row["turns"] for row in thinking] == [row["turns"] for row in plain]
    assert completions == said
    assert len(thinking) == 13
    for completion in completions:
        assert set(json.loads(completion)) == {"action_type", "argument"}


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
@pytest.mark.parametrize(
    "habit",
    [
        "thought_in_a_field",
        "thought_in_parts",
        "answer_in_reasoning_content",
        "answer_after_a_tag_in_a_field",
        "words_beside_a_tool_call",
        "call_in_the_text",
        "answer_in_a_parsed_field",
        "answer_encoded_twice",
        "stream_that_nobody_asked_for",
        "stream_without_a_reason",
        "comments_around_the_reply",
        "words_around_one_object",
        "fence_that_stays_open",
        "error_inside_a_choice",
        "usage_as_text",
    ],
)
def test_an_action_is_played_however_it_is_told(habit: str, protocol: str, provider: Running, tmp_path: Path):
    plain, said = played(Store(tmp_path / "plain"), provider, protocol, scenes=scenes(1), turns=4)
    told, completions = played(Store(tmp_path / "told"), provider.playing(habit), protocol, scenes=scenes(1), turns=4)
    assert [row["turns"] for row in told] == [row["turns"] for row in plain]
    assert completions == said


@pytest.mark.slow
@pytest.mark.parametrize("habit", ["two_objects", "other_thought_that_is_cut_off", "field_that_is_cut_off"])
def test_what_is_not_one_action_is_a_failed_turn_and_no_completion(habit: str, provider: Running, tmp_path: Path):
    turns, completions = played(Store(tmp_path), provider.playing(habit), "openai", scenes=scenes(1), turns=2)
    assert completions == []
    assert {(turn["action_type"], turn["failed"]) for row in turns for turn in row["turns"]} == {("none", True)}
