"""TRL's GRPO trainer with two things that it lacks: a worth of truncated completions, and a judge of held-out ones.

A completion that stopped at the length limit has not ended its turn, although the template would close it: what a
reward says of it is of no account, and it must not be worth more than those that ended. At every evaluation a judge
that the policy is not trained on scores the same completions as the rewards (`hacking.py`).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object  # type: ignore[import-untyped]
from torch import Tensor
from trl import GRPOTrainer

from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.thoughts import without_thought
from sotopia_rl_data.trainers.config import BELOW_GROUP
from sotopia_rl_data.trainers.hacking import Parting, Scores, first_scores, keep, part, repetition
from sotopia_rl_data.trainers.rewards import Reward, is_action

log = logging.getLogger(__name__)


class PolicyTrainer(GRPOTrainer):  # type: ignore[misc]  # mypy skips trl
    """TRL's trainer, with rewards of truncated completions and a comparison with the held-out judge.

    `truncated_completions` and `truncated_groups` count those that were met in training, over all processes; `hacking`
    is the parting at which the alarm was raised.
    """

    judge: Reward | None = None
    hacking: Parting | None = None
    ends: frozenset[int]  # the ids that end a completion
    truncated_completions = 0
    truncated_groups = 0

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Sequence[Sequence[int]]
    ) -> Tensor:
        """[N, K] rewards of all processes' completions; N is a multiple of the group's size. A completion for which a
        reward server has none has no others either, by which TRL leaves it out: their sum would count it as 0."""
        rewards: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        rewards[rewards[:, 0].isnan()] = torch.nan
        mode = "train" if self.model.training else "eval"
        if mode == "eval":
            self._measure(prompts, completions, rewards)
        rule = self.args.truncated_reward
        if rule is None:
            return rewards
        ended = torch.tensor([bool(len(ids)) and int(ids[-1]) in self.ends for ids in completion_ids_list])
        ended = self.accelerator.gather(ended.to(rewards.device))
        lost = ~ended.view(-1, self.num_generations if mode == "train" else self.num_generations_eval).any(dim=1)
        self._metrics[mode]["truncated"].append(1.0 - ended.float().mean().item())
        self._metrics[mode]["truncated_groups"].append(lost.float().mean().item())
        if mode == "train":
            self.truncated_completions += int((~ended).sum())
            self.truncated_groups += int(lost.sum())
        if rule != BELOW_GROUP:
            rewards[~ended, 0] = float(rule)
            return rewards
        weights, size = self.reward_weights.to(rewards.device), len(ended) // len(lost)
        if self.multi_objective_aggregation == "sum_then_normalize":
            return below_group(rewards, ended, weights, size)
        columns = zip(rewards.split(1, dim=1), weights.split(1), strict=True)  # each is normalised by itself
        return torch.cat([below_group(column, ended, weight, size) for column, weight in columns], dim=1)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As TRL's, with the same random numbers each time, so that training is the same with and without."""
        self._measured: list[tuple[str, float, float]] = []
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.args.seed)
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As TRL's; an evaluation's line also says how far the reward and the held-out judge have gone."""
        is_evaluation = any(name.startswith("eval_") for name in logs)
        super().log(logs | self._compared() if is_evaluation else logs, start_time)

    def _measure(self, prompts: Sequence[Any], completions: Sequence[Any], rewards: Tensor) -> None:
        """Judge this process's held-out completions. `rewards` [N, K] are of all processes."""
        metrics = self._metrics["eval"]
        texts = [completion[-1].get("content") or "" for completion in completions]
        metrics["valid"].append(float(np.mean([is_action(text) for text in texts])))
        metrics["repetition"].append(float(np.mean([repetition(_said(text)) for text in texts])))
        if self.judge is None:
            return
        judged = [math.nan if one is None else float(one) for one in self.judge(prompts, completions)]
        metrics["judge"].append(float(np.nanmean(judged)) if not np.isnan(judged).all() else math.nan)
        totals = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
        totals[rewards.isnan().all(dim=1)] = torch.nan
        first = self.accelerator.process_index * len(prompts)
        own = totals[first : first + len(prompts)].tolist()
        self._measured += zip(map(_key, prompts), own, judged, strict=True)

    def _compared(self) -> dict[str, float]:
        """The gains of reward and judge since the first evaluation; raises the alarm where they part."""
        if self.judge is None:
            return {}
        by_prompt: dict[str, list[tuple[float, float]]] = {}
        for prompt, reward, judged in gather_object(self._measured):
            by_prompt.setdefault(prompt, []).append((reward, judged))
        scores: Scores = {
            prompt: (fmean(r for r, _ in of), fmean(j for _, j in of)) for prompt, of in by_prompt.items()
        }
        folder, step = Path(self.args.output_dir), self.state.global_step
        first = first_scores(folder)
        self.accelerator.wait_for_everyone()  # all have read before the first process writes
        if self.is_world_process_zero():
            keep(folder, step, scores)
        parting = part(first, scores) if first is not None else None
        if parting is None:
            return {}
        if parting.is_hacking and self.hacking is None:
            self.hacking = parting
            log.warning(
                "Step %d: the reward has gained %.2f standard deviations on held-out prompts, the held-out judge %.2f. "
                "The policy may be hacking its reward: read completions/, and compare with an earlier checkpoint.",
                step, parting.reward_gain, parting.judge_gain,
            )  # fmt: skip
        if parting.is_hacking and self.args.stop_on_hacking:
            self.control.should_training_stop = True
        gains = {"reward_gain": parting.reward_gain, "judge_gain": parting.judge_gain, "parting": parting.sigma}
        return {f"eval_{name}": value for name, value in gains.items()}


def _said(text: str) -> str:
    """What an action says; all of a text that is not one."""
    return str(json.loads(without_thought(text))["argument"]) if is_action(text) else text


def _key(prompt: Sequence[Mapping[str, Any]]) -> str:
    """What names a prompt in all evaluations of a run."""
    return sha256_of([[message["role"], message["content"]] for message in prompt])[:16]


def below_group(rewards: Tensor, ended: Tensor, weights: Tensor, size: int) -> Tensor:
    """The rewards [N, K] in which each completion that has not ended is worth its group's minimum minus its spread.

    Both are of the weighted sums of those that ended; the spread is their sample deviation, or where they do not differ
    that of the batch, or else 1. The worth stands in the first column. Where none of a group's `size` has ended, all
    are NaN, by which TRL gives no advantage.
    """
    totals = (rewards * weights).nansum(dim=1).masked_fill(~ended | rewards.isnan().all(dim=1), torch.nan)
    shaped = rewards.clone()
    of_all = _deviation(totals)
    for start in range(0, len(totals), size):
        group = slice(start, start + size)
        known = totals[group][~totals[group].isnan()]
        worth = known.min() - (_deviation(known) or of_all or 1.0) if len(known) else torch.nan
        cut = torch.zeros_like(ended)
        cut[group] = ~ended[group]
        shaped[cut] = torch.nan
        shaped[cut, 0] = worth / (float(weights[0]) or 1.0)
    return shaped


def _deviation(values: Tensor) -> float:
    """The sample deviation of the known values; 0 below two, and where rounding alone makes them differ."""
    known = values[~values.isnan()].double()
    deviation = float(known.std()) if len(known) > 1 else 0.0
    return deviation if deviation > 1e-6 * (1.0 + float(known.abs().max() if len(known) else 0.0)) else 0.0
