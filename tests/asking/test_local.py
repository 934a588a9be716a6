"""A local model's answers follow from their requests alone, and are drawn as the temperature and top_p say."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")

from sotopia_rl_data.asking.local import LocalModel  # noqa: E402
from sotopia_rl_data.labelers.judges.transformers import load_causal_model  # noqa: E402
from sotopia_rl_data.request import Reply, Request, Target  # noqa: E402
from sotopia_rl_data.trainers.tiny import make_tiny  # noqa: E402

pytestmark = pytest.mark.train
Sampling = dict[str, Any]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy with random weights."""
    return make_tiny(tmp_path_factory.mktemp("tiny") / "tiny", hidden=32, layers=1)


def asked(tiny: Path, prompts: list[tuple[str, int]], sampling: Sampling) -> list[Reply]:
    """The answers of a model that has just been loaded to these (prompt, sample), in one batch."""
    target = Target("transformers", "tiny", "", sampling)
    model = LocalModel(target, partial(load_causal_model, str(tiny)))
    requests = [Request(target, [{"role": "user", "content": text}], sample=sample) for text, sample in prompts]
    replies = model.answers(requests)
    assert all(isinstance(reply, Reply) for reply in replies), replies
    return list(replies)  # type: ignore[arg-type]


@pytest.mark.parametrize("sampling", [{"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.9}, {"temperature": 0.0}])
def test_an_answer_is_the_same_alone_in_a_batch_and_a_second_time(tiny: Path, sampling: Sampling):
    sampling = {**sampling, "max_tokens": 12}
    prompts = [("May I have the boat?", 0), ("And what " * 60 + "if not?", 0), ("Good evening.", 0)]
    together = asked(tiny, prompts, sampling)
    assert [asked(tiny, [prompt], sampling)[0] for prompt in prompts] == together
    assert asked(tiny, prompts[::-1], sampling) == together[::-1]


def test_each_sample_is_another_draw_and_without_a_temperature_all_are_one(tiny: Path):
    prompts = [("May I have the boat?", sample) for sample in range(8)]
    assert len({reply.text for reply in asked(tiny, prompts, {"temperature": 1.0, "max_tokens": 12})}) == 8
    assert len({reply.text for reply in asked(tiny, prompts, {"temperature": 0.0, "max_tokens": 12})}) == 1


def test_a_long_neighbour_does_not_shorten_an_answer(tiny: Path):
    sampling = {"temperature": 0.0, "max_tokens": 40}
    long = "so " * 4_070, 0  # two tokens each, which leaves fewer than 40 tokens of 8,192
    alone, (short, cut) = asked(tiny, [("Why?", 0)], sampling), asked(tiny, [("Why?", 0), long], sampling)
    assert cut.usage is not None
    assert cut.usage.output < 40
    assert [short] == alone


@pytest.mark.parametrize(
    ("temperature", "top_p", "chances"),
    [
        (1.0, 1.0, {3: 0.5, 0: 0.3, 1: 0.2}),
        (0.5, 1.0, {3: 25 / 38, 0: 9 / 38, 1: 4 / 38}),  # squares, since 1 / 0.5 = 2
        (1.0, 0.75, {3: 0.625, 0: 0.375}),  # the likeliest whose sum reaches 0.75
        (1.0, 0.1, {3: 1.0}),
    ],
)
def test_tokens_are_drawn_as_often_as_temperature_and_top_p_say(
    temperature: float, top_p: float, chances: dict[int, float]
):
    from sotopia_rl_data.asking.local import _Draws

    draws, logits = _Draws(list(map(str, range(20))), temperature, top_p), torch.tensor([0.3, 0.2, 0.0, 0.5]).log()
    rows = [draws(None, logits.repeat(20, 1)).argmax(-1).tolist() for _ in range(500)]
    counts = Counter(token for row in rows for token in row)
    assert counts.keys() == chances.keys()
    assert {token: count / 10_000 for token, count in counts.items()} == pytest.approx(chances, abs=0.015)  # 3 SD
