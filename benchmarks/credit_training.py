"""What reward models learn from: the true credit, re-played credit, a judge's importance; at equal cost, three seeds.

    python benchmarks/credit_training.py      # needs the train extra, and tests/ beside it; six minutes on two cores

Known games, a tiny model with random weights (one layer, width 32) that reads the two utterances before and the one to
score. Each way of labelling may make as many calls (as `benchmarks/credit.py` counts them): a judge of whom 30 % of the
turns get another turn's credit is asked about every game again and again, and its answers are averaged; re-playing
labels so many turns as the calls allow, drawn at random, and trains on fewer rows. The truth costs nothing here, and is
the bound. Measured is Spearman's correlation with the true Q − V over utterances of games that training never saw.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path[:0] = [str(Path(__file__).parents[1] / "tests")]

GAMES, CALLS, SEEDS = 150, (24_000,), range(3)
REPLAY = (4, 2)
STEPS = 500


def rows_of(games, truth):
    """What the model reads of each utterance, in the truth's order: (prompt, completion)."""
    from sotopia_rl_data.labelers.plan import episodes_of

    texts = {}
    for files in games.files("episodes").values():
        for episode in episodes_of(files):
            said = [turn.text or "(leaves)" for turn in episode.turns]
            for turn in episode.turns:
                before = "\n".join(said[max(0, turn.turn - 2) : turn.turn]) or "(begins)"
                prompt = [{"role": "user", "content": before}]
                answer = [{"role": "assistant", "content": said[turn.turn]}]
                texts[episode.episode_id, turn.turn] = (prompt, answer)
    return [texts[key[0], key[2]] for key in truth.keys]


def replayed_credit(truth, seed: int, calls: int, rng: np.random.Generator) -> np.ndarray:
    from sotopia_rl_data.credit.playing import played
    from sotopia_rl_data.credit.replaying import replayed
    from sotopia_rl_data.credit.simulating import simulator

    credit, left = np.full(len(truth), np.nan), calls
    for row in rng.permutation(np.flatnonzero(truth.training)):
        episode, _, turn = truth.keys[row]
        one = played(int(episode.rpartition("-")[2]), seed)
        draws, plays = REPLAY
        left -= draws + 2 * draws * plays * (one.length - turn)
        if left < 0:
            break
        credit[row] = replayed(simulator(one.game), one.said[turn], turn, one.length, draws, plays, rng).credit
    return credit


def judged_credit(truth, calls: int, signed: bool, rng: np.random.Generator) -> np.ndarray:
    groups = truth.group.max() + 1
    answers = []
    for _ in range(max(1, calls // groups)):
        answer = np.empty(len(truth))
        for group in range(groups):
            rows = np.flatnonzero(truth.group == group)
            others = truth.credit[rng.choice(rows, len(rows))]
            believed = np.where(rng.random(len(rows)) < 0.3, others, truth.credit[rows])
            largest = np.abs(believed).max() or 1.0
            if signed:
                answer[rows] = np.round((0.5 + believed / (2 * largest)) * 3) / 3
            else:
                answer[rows] = np.round(np.abs(believed) / largest * 3) / 3 * truth.scores[group]
        answers.append(answer)
    return np.where(truth.training, np.mean(answers, axis=0), np.nan)


class Laid:
    """The truth with the rows that may be trained on."""

    def __init__(self, truth):
        self.training = np.zeros(len(truth), bool)
        self.training[truth.splits["train"]] = True
        self.__dict__ |= {name: getattr(truth, name) for name in ("keys", "group", "credit", "scores", "splits")}

    def __len__(self):
        return len(self.keys)


def correlation(root: Path, name: str, games, truth, texts, credit: np.ndarray, seed: int) -> tuple[float, int]:
    """Train on the credit, score everything, and compare the held-out games with the truth."""
    from fixtures.training import BY_EPOCH, WIDE, train_rm
    from scipy.stats import spearmanr

    from sotopia_rl_data.store import Store
    from sotopia_rl_data.tables import rewards_schema
    from sotopia_rl_data.trainers.reward_model.model import RewardModel
    from sotopia_rl_data.trainers.tiny import make_tiny

    low, high = np.nanquantile(credit, [0.02, 0.98])
    reward = np.clip((credit - low) / ((high - low) or 1.0), 0, 1)
    reward[~truth.training] = (np.clip(truth.credit, -1, 1)[~truth.training] + 1) / 2  # the trainer wants a validation
    with Store(root).stage(f"lab/{name}") as stage:
        for split, rows in truth.splits.items():
            table = [
                {"episode_id": e, "environment_id": e, "agent": a, "turn": t, "prompt": p, "completion": c}
                | {"reward": None if np.isnan(r) else float(r), "n_opinions": 1, "spread": None}
                for (e, a, t), (p, c), r in zip(truth.keys[rows], texts[rows], reward[rows], strict=True)
            ]
            stage.write("rewards", split, pa.Table.from_pylist(table, schema=rewards_schema(())))
        ref = stage.commit({"kind": "toy"}).version.ref
    words = ["\n".join([p[0]["content"], c[0]["content"]]) for p, c in texts[:400]]
    model = str(make_tiny(root / f"model-{seed}", hidden=32, layers=1, kv_heads=4, text=words, seed=seed))
    labelled = int((~np.isnan(credit)).sum())
    epochs = max(1, STEPS * 8 // labelled)
    settings = [
        *("disable_tqdm=true", "learning_rate=0.003", "warmup_steps=10", "lr_scheduler_type=cosine"),
        *(*BY_EPOCH, *WIDE, f"num_train_epochs={epochs}", f"seed={seed}"),
        *("save_strategy=no", "eval_strategy=no", "load_best_model_at_end=false"),
    ]
    train_rm(ref, model, root / f"rm-{name}", preset="tiny", store=str(root), settings=settings)
    scorer = RewardModel.load(root / f"rm-{name}")
    held = np.flatnonzero(~truth.training)
    scores = scorer.score_heads([texts[row] for row in held])[:, 0]
    return float(spearmanr(scores, truth.credit[held]).statistic), labelled


def main() -> None:
    import torch

    from sotopia_rl_data.credit.making import make_games
    from sotopia_rl_data.credit.truth import truth_of
    from sotopia_rl_data.store import Store

    torch.set_num_threads(1)
    games_count = int(sys.argv[1]) if len(sys.argv) > 1 else GAMES
    print("| trained on | calls | rows | Spearman with the truth, three seeds |")
    print("|---|--:|--:|---|")
    found: dict[tuple[str, int], list[tuple[float, int]]] = {}
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            root, rng = Path(folder), np.random.default_rng([2026, seed])
            games = make_games(Store(root), "lab/games", games_count, 100 + seed).version
            truth = Laid(truth_of(games))
            texts = rows_of(games, truth)
            ways = {("the truth", 0): np.where(truth.training, truth.credit, np.nan)}
            for calls in CALLS:
                ways["re-played credit", calls] = replayed_credit(truth, 100 + seed, calls, rng)
                ways["a judge's importance (direct)", calls] = judged_credit(truth, calls, False, rng)
                ways["a judge's quality", calls] = judged_credit(truth, calls, True, rng)
            for number, (way, credit) in enumerate(ways.items()):
                with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    one = correlation(root, f"way-{number}", games, truth, texts, credit, seed)
                found.setdefault(way, []).append(one)
                print(seed, way, one, file=sys.stderr, flush=True)
    for (way, calls), each in found.items():
        values = ", ".join(f"{value:.2f}" for value, _ in each)
        print(f"| {way} | {calls or '–'} | {each[0][1]} | {values} |")


if __name__ == "__main__":
    main()
