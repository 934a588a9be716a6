"""Importers: files of episodes in, `Episode`s out, one record at a time.

`formats/` has one file for each format. The format of a file is told by the keys of its records, the version of the
library that wrote it record by record; neither is guessed. A record that cannot be read becomes a `Failure` with its
line and its reason, and the rest is still read. Nothing is evaluated or unpickled.

files.py opened.py      which files the named paths hold, of which format; what packs or recodes them
stream.py documents.py  the records of one file: lines, tables, Arrow; the values inside a JSON document
reading.py record.py    the items of all files; one record and the typed way to look into it
dialogue.py spool.py    who said what as an Episode; rows of a conversation put together, in bounded memory
own_scores.py           scores on dimensions of a source's own, found in its `meta`
pseudonyms.py splits.py speakers' names replaced; what fills an empty split
library.py messages.py  what the sotopia library's formats share; the turns and actions of its logs
scores.py profiles.py   which scores are real; the profiles that a log names by id
importing.py batches.py everything into the store, in bounded memory

    for item in read(["episodes.jsonl"]):
        ...
"""

from __future__ import annotations

from sotopia_rl_data.importers.files import plan
from sotopia_rl_data.importers.formats.format import Item, TrainingRow
from sotopia_rl_data.importers.reading import read
from sotopia_rl_data.importers.record import Record
from sotopia_rl_data.samples import path as samples_path

__all__ = ["Item", "Record", "TrainingRow", "plan", "read", "samples_path"]
