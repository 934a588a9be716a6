"""Local models in self-play: a policy with an adapter, and a reward model that chooses among drafts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")

from fixtures.flat_calls import plan_of, rollout  # noqa: E402
from fixtures.playing import act, brief, rows, scenes  # noqa: E402

from sotopia_rl_data.applications.local_policies import RewardScorer, drafts_of, local_player  # noqa: E402
from sotopia_rl_data.errors import NotFound, UsageError  # noqa: E402
from sotopia_rl_data.request import Reply, Request, Target  # noqa: E402
from sotopia_rl_data.rollouts import World  # noqa: E402
from sotopia_rl_data.store import Store  # noqa: E402
from sotopia_rl_data.trainers import RewardModel  # noqa: E402
from sotopia_rl_data.trainers.tiny import make_tiny  # noqa: E402

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that answers every prompt with one sentence, learned by heart."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    said = act(argument="I would like that very much, thank you.")
    path = make_tiny(tmp_path_factory.mktemp("tiny") / "tiny", hidden=32, layers=1)
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModelForCausalLM.from_pretrained(path)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    answer = tokenizer(f"{said}<|im_end|>", return_tensors="pt")["input_ids"]
    served = [World(scene).prompt(scene.agents[0]) for scene in scenes(3)]
    for step in range(60):
        text = tokenizer.apply_chat_template(served[step % 3], tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(text, return_tensors="pt")["input_ids"]
        ids = torch.cat([prompt, answer], dim=1)
        labels = torch.cat([torch.full_like(prompt, -100), answer], dim=1)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock sequence classifier with random weights."""
    from transformers import AutoModelForSequenceClassification

    path = make_tiny(tmp_path_factory.mktemp("rm") / "rm", hidden=32, layers=1, seed=3)
    torch.manual_seed(5)
    AutoModelForSequenceClassification.from_pretrained(path, num_labels=1).save_pretrained(path)
    return path


class Drafter:
    """Answers every draft differently."""

    concurrency = 4
    id = "drafter"
    target = Target("toy", "drafter")

    async def send(self, request: Request) -> Reply:
        words = ["yes", "no", "maybe", "thank you", "let us share"]
        return Reply(act(argument=words[request.sample // 3 % 5] + f" {len(request.messages[0]['content']) % 7}"))

    async def close(self) -> None:
        pass


def test_a_local_policy_plays_and_is_not_asked_twice(tiny: Path, tmp_path: Path):
    store = Store(tmp_path / "store")
    plan = plan_of(
        scenes(2), a=f"transformers:{tiny}", b=brief(2), sampling={"temperature": 0}, turns=4, local=local_player
    )
    done = rollout(store, plan, "lab/play")
    assert (done.episodes, done.failed_turns) == (2, 0)
    said = rows(store, "lab/play", "SELECT DISTINCT completion[1].content AS c FROM rewards WHERE turn = 0")
    assert [json.loads(one["c"])["argument"] for one in said] == ["I would like that very much, thank you."]
    (who,) = rows(store, "lab/play", "SELECT DISTINCT models FROM episodes")
    assert who["models"] == ["unknown", "tiny", "brief"]
    assert rollout(store, plan, "lab/play").asked == 0


def test_an_adapter_is_another_policy(tiny: Path, tmp_path: Path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    adapted: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny),
        LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False),
    )
    adapter = tmp_path / "adapter"
    adapted.save_pretrained(adapter)
    plain, other = local_player(str(tiny), {"temperature": 0}), local_player(f"{tiny}+{adapter}", {"temperature": 0})
    assert (plain.id, other.id) == ("tiny", "tiny+adapter")
    assert set(other.target.sampling["weights"]) == {"tiny", "adapter"}
    (scene,) = scenes(1)
    asked = World(scene).prompt(scene.agents[0])
    told = [one.answers([Request(one.target, asked)])[0] for one in (plain, other)]
    assert told[0].text == act(argument="I would like that very much, thank you.")
    assert told[1].text != told[0].text


def test_of_n_drafts_the_one_that_the_reward_model_scores_highest_is_kept(reward_model: Path, tmp_path: Path):
    store, scorer, policy = Store(tmp_path / "store"), RewardScorer(str(reward_model)), Drafter()
    plan = plan_of(scenes(2), a=policy, b=policy, turns=4, best_of=5, scorer=scorer)
    done = rollout(store, plan, "lab/best")
    assert done.episodes == 2
    scored = rows(store, "lab/best", "SELECT episode_id, agent, turn, sample, raw, judge FROM attributions")
    assert len(scored) == 2 * 4 * 5
    model = RewardModel.load(reward_model)
    assert {one["judge"] for one in scored} == {f"rm:{model.identity}"}
    served = rows(store, "lab/best", "SELECT * FROM rewards")
    assert len(served) == 8
    for one in served:
        mine = {s["sample"]: s["raw"] for s in scored if all(s[k] == one[k] for k in ("episode_id", "agent", "turn"))}
        kept = model.score(one["prompt"], one["completion"])
        assert kept == pytest.approx(max(mine.values()), abs=1e-5)
        assert len(set(mine.values())) == 5
    assert store.resolve("lab/best").manifest.recipe["rollout"]["reward_model"] == f"rm:{model.identity}"
    assert rollout(store, plan, "lab/best").asked == 0


def test_drafts_are_the_assistant_messages_at_the_end():
    user, one, two = ({"role": r, "content": c} for r, c in (("user", "?"), ("assistant", "a"), ("assistant", "b")))
    assert drafts_of([user, one, two]) == [([user], [one]), ([user], [two])]  # type: ignore[list-item]


def test_what_is_no_local_model_is_told(tmp_path: Path):
    with pytest.raises(NotFound, match="There is no model in"):
        local_player(str(tmp_path))
    with pytest.raises(NotFound, match="There is no adapter in"):
        local_player(f"org/name+{tmp_path}")
    with pytest.raises(UsageError, match="needs a model after the colon"):
        local_player("+adapter")
    with pytest.raises(NotFound, match="There is no reward model in"):
        RewardScorer(str(tmp_path / "none"))
