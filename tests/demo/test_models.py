"""Models of this machine in a talk: a reward model's own numbers, and a policy that keeps its weights between turns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from fixtures.playing import act, scenes

from sotopia_rl_data.asking.local import BatchedModel
from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.asking.together import Spending
from sotopia_rl_data.demo.host import DemoChoices, DemoHost, KeptPlayer, ModelTurns
from sotopia_rl_data.demo.session import DemoSession
from sotopia_rl_data.prompts import prompts_of
from sotopia_rl_data.request import Reply, Request, Target
from sotopia_rl_data.rollouts.policies import player
from sotopia_rl_data.store import Store


class Weights(BatchedModel):
    """A local policy that counts how often it is loaded and released."""

    def __init__(self) -> None:
        super().__init__(Target("transformers", "weights"))
        self.loaded = self.released = 0

    def answers(self, requests: Sequence[Request]) -> list[Reply]:
        self.loaded = self.loaded or self.loaded + 1
        return [Reply(act(argument="Well."), model=self.id)] * len(requests)

    async def close(self) -> None:
        self.released += 1


def test_a_local_policy_keeps_its_weights_between_turns(tmp_path: Path):
    weights = Weights()
    choices = DemoChoices(scenes=scenes(1), policies={"weights": KeptPlayer(weights)})
    host = DemoHost(Store(tmp_path), choices, Spending.at(Store(tmp_path), AskOptions(budget=1)))
    session = DemoSession(host, choices.scenes[0], 0, "weights")
    for words in ("hello", "and?"):
        session.act("speak", words)
    assert [one.text for one in session.episode.turns] == ["hello", "Well.", "and?", "Well."]
    assert (weights.loaded, weights.released) == (1, 0)
    assert session.unrewarded() == []
    host.close()


@pytest.mark.train
@pytest.mark.slow
def test_a_reward_model_gives_each_utterance_what_it_gives_its_prompt_and_completion(tmp_path: Path):
    torch = pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
    from transformers import AutoModelForSequenceClassification

    from sotopia_rl_data.serve.sources import ModelRewards
    from sotopia_rl_data.trainers import RewardModel
    from sotopia_rl_data.trainers.tiny import make_tiny

    path = make_tiny(tmp_path / "rm", hidden=32, layers=1, seed=3)
    torch.manual_seed(5)
    AutoModelForSequenceClassification.from_pretrained(path, num_labels=1).save_pretrained(path)
    model = RewardModel.load(str(path))
    choices = DemoChoices(
        scenes=scenes(1),
        policies={"firm": player("scripted:firm")},
        sources={"rm": ModelTurns(ModelRewards(model))},
    )
    host = DemoHost(Store(tmp_path / "store"), choices, Spending.at(Store(tmp_path / "store"), AskOptions()))
    session = DemoSession(host, choices.scenes[0], 1, "firm", "rm")
    session.start()
    session.act("speak", "Would you take 500 for it?")
    session.reward()
    assert not session.rewarded_from_0_to_1
    found = {key: one.reward for key, one in session.rewards.items()}
    rows = list(prompts_of(session.episode))
    assert len(rows) == 3
    assert found == {(turn, agent): pytest.approx(model.score(prompt, said)) for agent, turn, prompt, said in rows}
    host.close()
