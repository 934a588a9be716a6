"""GRPO over whole episodes, where the first word decides what the last turn is worth: `python main.py --seed 0`.

Ana asks Ben for his drill. She opens with one of four words; Ben answers the same to each, and does not show what he
thinks. Her last turn is rewarded with 1 if she opened with "please". To open with "now" is worth 0.25 at once. So
whoever looks at one turn at a time learns to say "now", and whoever looks at the whole episode learns to say "please".

The policy is a transformer with 51,000 parameters. It first learns the form of an action, and to open with each word
equally often. Then TRL's GRPOTrainer plays whole episodes against Ben, by its `rollout_func`; or, with --single-turn,
it answers one prompt at a time and is rewarded for that turn, for as many steps and completions. Both take two minutes
on one core. How to train a policy of your own on your own scenes and rewards is in docs/use-with.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # `rollout_func` may change in a later version of TRL

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import GRPOConfig, GRPOTrainer

from sotopia_rl_data.environments.multi_turn import episode_return, episodes, rows
from sotopia_rl_data.environments.playing import Partners, Table, outside
from sotopia_rl_data.rollouts import Environment, Person, Scene, TurnPrompt
from sotopia_rl_data.rollouts.episode_run import Rules
from sotopia_rl_data.rollouts.rollout import plan_of
from sotopia_rl_data.schema import Episode
from sotopia_rl_data.trainers.tiny import make_tiny

WORDS = ("please", "now", "maybe", "sorry")
STEPS, GENERATIONS = 160, 16
LONGEST = 20  # tokens of an action
DRILL = Environment("drill", "A hallway.", ("Borrow the drill.", "Keep the drill."))
SCENE = Scene(DRILL, (Person("ana", "Ana"), Person("ben", "Ben")))

Chat = list[dict[str, str]]


def action(word: str) -> str:
    """The action of saying a word, as policies write it."""
    return json.dumps({"action_type": "speak", "argument": word})


async def ben(prompt: TurnPrompt) -> str:
    """The frozen partner."""
    return action("hm")


GAME = plan_of([SCENE], Rules(layout="chat", turns=3), a=outside(), b=ben)
"""Ana speaks, Ben speaks, Ana speaks."""


def worth(words: list[str]) -> float:
    """The reward of Ana's last turn, given all that she has said."""
    if len(words) == 1:
        return 0.25 if words == ["now"] else 0.0
    return 1.0 if words[0] == "please" else 0.0


def rewards(episode: Episode, agent: str) -> dict[int, float | None]:
    """The reward of each of Ana's turns."""
    own = [turn for turn in episode.turns if turn.agent == agent]
    return {turn.turn: worth([one.text for one in own[: n + 1]]) for n, turn in enumerate(own)}


def tables(folder: Path, number: int) -> list[Table]:
    """Places to play at. What Ben says is kept in the folder."""
    partners = Partners(GAME, store=folder)
    return [Table(GAME, rewards, partners) for _ in range(number)]


def played(table: Table, rng: random.Random) -> list[tuple[Chat, list[str]]]:
    """An episode in which Ana says anything: her prompts, each with what she had said; at the end the whole chat."""
    words, chats = list[str](), []
    prompt = table.reset()
    while prompt is not None:
        chats.append(([dict(message) for message in prompt.messages], list(words)))
        words.append(rng.choice(WORDS))
        table.act(action(words[-1]))
        prompt = table.seated.prompt
    whole = [*chats[-1][0], {"role": "assistant", "content": action(words[-1])}]
    return [*chats, (whole, words)]


def policy(folder: Path, seed: int) -> tuple[Any, Any]:
    """A model that has learned to write actions and says each word equally often, and its tokenizer."""
    rng, (table,) = random.Random(seed), tables(folder, 1)
    chats = [played(table, rng)[-1][0] for _ in range(64)]
    text = [message["content"] for chat in chats for message in chat]
    make_tiny(folder / "policy", hidden=32, layers=2, vocab=1024, seed=seed, text=text)
    model = AutoModelForCausalLM.from_pretrained(folder / "policy")
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    ready = tokenizer.apply_chat_template(
        chats, return_dict=True, return_assistant_tokens_mask=True, padding=True, return_tensors="pt"
    )
    labels = ready["input_ids"].where(ready["assistant_masks"] == 1, -100)
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(300):
        at = rng.sample(range(len(chats)), 8)
        inputs = {name: ready[name][at] for name in ("input_ids", "attention_mask")}
        model(**inputs, labels=labels[at]).loss.backward()
        adam.step()
        adam.zero_grad()
    model.save_pretrained(folder / "policy")  # from where TRL loads the policy that the KL term keeps it near
    return model, tokenizer


def answers(model: Any, tokenizer: Any, chats: list[Chat]) -> list[str]:
    """What the model says next in each chat; it samples."""
    ready = tokenizer.apply_chat_template(
        chats, return_dict=True, add_generation_prompt=True, padding=True, return_tensors="pt", padding_side="left"
    )
    with torch.no_grad():
        ids = model.generate(
            input_ids=ready["input_ids"],
            attention_mask=ready["attention_mask"],
            do_sample=True,
            top_k=0,
            max_new_tokens=LONGEST,
        )
    return tokenizer.batch_decode(ids[:, ready["input_ids"].shape[1] :], skip_special_tokens=True)


def mean_return(folder: Path, model: Any, tokenizer: Any, number: int = 200) -> float:
    """The mean return of episodes of the model."""
    places = tables(folder, number)
    prompts = [table.reset() for table in places]
    while prompts[0] is not None:  # all episodes have as many turns
        said = answers(model, tokenizer, [[dict(message) for message in prompt.messages] for prompt in prompts])
        for table, text in zip(places, said, strict=True):
            table.act(text)
        prompts = [table.seated.prompt for table in places]
    return sum(sum(table.turn_rewards.values()) for table in places) / number


def train(folder: Path, model: Any, tokenizer: Any, seed: int, single_turn: bool = False, steps: int = STEPS) -> None:
    """Train the model on whole episodes, or on single turns of episodes in which Ana says anything."""
    args = GRPOConfig(
        output_dir=str(folder / "run"),
        max_steps=steps,
        num_generations=GENERATIONS,
        per_device_train_batch_size=GENERATIONS,
        max_completion_length=LONGEST,
        learning_rate=3e-4,
        lr_scheduler_type="constant",
        beta=0.04,
        gradient_checkpointing=False,
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    partners = Partners(GAME, store=folder)
    how: dict[str, Any] = {"rollout_func": episodes(GAME, rewards, partners), "reward_funcs": episode_return}
    data: list[dict[str, Any]] = rows(GAME) * steps
    if single_turn:
        how, rng, (table,) = {"reward_funcs": turn_reward}, random.Random(seed), tables(folder, 1)
        data = [{"prompt": chat, "before": before} for _ in range(steps) for chat, before in played(table, rng)[:-1]]
    GRPOTrainer(model, args=args, train_dataset=Dataset.from_list(data), processing_class=tokenizer, **how).train()


def turn_reward(completions: list[Chat], before: list[list[str]], **columns: Any) -> list[float]:
    """The reward of a turn alone, after what was said before it."""
    return [worth([*words, _word(said[0]["content"])]) for said, words in zip(completions, before, strict=True)]


def _word(text: str) -> str:
    try:
        return str(json.loads(text)["argument"])
    except (ValueError, KeyError, TypeError):
        return ""


def learned(folder: Path, seed: int, single_turn: bool = False, steps: int = STEPS) -> tuple[float, float]:
    """The mean return of a policy before and after it was trained; everything is made in the folder."""
    set_seed(seed)
    model, tokenizer = policy(folder, seed)
    before = mean_return(folder, model, tokenizer)
    train(folder, model, tokenizer, seed, single_turn, steps)
    return before, mean_return(folder, model, tokenizer)


def main() -> None:
    """Train one policy."""
    options = argparse.ArgumentParser(description="GRPO over whole episodes, or over single turns.")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--steps", type=int, default=STEPS)
    options.add_argument("--single-turn", action="store_true", help="look at one turn at a time")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        before, after = learned(Path(folder), chosen.seed, chosen.single_turn, chosen.steps)
    how = "single turns" if chosen.single_turn else "whole episodes"
    print(f"seed {chosen.seed}, {how}, {chosen.steps} steps: mean return {before:.3f} before, {after:.3f} after")


if __name__ == "__main__":
    main()
