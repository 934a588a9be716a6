"""Importers: files of episodes in, `Episode`s out, one record at a time.

One file a format in `formats/`. A file's format is detected by its records' keys, and the version of the library that
wrote it record by record; neither is guessed. What cannot be read is a `Failure`, with its line and its reason, and the
rest is read all the same. Nothing is evaluated or unpickled.

detect.py reading.py stream.py     what the named paths hold; from files to items; the records of one file
record.py literals.py              one record and the typed way to look into it; values that lie as text
library.py messages.py actions.py  what the sotopia library's formats share
scores.py profiles.py              which scores are real; the profiles that a log names by id
run.py batches.py align.py         all of it into the store, in bounded memory; labels onto the turns of a log

    for item in read(["episodes.jsonl"]):
        ...
"""

from __future__ import annotations

from sotopia_rl_data.importers.detect import plan
from sotopia_rl_data.importers.formats.format import Item, TrainingRow
from sotopia_rl_data.importers.reading import read
from sotopia_rl_data.importers.record import Record
from sotopia_rl_data.samples import path as samples_path

__all__ = ["Item", "Record", "TrainingRow", "plan", "read", "samples_path"]
