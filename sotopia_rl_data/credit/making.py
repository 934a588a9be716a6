"""Known games as a dataset: `episodes` as any other's, whose scores are the games' own, and beside them `truth`.

Whoever labels reads `episodes` alone, so no judge sees the truth. It is stored and not derived when asked for: it is
data that a digest covers, and a reader needs none of this code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sotopia_rl_data.credit.game import AGENTS
from sotopia_rl_data.credit.playing import Played, played
from sotopia_rl_data.credit.shapley import coalition_values, shapley_values
from sotopia_rl_data.credit.solved import solved
from sotopia_rl_data.display import Advance
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.refs import check_name
from sotopia_rl_data.schema import split_of
from sotopia_rl_data.store import Store
from sotopia_rl_data.store.stage import Committed
from sotopia_rl_data.store.versions import check as check_version

RULES = 1
"""Raised whenever the same seed would give other games, words or truths."""
TINY = 1e-9
"""Credit below this, in points of a score, is none."""
_AT_ONCE = 64


def make_games(
    store: Store,
    name: str,
    count: int,
    seed: int = 0,
    *,
    version: str | None = None,
    progress: Advance | None = None,
) -> Committed:
    """Play `count` games and commit their episodes and truth as a version of `name`. The first games of a longer run
    are those of a shorter one with the same seed. Raises UsageError, VersionExists, StoreError."""
    if count < 1 or seed < 0:
        raise UsageError(f"{count} games of seed {seed} cannot be made.", "write --make 100 and --seed 0, or more")
    pinned = version and check_version(version)
    from sotopia_rl_data.tables import episode_table

    with store.stage(check_name(name)) as stage:
        for start in range(0, count, _AT_ONCE):
            some = [played(number, seed) for number in range(start, min(start + _AT_ONCE, count))]
            for split, of_split in _by_split(some).items():
                stage.write("episodes", split, episode_table([one.episode for one in of_split]))
                stage.write("truth", split, truth_table(of_split))
            if progress is not None:
                progress(start + len(some), count)
        recipe = {"kind": "episodes", "seed": 0, "games": {"count": count, "seed": seed, "rules": RULES}}
        provenance = {"command": "credit games", "counts": {"episodes": count}, "dialects": {"plain": count}}
        return stage.commit(recipe, provenance, pinned)


def truth_table(games: Sequence[Played]) -> Any:
    """The rows of `truth` about these dialogues, as an Arrow table."""
    import pyarrow as pa

    from sotopia_rl_data.tables import TRUTH

    return pa.Table.from_pylist([row for one in games for row in truth_rows(one)], schema=TRUTH)


def truth_rows(one: Played) -> Iterator[dict[str, Any]]:
    """A row for each utterance of a dialogue: what it was worth, in points of its agent's score."""
    solution = solved(one.game)
    credit = solution.credit(one.said, one.end, one.length)
    shapley = [shapley_values(coalition_values(solution, one.said, a, one.length)) for a in AGENTS]
    pivotal = {pivotal_turn(range(a, len(credit), 2), [c.advantage for c in credit[a::2]]) for a in AGENTS}
    for t, (step, turn, known) in enumerate(zip(one.said, one.episode.turns, credit, strict=True)):
        yield {
            "episode_id": one.episode.episode_id,
            "environment_id": one.episode.environment_id,
            "agent": turn.agent,
            "turn": turn.turn,
            "move": step.move,
            "wording": one.wordings[t],
            "v": known.v,
            "q": known.q,
            "advantage": known.advantage,
            "v_true": known.v_true,
            "q_true": known.q_true,
            "advantage_true": known.advantage_true,
            "chance_true": known.chance_true,
            "partner_v_true": known.partner_v_true,
            "partner_advantage_true": known.partner_advantage_true,
            "partner_chance_true": known.partner_chance_true,
            "shapley": float(shapley[t % 2][t // 2]),
            "pivotal": t in pivotal,
        }


def pivotal_turn(turns: Sequence[int], credit: Sequence[float]) -> int | None:
    """The turn that changed most, for better or worse: the earliest of the largest; None where none changed
    anything."""
    sizes = [abs(one) for one in credit]
    largest = max(sizes, default=0.0)
    return next((turn for turn, size in zip(turns, sizes, strict=True) if size > max(largest - TINY, TINY)), None)


def _by_split(games: Sequence[Played]) -> dict[str, list[Played]]:
    splits: dict[str, list[Played]] = {}
    for one in games:
        splits.setdefault(split_of(one.episode.environment_id), []).append(one)
    return splits
