"""The loopback provider plays habits by name: on the whole server, or under a path of their own."""

import json
import subprocess
import sys
import urllib.request

import pytest

from sotopia_rl_data.fake_provider.habits import HABITS
from sotopia_rl_data.fake_provider.running import Running, running

BODY = {"model": "m", "max_tokens": 99, "messages": [{"role": "user", "content": "hello"}]}
THOUGHT = "They want "


def texts_of(provider: Running) -> tuple[str, str]:
    """What a provider answers over OpenAI's protocol and over Anthropic's."""
    answers = []
    for path in ("chat/completions", "messages"):
        request = urllib.request.Request(f"{provider.url}/v1/{path}", json.dumps(BODY).encode())
        with urllib.request.urlopen(request, timeout=30) as response:
            answers.append(json.load(response))
    return answers[0]["choices"][0]["message"]["content"], answers[1]["content"][0]["text"]


def test_a_habit_is_played_under_its_path_and_nowhere_else() -> None:
    with running() as provider:
        playing = provider.playing("thought_without_a_beginning")
        assert all(text.startswith(THOUGHT) for text in texts_of(playing))
        assert not any(text.startswith(THOUGHT) for text in texts_of(provider))
        assert (playing.log()["answered"], provider.log()["answered"]) == (2, 2)


def test_the_whole_server_plays_the_habit_of_its_options() -> None:
    with running(habit="thought_without_a_beginning") as provider:
        assert all(text.startswith(THOUGHT) for text in texts_of(provider))


def test_an_unknown_habit_is_an_error_that_lists_the_known_ones() -> None:
    command = [sys.executable, "-m", "sotopia_rl_data.fake_provider", "--habit", "sleeps"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "no habit 'sleeps'" in ended.stderr


@pytest.mark.parametrize("name", HABITS)
def test_every_habit_says_what_it_is(name: str) -> None:
    assert (HABITS[name].__doc__ or "").strip()
