"""The score head in float32: small steps move every weight, and close completions have scores of their own."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytest.importorskip("trl", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = [pytest.mark.train, pytest.mark.slow]

from fixtures.training import act, chat_prompt, make_dataset, speak, toy_model, train_rm
from safetensors.torch import load_file

from sotopia_rl_data.trainers import RewardModel

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("precision")
    make_dataset(root, episodes=20, environments=20, turns=4)
    toy_model(root / "model", hidden=64)
    return root


def train(root: Path, adapter: str, steps: int, rate: float = 1e-5) -> Path:
    """Small steps with the base in bfloat16, as on a GPU; the run's folder."""
    settings = [
        "disable_tqdm=true", f"learning_rate={rate}", "lr_scheduler_type=constant", f"max_steps={steps}",
        "dtype=bfloat16", "bf16=true", f"adapter={adapter}", "eval_strategy=no", "save_strategy=no",
        f"logging_steps={steps}",
    ]  # fmt: skip
    out = root / f"{adapter}-{rate}"
    train_rm("toys/rewards", str(root / "model"), out, preset="tiny", store=str(root), settings=settings)
    return out


def saved_head(run: Path) -> Any:
    """The head's weights in a run's folder."""
    (path,) = run.glob("*model.safetensors")
    (weight,) = [weight for name, weight in load_file(path).items() if "score" in name]
    return weight


@pytest.mark.parametrize(("adapter", "steps"), [("lora", 200), ("none", 20)])
def test_every_weight_of_the_head_moves_and_sixteen_completions_have_sixteen_scores(
    root: Path, adapter: str, steps: int
):
    out = train(root, adapter, steps)
    before, after = saved_head(train(root, adapter, 1, rate=0.0)), saved_head(out)
    assert after.dtype == torch.float32
    assert (after != before).all()
    assert (after - before).abs().max() < 0.01  # it is the head that the run began with

    served = RewardModel.load(out, dtype=torch.bfloat16)
    assert served.model.score.weight.dtype == torch.float32
    assert torch.equal(served.model.score.weight.cpu(), after)
    assert served.model.get_input_embeddings().weight.dtype == torch.bfloat16
    prompt = chat_prompt("Ann", ("Ann", "Bo"), "1", ["shall we swap because it matters"], 1)
    said = [[{"role": "assistant", "content": act(speak(random.Random(seed)))}] for seed in range(16)]
    assert len(set(served.score_batch([(prompt, one) for one in said]).tolist())) == 16
    assert len({served.score(prompt, one) for one in said}) == 16
