"""Whole episodes as the completions of TRL's GRPO: `GRPOTrainer(rollout_func=…)`, for any chat model, without tools.

    plan = plan_of(bundled(), Rules(layout="chat"), a=outside(), b="gpt-4o")
    trainer = GRPOTrainer(
        model, train_dataset=Dataset.from_list(rows(plan)), rollout_func=episodes(plan, rewards),
        reward_funcs=episode_return, args=…,
    )

A completion is everything that follows the policy's first prompt: its own words, and between them what it saw of its
partner's, which `env_mask` keeps out of the loss. Its reward is the sum of the rewards of its turns (None, and TRL
leaves the completion out, where one of them is missing or the policy never acted). `max_completion_length` is for each
turn. The history keeps the policy's words as it wrote them, where `rollout` shows it the action that was read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from sotopia_rl_data.control_tokens import ControlTokens
from sotopia_rl_data.environments.playing import Partners, Table
from sotopia_rl_data.environments.rewards import TurnRewards
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.rollouts.plan import RolloutPlan
from sotopia_rl_data.schema import Message

RolloutFunction = Callable[[Sequence[str], Any], dict[str, Any]]


def rows(plan: RolloutPlan) -> list[dict[str, str]]:
    """The training rows: the numbers of the plan's episodes, in place of prompts."""
    return [{"prompt": str(number)} for number in range(len(plan))]


def episodes(plan: RolloutPlan, rewards: TurnRewards, partners: Partners | None = None) -> RolloutFunction:
    """The `rollout_func` for a plan whose `a` is `outside()`. Raises what `Table` raises; while it plays, AskingError
    where a partner gives no answer, and UsageError for a chat template that writes the same words in another way, and
    where several processes generate together, since each generates as often as its own episodes last."""
    partners = partners or Partners(plan)
    tables = [Table(plan, rewards, partners)]

    def play(prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        _check_processes(trainer)
        one_each = [1] if _takes_number(trainer) else []
        tables.extend(Table(plan, rewards, partners) for _ in range(len(prompts) - len(tables)))
        control = ControlTokens(trainer.processing_class)
        played = [_Played(table, trainer.processing_class, control) for table in tables[: len(prompts)]]
        with ThreadPoolExecutor(len(played)) as at_once:  # partners who are asked at the same time are asked together
            list(at_once.map(_Played.begin, played, map(int, prompts)))
            while waiting := [one for one in played if one.sees_more()]:
                texts = [one.prompt + one.completion for one in waiting]
                said, logprobs = trainer._generate_single_turn(texts, None, {}, *one_each)  # by vLLM, where TRL uses it
                list(at_once.map(_Played.act, waiting, said, logprobs or [None] * len(said)))
        return {
            "prompt_ids": [one.prompt for one in played],
            "completion_ids": [one.completion for one in played],
            "env_mask": [one.mask for one in played],
            "logprobs": [one.logprobs for one in played] if trainer.use_vllm else None,
            "turn_rewards": [list(one.table.turn_rewards.values()) for one in played],
        }

    return play


def episode_return(turn_rewards: Sequence[Sequence[float | None]], **columns: Any) -> list[float | None]:
    """The reward of each episode: the sum of its turns' rewards; None where one is missing, or it has none."""
    return [None if not one or None in one else sum(filter(None, one)) for one in turn_rewards]


def _takes_number(trainer: Any) -> bool:
    """Whether the generation takes the number of completions of a prompt. Older versions of TRL do not: with vLLM they
    make as many as the trainer's, so that is refused."""
    takes = "num_generations" in inspect.signature(trainer._generate_single_turn).parameters
    if trainer.use_vllm and not takes:
        raise UsageError(
            "This version of TRL cannot generate one turn of an episode with vLLM.", "install trl 1.16 or a later one"
        )
    return takes


def _check_processes(trainer: Any) -> None:
    """Raise UsageError where several processes must call the generation equally often."""
    deepspeed = trainer.accelerator.state.deepspeed_plugin
    is_sharded = trainer.is_fsdp_enabled or (deepspeed is not None and deepspeed.zero_stage == 3)
    shares_vllm = trainer.use_vllm and (trainer.vllm_mode == "server" or trainer.vllm_tensor_parallel_size > 1)
    if trainer.accelerator.num_processes > 1 and (is_sharded or shares_vllm):
        raise UsageError(
            "Over whole episodes, several processes cannot share a vLLM server, tensor parallelism, FSDP or ZeRO-3: "
            "episodes end at different turns, and the processes would wait for each other for ever.",
            "train in one process, or give each process a whole model (DDP or ZeRO-2, with vLLM colocated or without)",
        )


@dataclass(slots=True)
class _Played:
    """An episode as tokens: the first prompt, and all that follows, with 1 in `mask` for the policy's own."""

    table: Table
    tokenizer: Any
    control: ControlTokens
    prompt: list[int] = field(default_factory=list)
    completion: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def begin(self, number: int) -> None:
        """Begin the episode of this number."""
        self.table.reset(number)

    def sees_more(self) -> bool:
        """Add what the policy sees before it acts. False where the episode is over."""
        seated = self.table.seated
        prompt = None if seated is None else seated.prompt
        end = self.tokenizer.eos_token_id
        if prompt is None:
            self.prompt = self.prompt or [end]  # the policy never acted, and TRL wants a token of each
            if not self.completion:
                self._add([end], 0)
            return False
        messages = self.control.plain_messages(prompt.messages)
        shown = self._written(messages, add_generation_prompt=True)
        if not self.prompt:
            self.prompt = self._ids(shown)
            return True
        following = self._following(messages, shown)
        self._add(
            self._ids(following.removeprefix(self.tokenizer.eos_token) if self.completion[-1:] == [end] else following),
            0,
        )
        return True

    def act(self, ids: list[int], logprobs: list[float] | None) -> None:
        """Add what the policy says, and play its turn."""
        self._add(ids, 1, logprobs)
        self.table.act(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _following(self, messages: Sequence[Message], shown: str) -> str:
        """What the template writes after the last thing that the policy said."""
        last = max(place for place, message in enumerate(messages) if message["role"] == "assistant")
        before, said, _ = self._written(messages[: last + 1]).rpartition(messages[last]["content"])
        if not said or not shown.startswith(before + said):
            raise UsageError(
                "The chat template writes the same words in another way when the episode goes on.",
                "take a chat template that only adds to what it has written, such as Qwen2.5's",
            )
        return shown.removeprefix(before + said)

    def _written(self, messages: Sequence[Message], **how: Any) -> str:
        return str(self.tokenizer.apply_chat_template([dict(one) for one in messages], tokenize=False, **how))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _add(self, ids: list[int], ours: int, logprobs: list[float] | None = None) -> None:
        self.completion += ids
        self.mask += [ours] * len(ids)
        self.logprobs += logprobs or [0.0] * len(ids)
