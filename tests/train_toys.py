"""Datasets with a planted signal, and tiny models, for the trainers' tests. Everything is made on the spot."""

from __future__ import annotations

import fcntl
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from sotopia_rl_data.schema import split_of
from sotopia_rl_data.store import Store
from sotopia_rl_data.tables import rewards_schema

WORDS = (
    "we",
    "could",
    "maybe",
    "share",
    "and",
    "swap",
    "because",
    "it",
    "matters",
    "to",
    "me",
    "really",
    "want",
    "today",
)
RULES = "You are {name}: two friends plan an evening, number {env}."
ASK = "\n.\nYou are at Turn #{turn}. Act."

NAMES = ("Ann O'Hara", "Bo-Li")

Reward = Callable[[str, list[str]], float]  # (the utterance, what was said before) -> reward


def says_thanks(text: str, before: list[str]) -> float:
    """Planted in the utterance: how often it thanks."""
    return text.split().count("thanks") / 4


def answers_the_offer(text: str, before: list[str]) -> float:
    """Planted in the history: 'yes' is good right after an offer, bad otherwise."""
    offered = bool(before) and "offer" in before[-1].split()
    return float(("yes" in text.split()) == offered)


def after_an_offer(text: str, before: list[str]) -> float:
    """Planted in both: thanks are good, and so is speaking right after an offer."""
    return text.split().count("thanks") / 8 + 0.5 * (bool(before) and "offer" in before[-1].split())


def speak(rng: random.Random) -> str:
    words = rng.choices(WORDS, k=5) + ["thanks"] * rng.randrange(5) + rng.choices(["yes", "no"], k=1)
    words += ["offer"] * rng.randrange(2)
    rng.shuffle(words)
    return " ".join(words)


def act(text: str) -> str:
    return json.dumps({"action_type": "speak", "argument": text})


def episode_rows(
    episode: str, env: str, rng: random.Random, reward: Reward, turns: int, layout: str, extra: dict[str, Reward]
) -> Iterator[dict[str, Any]]:
    said: list[str] = []
    names = NAMES
    for turn in range(turns):
        name, text = names[turn % 2], speak(rng)
        before = list(said)
        yield {
            "episode_id": episode,
            "environment_id": env,
            "agent": f"agent-{turn % 2}",
            "turn": turn,
            "prompt": (chat_prompt if layout == "chat" else single_prompt)(name, names, env, before, turn),
            "completion": [{"role": "assistant", "content": act(text)}],
            "reward": reward(text, before),
            **{f"raw_{d}": f(text, before) * 10 for d, f in extra.items()},
            **{f"norm_{d}": f(text, before) for d, f in extra.items()},
            "n_opinions": 2,
            "spread": rng.choice([0.0, 0.1, 0.3]),
        }
        said.append(text)


def single_prompt(name: str, names: tuple[str, str], env: str, before: list[str], turn: int) -> list[dict[str, str]]:
    history = "".join(f"\nTurn #{t}: {names[t % 2]} said: {text}" for t, text in enumerate(before))
    return [{"role": "user", "content": RULES.format(name=name, env=env) + history + ASK.format(turn=turn)}]


def chat_prompt(name: str, names: tuple[str, str], env: str, before: list[str], turn: int) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": RULES.format(name=name, env=env) + ASK.format(turn="n")}]
    if turn % 2 == 0:
        messages.append({"role": "user", "content": "The conversation starts."})
    for t, text in enumerate(before):
        role = "assistant" if t % 2 == turn % 2 else "user"
        content = act(text) if role == "assistant" else f"{names[t % 2]} said: {text}"
        messages.append({"role": role, "content": content})
    return messages


def once(factory: Any, name: str, make: Callable[[Path], Any]) -> tuple[Path, Any]:
    """A folder that `make` fills once for all tests, also under several workers; with what it returned, as JSON."""
    root = factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / name
    kept = folder / "made.json"
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            folder.mkdir(exist_ok=True)
            kept.write_text(json.dumps(make(folder)), encoding="utf-8")
    return folder, json.loads(kept.read_text(encoding="utf-8"))


def logged(run: Path, until: int = 10**9) -> list[dict[str, Any]]:
    """What a run logged up to a step, with the time at which it did: a resumed run has not logged that again."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["step"] <= until]


def toy_text() -> Iterator[str]:
    """What the toys say, for a tokenizer in which each of their words is one token."""
    for seed in range(50):
        said = [speak(random.Random(seed)), speak(random.Random(-seed))]
        for prompt in (chat_prompt(NAMES[0], NAMES, str(seed), said, 2), single_prompt(NAMES[1], NAMES, "1", said, 3)):
            yield "\n".join([*(message["content"] for message in prompt), act(said[0])])


def toy_model(path: Path, **shape: int) -> str:
    """A tiny model that knows the toys' words: one layer, which learns a planted signal in seconds. Its directory."""
    from sotopia_rl_data.trainers.tiny import make_tiny

    return str(make_tiny(path, text=toy_text(), **{"hidden": 32, "layers": 1, "kv_heads": 4, **shape}))


def train_rm(dataset: str, model: str, out: Path, **given: Any) -> dict[str, Any]:
    """`api.train_rm`, with the fields of its configuration by name, `preset` and `settings`; the run's record."""
    from sotopia_rl_data.trainers import api, config

    return api.train_rm(_configured(config.RMConfig, dataset, model, out, **given))


def train_sft(dataset: str, model: str, out: Path, **given: Any) -> dict[str, Any]:
    """`api.train_sft`, in the same way."""
    from sotopia_rl_data.trainers import api, config

    return api.train_sft(_configured(config.PolicySFTConfig, dataset, model, out, **given))


def train_grpo(dataset: str, model: str, out: Path, **given: Any) -> dict[str, Any]:
    """`api.train_grpo`, in the same way."""
    from sotopia_rl_data.trainers import api, config

    return api.train_grpo(_configured(config.PolicyGRPOConfig, dataset, model, out, **given))


def _configured(
    config_class: Any, dataset: str, model: str, out: Path, preset: str | None = None, settings: Any = (), **fields: Any
) -> Any:
    from sotopia_rl_data.trainers.config import configure

    options = {"dataset": dataset, "model": model, "output_dir": str(out), **fields}
    return configure(config_class, preset=preset, options=options, settings=settings)


def make_dataset(
    root: Path,
    name: str = "toys/rewards",
    *,
    episodes: int = 40,
    environments: int = 20,
    turns: int = 6,
    reward: Reward = says_thanks,
    layout: str = "chat",
    seed: int = 0,
    shuffled: bool = False,
    extra: dict[str, Reward] | None = None,
    weights: dict[str, float] | None = None,
    change: Callable[[dict[str, Any]], None] | None = None,
    splits: Callable[[dict[str, Any]], str] = lambda row: split_of(row["environment_id"]),
    version: str | None = None,
) -> str:
    """A committed version in the store at `root`; returns its pinned reference."""
    rng = random.Random(seed)
    extra = extra or {}
    rows = [
        row
        for e in range(episodes)
        for row in episode_rows(f"ep-{e:03d}", f"env-{e % environments}", rng, reward, turns, layout, extra)
    ]
    if shuffled:
        rewards = [r["reward"] for r in rows]
        rng.shuffle(rewards)
        for row, value in zip(rows, rewards, strict=True):
            row["reward"] = value
    for row in rows if change else ():
        change(row)
    schema = rewards_schema(tuple(extra))
    with Store(root).stage(name) as stage:
        for split in sorted({splits(r) for r in rows}):
            mine = [r for r in rows if splits(r) == split]
            stage.write("rewards", split, pa.Table.from_pylist(mine, schema=schema))
        recipe = {"rule": "direct", "weights": weights or dict.fromkeys(extra, 1.0), "layout": layout}
        return stage.commit(recipe, version=version).version.ref
