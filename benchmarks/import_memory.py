"""What importing a big file costs: peak memory and megabytes a second, for each way that episodes lie in files.

    python benchmarks/import_memory.py --megabytes 2048

Makes a file of about that size in each form (the library's export as JSON Lines and as CSV, EpisodeLogs as one JSON
list and as one dump with a record under each key, plain JSON Lines, training rows as one JSON list, a table of one
utterance a row with its rows shuffled, a ConvoKit corpus), and imports it
into a store of its own, in a process of its own: `read` alone, then the whole `import`, to the committed version.
Memory is that process's peak resident set; imports of libraries count. Megabytes a second are of CPU time, so that what
else the machine does shows little. Prints Markdown.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

NAMES = ("Ann O'Malley", "José Núñez")
TURNS = 20
SENTENCE = (
    'I hear you, and "maybe" is not an answer I can take home; shall we say {} dollars, on Tuesday, by the river? '
)


def log(i: int) -> dict[str, Any]:
    """An EpisodeLog of twenty turns; about 16 kB of JSON."""
    shown = [f"\nHere it is:\nScenario: s{i % 90}\nParticipants: {' and '.join(NAMES)}\nConversation Starts:\n"] * 2
    messages = []
    for turn in range(TURNS):
        said = f'said: "{SENTENCE.format(i + turn)}"'
        acts = [said if turn % 2 == place else "did nothing" for place in range(2)]
        messages.append(
            [["Environment", n, shown[p]] for p, n in enumerate(NAMES)]
            + [[n, "Environment", acts[p]] for p, n in enumerate(NAMES)]
        )
        shown = [f"Turn #{turn}: {NAMES[turn % 2]} {said}\n"] * 2
    scores = {"goal": i % 11, "relationship": i % 5, "knowledge": i % 10, "overall_score": 3.0}
    return {
        "pk": f"E{i * 2654435761 % 2**32:010d}",
        "environment": f"ENV{i % 90}",
        "agents": ["01H5TNE5PY896ASNX8XGQA6AE0", "01H5TNE5P98J20AEW94XQ0KC35"],
        "tag": "bench",
        "models": ["gpt-4"] * 3,
        "messages": messages,
        "reasoning": "Environment comments: terminated: Agent 1 is leaving; \n" + SENTENCE * 8,
        "rewards": [[3.0, scores], [3.0, scores]],
    }


def export(i: int) -> dict[str, Any]:
    """The library's export of the same episode."""
    one = log(i)
    return {
        "episode_id": one["pk"],
        "environment_id": one["environment"],
        "agent_ids": one["agents"],
        "experiment_tag": one["tag"],
        "experiment_model_name_pairs": one["models"],
        "raw_messages": one["messages"],
        "raw_rewards": one["rewards"],
        "scenario": f"s{i % 90}",
        "codename": f"c{i % 90}",
        "agents_background": dict.fromkeys(NAMES, SENTENCE),
        "social_goals": dict.fromkeys(NAMES, SENTENCE),
        "social_interactions": SENTENCE * TURNS,
        "reasoning": one["reasoning"],
        "rewards": one["rewards"],
    }


def plain(i: int) -> dict[str, Any]:
    """The same episode in our own format."""
    return {
        "episode_id": f"E{i * 2654435761 % 2**32:010d}",
        "environment_id": f"ENV{i % 90}",
        "agents": [{"name": n, "goal": SENTENCE, "background": SENTENCE} for n in NAMES],
        "turns": [{"agent": NAMES[t % 2], "text": SENTENCE.format(i + t)} for t in range(TURNS)],
        "scores": [{"agent": n, "dimension": "goal", "score": i % 11} for n in NAMES],
        "reasoning": SENTENCE * 20,
    }


def training(i: int) -> dict[str, Any]:
    """A training row with the prompt of an average turn."""
    return {"input": f"Scenario: s{i % 90}\nParticipants: x\n" + SENTENCE * 40, "output": SENTENCE, "value": i % 10 / 3}


def _lines(path: Path, make: Callable[[int], dict[str, Any]], size: int) -> int:
    with path.open("w", encoding="utf-8") as file:
        for count in _until(size, file.tell):
            file.write(json.dumps(make(count)) + "\n")
    return count + 1


def _listed(path: Path, make: Callable[[int], dict[str, Any]], size: int) -> int:
    with path.open("w", encoding="utf-8") as file:
        for count in _until(size, file.tell):
            file.write((",\n" if count else "[") + json.dumps(make(count)))
        file.write("]")
    return count + 1


def _keyed(path: Path, make: Callable[[int], dict[str, Any]], size: int) -> int:
    with path.open("w", encoding="utf-8") as file:
        for count in _until(size, file.tell):
            key = json.dumps(f":sotopia.database.logs.EpisodeLog:{make(count)['pk']}")
            file.write((",\n" if count else "{") + f"{key}: {json.dumps(make(count))}")
        file.write("}")
    return count + 1


def _table(path: Path, make: Callable[[int], dict[str, Any]], size: int) -> int:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(make(0))
        for count in _until(size, file.tell):
            writer.writerow(str(v) if isinstance(v, (list, dict)) else v for v in make(count).values())
    return count + 1


def _utterances(path: Path, make: Callable[[int], dict[str, Any]], size: int) -> int:
    """A CSV of one utterance a row; the rows of a few hundred conversations are mixed."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["conversation", "turn", "speaker", "text", "csat"])
        for count in _until(size, file.tell):
            if count % 300 == 0:
                turns = [(i, turn) for turn in range(TURNS) for i in range(count, count + 300)]
                writer.writerows([f"c{i}", t, NAMES[t % 2], SENTENCE.format(i + t), i % 5 + 1] for i, t in turns)
    return count - count % 300 + 300


def _corpus(path: Path, make: Callable[[int], dict[str, Any]], size: int) -> int:
    """A ConvoKit corpus, in a folder."""
    path.mkdir()
    with (path / "utterances.jsonl").open("w", encoding="utf-8") as file:
        for count in _until(size, file.tell):
            for turn in range(TURNS):
                said = {
                    "id": f"u{count}-{turn}",
                    "conversation_id": f"c{count}",
                    "speaker": f"s{(count + turn) % 9999}",
                }
                said |= {"text": SENTENCE.format(turn), "timestamp": turn, "meta": {"offer": turn}, "vectors": []}
                file.write(json.dumps(said | {"reply-to": f"u{count}-{turn - 1}" if turn else None}) + "\n")
    speakers = {f"s{i}": {"meta": {"age": i % 80}, "vectors": []} for i in range(9999)}
    conversations = {f"c{i}": {"meta": {"csat": i % 5 + 1}, "vectors": []} for i in range(count + 1)}
    for name, value in {"speakers": speakers, "conversations": conversations, "corpus": {"name": "bench"}}.items():
        (path / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return count + 1


def _until(size: int, written: Callable[[], int]) -> Iterator[int]:
    count = 0
    while count == 0 or written() < size:
        yield count
        count += 1


FORMS: dict[str, tuple[str, Callable[..., int], Callable[[int], dict[str, Any]]]] = {
    "export, JSON Lines": ("export.jsonl", _lines, export),
    "export, CSV": ("export.csv", _table, export),
    "EpisodeLog, a JSON list": ("logs.json", _listed, log),
    "EpisodeLog, a dump by key": ("dump.json", _keyed, log),
    "plain, JSON Lines": ("plain.jsonl", _lines, plain),
    "training rows, a JSON list": ("training.json", _listed, training),
    "one utterance a row, CSV": ("utterances.csv", _utterances, plain),
    "ConvoKit corpus": ("corpus", _corpus, plain),
}


def measured(step: str, path: Path, store: Path) -> dict[str, float]:
    """One step, in this process: records, seconds, CPU seconds, peak resident set in MB."""
    from sotopia_rl_data.importers import read
    from sotopia_rl_data.importers.importing import import_dataset
    from sotopia_rl_data.store import Store

    started, records = time.perf_counter(), 0
    if step == "read":
        for _ in read([path]):
            records += 1
    else:
        report = import_dataset(Store(store), [path], "bench/import")
        records = report.episodes + report.examples
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "records": records,
        "seconds": time.perf_counter() - started,
        "cpu": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss / 1024,
    }


def _in_a_process(step: str, path: Path, store: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--step", step, "--path", str(path), "--store", str(store)]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def main() -> None:
    """Make the files, run the steps, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=256, help="of each file")
    parser.add_argument("--only", default="", help="forms whose name has this text in it")
    parser.add_argument("--import-only", action="store_true", help="leave out reading alone")
    parser.add_argument("--step", choices=["read", "import"], help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(measured(given.step, given.path, given.store)))
        return
    print("| file | MB | records | read: MB/CPU-s | peak MB | import: MB/CPU-s | peak MB |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for form, (name, write, make) in FORMS.items():
        if given.only not in form:
            continue
        with tempfile.TemporaryDirectory() as work:
            path = Path(work) / name
            records = write(path, make, given.megabytes * 2**20)
            size = sum(file.stat().st_size for file in (path, *path.glob("*")) if file.is_file()) / 2**20
            rates = []
            for step in ("import",) if given.import_only else ("read", "import"):
                one = _in_a_process(step, path, Path(work) / "store")
                if one["records"] != records:
                    raise SystemExit(f"{form}: {records} records were written, and {step} gave {one['records']}")
                rates.append(f"{size / one['cpu']:.0f} | {one['peak']:.0f}")
            rates = ["– | –", *rates] if given.import_only else rates
            print(f"| {form} | {size:.0f} | {records:,} | {' | '.join(rates)} |", flush=True)


if __name__ == "__main__":
    main()
