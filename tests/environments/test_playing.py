"""An episode that is played from outside is the one that `rollout` plays with the same answers."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fixtures.acting_provider import acting

from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.environments.playing import Partners, Table, outside
from sotopia_rl_data.environments.trl import DialogueTools, factory, rows
from sotopia_rl_data.errors import BudgetSpent, Rejected, Unavailable, UsageError
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.query import Dataset
from sotopia_rl_data.rollouts import TurnPrompt, bundled, scripted
from sotopia_rl_data.rollouts.episode_run import Rules
from sotopia_rl_data.rollouts.plan import RolloutPlan
from sotopia_rl_data.rollouts.rollout import plan_of, rollout
from sotopia_rl_data.schema import Episode
from sotopia_rl_data.store import Store
from sotopia_rl_data.tables import row_episode

RULES = Rules(layout="chat", turns=9, seed=3)


def by_length(episode: Episode, agent: str) -> dict[int, float | None]:
    """A reward for each utterance: its length; None for a silent one."""
    return {turn.turn: float(len(turn.text)) or None for turn in episode.turns if turn.agent == agent}


def warm(prompt: TurnPrompt) -> str:
    return asyncio.run(scripted("warm", RULES.seed)(prompt))


def played(table: Table, number: int, policy: Callable[[TurnPrompt], str] = warm) -> Episode:
    """An episode in which the seat answers as `policy` says."""
    prompt = table.reset(number)
    while prompt is not None:
        table.act(policy(prompt))
        assert table.seated is not None
        prompt = table.seated.prompt
    assert table.seated is not None
    return table.seated.episode


@pytest.mark.slow
@pytest.mark.parametrize("swap", [False, True])
def test_the_same_answers_give_the_episodes_of_rollout(swap: bool, tmp_path: Path):
    plan = plan_of(bundled(), RULES, a="scripted:warm", b="scripted:firm", swap=swap)
    store = Store(tmp_path)
    rollout(store, plan, "lab/rolled")
    files = store.resolve("lab/rolled").files("episodes").values()
    rolled = [row_episode(row) for paths in files for path in paths for row in pq.read_table(path).to_pylist()]
    table = Table(plan, by_length, Partners(plan, store=tmp_path))
    episodes = {episode.episode_id: episode for episode in (played(table, i) for i in range(len(plan)))}
    assert episodes == {episode.episode_id: episode for episode in rolled}
    assert table.turn_rewards == by_length(played(table, len(plan) - 1), table.seated.agent)


@pytest.fixture
def plan() -> RolloutPlan:
    return plan_of(bundled(), RULES, a=outside(), b="scripted:firm")


@pytest.fixture
def partners(plan: RolloutPlan, tmp_path: Path) -> Partners:
    return Partners(plan, store=tmp_path)


def test_an_answer_that_cannot_be_read_is_a_flagged_silence_without_a_reward(plan: RolloutPlan, partners: Partners):
    table = Table(plan, by_length, partners)
    table.reset(0)
    assert table.act("Hm.") is None
    (silence,) = [turn for turn in table.seated.episode.turns if turn.turn == 0]
    assert (silence.action_type, silence.failed) == ("none", True)
    assert table.act('{"action_type": "speak", "argument": "Hello."}') == 6.0
    assert table.mean_reward is None


def test_acting_before_the_beginning_or_after_the_end_is_a_sentence(plan: RolloutPlan, partners: Partners):
    table = Table(plan, by_length, partners)
    with pytest.raises(UsageError, match="There is no episode to act in"):
        table.act("hello")
    played(table, 0)
    with pytest.raises(UsageError, match="There is no episode to act in"):
        table.act("hello")
    with pytest.raises(UsageError, match="as chats"):
        Table(plan_of(bundled(), a=outside()), by_length)


HELLO = '{"action_type": "speak", "argument": "Hello."}'


def test_an_utterance_whose_reward_cannot_be_had_leaves_the_episode_without_a_mean(
    plan: RolloutPlan, partners: Partners
):
    def rewards(episode: Episode, agent: str) -> dict[int, float | None]:
        if episode.turns[-1].turn == 2:
            raise BudgetSpent("Nothing more fits.")
        return by_length(episode, agent)

    table = Table(plan, rewards, partners)
    table.reset(0)
    assert (table.act(HELLO), table.mean_reward) == (6.0, 6.0)
    with pytest.raises(BudgetSpent):
        table.act(HELLO)
    assert table.act(HELLO) == 6.0
    assert (table.turn_rewards, table.mean_reward) == ({0: 6.0, 2: None, 4: 6.0}, None)


def test_an_episode_whose_partner_gives_no_answer_broke_off_and_another_can_begin(tmp_path: Path):
    async def silent_at_first(prompt: TurnPrompt) -> str:
        asked.append(prompt)
        if len(asked) == 1:
            raise Rejected("The provider refuses.")
        return HELLO

    asked: list[TurnPrompt] = []
    plan = plan_of(bundled(), RULES, a=outside(), b=silent_at_first)
    table = Table(plan, by_length, Partners(plan, store=tmp_path))
    table.reset(0)
    with pytest.raises(Unavailable, match="silent_at_first gave no answer: The provider refuses"):
        table.act(HELLO)
    assert (table.seated.prompt, table.mean_reward) == (None, None)
    with pytest.raises(UsageError, match="There is no episode to act in"):
        table.act(HELLO)
    assert table.reset(0).turn == 0
    assert (table.act(HELLO), table.seated.prompt.turn) == (6.0, 2)


@pytest.mark.slow
def test_partners_are_asked_through_the_ledger_so_what_rollout_has_played_is_not_asked_again(tmp_path: Path):
    store = Store(tmp_path)
    with acting() as provider:
        partner = f"openai:partner@{provider.url}"
        rollout(store, plan_of(bundled()[:4], RULES, a="scripted:warm", b=partner), "lab/rolled")
        assert provider.asked
        rolled, provider.asked[:] = Dataset(store.resolve("lab/rolled")), []
        plan = plan_of(bundled()[:4], RULES, a=outside(), b=partner)
        table = Table(plan, by_length, Partners(plan, store=tmp_path))
        # The seat's lines go by the episode's id, which the name of its policy changes: these are rollout's.
        said = {
            (episode.environment_id, turn.turn): json.dumps({"action_type": turn.action_type, "argument": turn.text})
            for episode in rolled.episodes()
            for turn in episode.turns
        }
        again = [
            played(table, number, lambda prompt: said[table.seated.episode.environment_id, prompt.turn])
            for number in range(4)
        ]
        assert provider.asked == []
        assert {one.environment_id: one.turns for one in again} == {
            one.environment_id: one.turns for one in rolled.episodes()
        }
        table.reset(0)
        table.act(json.dumps({"action_type": "speak", "argument": "Something else."}))
        assert len(provider.asked) == 1


def test_the_ledger_of_partners_whom_nobody_has_any_more_is_closed(plan: RolloutPlan, tmp_path: Path):
    table = Table(plan, by_length, Partners(plan, store=tmp_path))
    played(table, 0)
    ledger = Ledger(tmp_path / ".ledger")
    assert ledger.compact() == 0
    del table
    gc.collect()
    assert ledger.compact() > 0


@pytest.mark.slow
def test_what_partners_cost_stays_within_the_budget(tmp_path: Path):
    prices = tmp_path / "prices.yaml"
    prices.write_text("as_of: 2026-11-01\nhosts:\n  '*':\n    partner: [1, 1, 1, 200, 100]\n")
    with acting() as provider:
        plan = plan_of(bundled(), RULES, a=outside(), b=f"openai:partner@{provider.url}", sampling={"max_tokens": 100})
        partners = Partners(plan, AskOptions(budget=0.04, prices=prices), tmp_path)
        table = Table(plan, by_length, partners)

        def play_all() -> None:
            for number in range(len(plan)):
                played(table, number)

        with pytest.raises(BudgetSpent, match=r"Nothing more fits under the budget of 0\.04 USD"):
            play_all()
        assert 0 < partners.spending.spent <= 0.04
        assert table.seated.prompt is None


def test_trl_plays_by_the_tool_and_gets_the_mean_reward(plan: RolloutPlan, partners: Partners):
    environment: DialogueTools = factory(plan, by_length, partners)()
    assert [row["scene"] for row in rows(plan)] == list(range(13))
    first = environment.reset(**rows(plan)[4])
    name = plan.scenes[4].people[0].name
    assert first.startswith(f"You are {name}.\nHere is the context of this interaction:")
    assert environment.get_reward() is None
    seen = environment.act("speak", "Hello.")
    assert "Let me be plain" in seen
    assert environment.get_reward() == 6.0
    assert environment.act("leave", "") == "The scene is over."
    assert environment.get_reward() is None  # leaving has no length here
    assert json.dumps(environment.reset(**rows(plan)[4])) == json.dumps(first)


@pytest.mark.train
@pytest.mark.slow
def test_grpo_of_trl_takes_a_step_in_which_the_policy_plays_by_its_tool(tmp_path: Path):
    import torch
    import trl
    from datasets import Dataset
    from fixtures.training import toy_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plan = plan_of(bundled()[:1], RULES, a=outside(), b="scripted:firm")
    begin = factory(plan, by_length, Partners(plan, store=tmp_path / "store"))
    tiny = toy_model(tmp_path / "tiny", hidden=64, layers=2)
    tokenizer, model = AutoTokenizer.from_pretrained(tiny), AutoModelForCausalLM.from_pretrained(tiny)
    templates = Path(trl.__file__).parent / "chat_templates"
    tokenizer.chat_template = (templates / "qwen2_5.jinja").read_text("utf-8")

    # The model learns by heart to say Hello.
    environment = begin()
    task = rows(plan)[0]["prompt"][0]["content"]
    prompt = [{"role": "user", "content": task + environment.reset(0)}]
    hello = {"name": "act", "arguments": {"action_type": "speak", "argument": "Hello."}}
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": hello}]}
    with_tools = partial(tokenizer.apply_chat_template, tools=[environment.act], tokenize=True, return_dict=False)
    ids = torch.tensor([with_tools([*prompt, call])])
    labels = ids.clone()
    labels[:, : len(with_tools(prompt, add_generation_prompt=True))] = -100
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(300):
        loss = model(ids, labels=labels).loss
        if float(loss) < 0.03:
            break
        loss.backward()
        adam.step()
        adam.zero_grad()

    lengths = {"max_completion_length": 400, "max_tool_calling_iterations": 1, "temperature": 0.05}
    trainer = trl.GRPOTrainer(
        model,
        train_dataset=Dataset.from_list(rows(plan)),
        environment_factory=begin,
        processing_class=tokenizer,
        args=trl.GRPOConfig(
            output_dir=str(tmp_path / "run"),
            max_steps=1,
            logging_steps=1,
            num_generations=2,
            per_device_train_batch_size=2,
            report_to="none",
            use_cpu=True,
            **lengths,
        ),
    )
    trainer.train()
    (logged,) = [row for row in trainer.state.log_history if "loss" in row]
    assert (logged["tools/call_frequency"], logged["tools/failure_frequency"]) == (1.0, 0.0)
    assert (logged["reward"], logged["rewards/DialogueTools/mean"]) == (6.0, 6.0)
