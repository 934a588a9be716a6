"""A rollout in shards: the dialogues are played in parts, and the version is that of one process."""

from __future__ import annotations

from pathlib import Path

from fixtures.flat_calls import plan_of, rollout
from fixtures.playing import Sampler, many

from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.merge import merge
from sotopia_rl_data.rollouts.estimate import estimate_rollout
from sotopia_rl_data.rollouts.rollout import ask_rollout
from sotopia_rl_data.shards import Shard
from sotopia_rl_data.store import Store


def test_a_rollout_in_three_shards_is_the_rollout_of_one_process(tmp_path: Path):
    store, alone = Store(tmp_path / "store"), Store(tmp_path / "alone")
    a, b = Sampler("a"), Sampler("b")
    plan = plan_of(many(12), a=a, b=b, turns=4)
    ledgers = [tmp_path / f"shard-{number}" for number in (1, 2, 3)]
    parts = [
        ask_rollout(store, plan, shard=Shard(number, 3), options=AskOptions(ledger=ledger))
        for number, ledger in enumerate(ledgers, 1)
    ]
    assert [part.episodes for part in parts] == [4, 4, 4]
    assert store.names() == []
    sent = len(a.sent) + len(b.sent)
    assert merge(store.root / ".ledger", ledgers).added == sent
    whole = rollout(store, plan, "lab/play")
    assert (whole.asked, len(a.sent) + len(b.sent)) == (0, sent)
    assert rollout(alone, plan, "lab/play").digest == whole.digest
    assert len({request.key for request in (*a.sent, *b.sent)}) == sent


def test_a_dry_run_of_a_shard_counts_its_own_episodes(tmp_path: Path):
    plan = plan_of(many(10), a=Sampler("a"), b=Sampler("b"), turns=4)
    prices = AskOptions().price_list()
    with Ledger(tmp_path / "ledger") as ledger:
        shards = [estimate_rollout(plan, ledger, AskOptions(), prices, Shard(number, 5)) for number in range(1, 6)]
    assert [shard.episodes for shard in shards] == [2] * 5
