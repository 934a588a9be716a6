"""A file of which no record can be read: one sentence, a hint, a code that is not 0, and nothing in the store."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from fixtures.formats import CHAT, COMPLETION, CORPUS_ROWS, PREFERENCE, ROWS, SIMULATION
from fixtures.places import ROOT
from fixtures.records import PLAIN

BAD = {
    "chat": CHAT | {"messages": [{"role": "user"}]},
    "utterances": ROWS[0] | {"turn": "first"},
    "convokit": CORPUS_ROWS[0] | {"text": 7},
    "simulation": SIMULATION | {"messages": 7},
    "completion": COMPLETION | {"reward": "good"},
    "preference": PREFERENCE | {"chosen": []},
    "training": {"input": "x", "output": None},
    "plain": PLAIN | {"turns": [{"agent": "nobody"}]},
    "no format": {"who": "Mia", "said": "Hello"},
}


EACH = """
import sys
from sotopia_rl_data.cli.program import main
for line in sys.stdin:
    try:
        main(line.strip().split("|"))
    except SystemExit as end:
        print(end.code, file=sys.stderr)
    print("--", file=sys.stderr)
"""


@pytest.mark.slow
def test_a_bad_file_of_each_format_is_one_sentence_and_a_hint_and_leaves_nothing(tmp_path):
    told = ""
    for i, record in enumerate(BAD.values()):
        (tmp_path / f"{i}.jsonl").write_text(json.dumps(record) + "\n")
        told += "|".join(["import", str(tmp_path / f"{i}.jsonl"), "--name", "lab/bad", "--store", str(tmp_path / "s")])
        told += "\n"
    done = subprocess.run(
        [sys.executable, "-c", EACH],
        input=told, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    answers = [answer.strip().splitlines() for answer in done.stderr.split("--\n")[:-1]]
    assert len(answers) == len(BAD)
    for form, answer in zip(BAD, answers, strict=True):
        text = "\n".join(answer)
        assert "error: " in text, form
        assert "hint: " in text, form
        assert "Traceback" not in text, form
        assert answer[-1] == "1", form
    assert not list((tmp_path / "s").glob("lab/*"))


@pytest.mark.parametrize("hinted", [["import", "--help"]])
def test_what_the_hint_names_works(hinted):
    done = subprocess.run([sys.executable, "cli.py", *hinted], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--map" in done.stdout
