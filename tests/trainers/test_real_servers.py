"""vLLM's CPU build serves a merged reward model by the lines of the model's card, and answers with `score`'s number."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import json
import re
import shlex
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = [pytest.mark.train, pytest.mark.long, pytest.mark.timeout(3600)]

from fixtures.real_servers import vllm_serving
from fixtures.training import act, chat_prompt, make_dataset, train_rm
from transformers import AutoTokenizer

from sotopia_rl_data.trainers import RewardModel, api
from sotopia_rl_data.trainers.tiny import make_tiny


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_vllm_serves_a_merged_model_by_the_lines_of_its_card(adapter: str, tmp_path: Path):
    make_dataset(tmp_path, episodes=12, turns=4)
    make_tiny(tmp_path / "base", hidden=256)  # heads of 64: vLLM's CPU build takes none of 16
    settings = ["disable_tqdm=true", "max_steps=2", "eval_strategy=no", "learning_rate=0.01", f"adapter={adapter}"]
    train_rm("toys/rewards", str(tmp_path / "base"), tmp_path / "rm", preset="tiny", store=str(tmp_path),
             settings=settings)  # fmt: skip
    folder = tmp_path / "whole"
    api.merge(tmp_path / "rm", folder)
    card = (folder / "README.md").read_text()
    serve, path, body, field = (
        re.sub(r"\s+", " ", re.search(pattern, card, re.DOTALL)[1])  # type: ignore[index]
        for pattern in (r"`vllm serve ([^`]*)`", r"`POST ([^`]*)`", r"`(\{\"model\"[^`]*\})`", r"`(data\[[^`]*\])`")
    )
    prompt = chat_prompt("Ann", ("Ann", "Bo"), "3", ["hello there", "an offer", "well"], 2)
    dialogues = [(prompt, [{"role": "assistant", "content": act(text)}]) for text in ("thanks thanks", "no", "yes")]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = [str(folder) if word == "DIR" else word for word in shlex.split(serve)]
    with vllm_serving(options, tmp_path) as url:

        def reward(dialogue: Any) -> float:
            text = tokenizer.apply_chat_template([*dialogue[0], *dialogue[1]], tokenize=False)
            asked = json.loads(body) | {"input": text, "model": str(folder)}
            sent = urllib.request.Request(url + path, json.dumps(asked).encode(), {"Content-Type": "application/json"})
            with urllib.request.urlopen(sent, timeout=600) as answered:
                answer = json.load(answered, object_hook=lambda fields: SimpleNamespace(**fields))
            return float(eval(field, vars(answer)))

        found = [reward(dialogue) for dialogue in dialogues]
    for folder in (tmp_path / "whole", tmp_path / "rm"):
        assert found == pytest.approx(RewardModel.load(folder).score_batch(dialogues), abs=1e-4)
    assert max(found) - min(found) > 1e-3
