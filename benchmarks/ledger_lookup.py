"""How long a lookup in a compacted ledger takes: keys in random order, then in the order in which they were answered.

    python benchmarks/ledger_lookup.py --records 200_000

Prints milliseconds by the clock and of CPU a lookup, the time to open the ledger, and what the files take. `Parquet
alone` is the same ledger without the lines beside it, as versions before 0.1.0 left it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.ledger.ledger import Ledger, answered
from sotopia_rl_data.request import Reply, Request, Target, Usage


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--records", type=int, default=200_000)
    given.add_argument("--lookups", type=int, default=2_000)
    asked = given.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = fill(folder, asked.records)
        lines = next(folder.glob("*.arrow"))
        sizes = [path.stat().st_size / 1e6 for path in (next(folder.glob("*.parquet")), lines)]
        print(f"{asked.records:,} records: {sizes[0]:.1f} MB of Parquet, {sizes[1]:.1f} MB of lines")
        measure("with lines", folder, keys, asked.lookups)
        lines.unlink()
        measure("Parquet alone", folder, keys, asked.lookups // 10)


def fill(folder: Path, count: int) -> list[str]:
    """A ledger of so many answers of some 900 characters, compacted; returns their keys in order."""
    chance = random.Random(0)
    words = [sha256_of(n)[: chance.randint(2, 9)] for n in range(3_000)]
    target = Target("openai", "gpt-4o", "https://api.openai.com/v1", {"temperature": 0, "max_tokens": 512})
    request = Request(target, [{"role": "user", "content": "x"}])
    keys = [sha256_of(n) for n in range(count)]
    with (folder / "journal-1-1.jsonl").open("wb") as journal:
        for key in keys:
            text = json.dumps({"reasoning": " ".join(chance.choices(words, k=140)), "importance": chance.randint(0, 3)})
            reply = Reply(text, "stop", "gpt-4o-2026-01-01", Usage(1_500, 1_000, 0, 200))
            journal.write(answered(request, key, key, reply, 1.2).line())
    Ledger(folder).compact()
    return keys


def measure(what: str, folder: Path, keys: Sequence[str], lookups: int) -> None:
    began = time.perf_counter()
    ledger = Ledger(folder)
    print(f"{what}: opened in {time.perf_counter() - began:.2f} s")
    chance = random.Random(1)
    first = chance.randrange(len(keys) - lookups)
    for order, chosen in (("random", chance.sample(keys, lookups)), ("in order", keys[first : first + lookups])):
        cpu, took = time.process_time(), []
        for key in chosen:
            began = time.perf_counter()
            assert ledger.attempts(key)
            took.append(1_000 * (time.perf_counter() - began))
        cpu = 1_000 * (time.process_time() - cpu) / lookups
        middle, worst = statistics.median(took), sorted(took)[int(0.99 * lookups)]
        print(f"  {order:9} median {middle:6.3f} ms, 99 % within {worst:6.3f} ms, CPU {cpu:6.3f} ms")


if __name__ == "__main__":
    main()
