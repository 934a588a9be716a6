"""Importers: files of episodes in, `Episode`s out, one record at a time.

One module a format: `library.py` (EpisodeLog and the sotopia library's exports), `annotated.py` (sotopia-rl's annotated
JSONL), `examples.py` (training rows), `plain.py` (our own). A file's format is told by its records' keys, a dialect
record by record; neither is guessed. What cannot be read is a `Failure`, with its line and its reason, and the rest is
read all the same. Nothing is evaluated or unpickled. `run.py` puts it all into the store.

    for item in read(["episodes.jsonl"]):
        ...
"""

from __future__ import annotations

from sotopia_rl_data.importers.examples import Example
from sotopia_rl_data.importers.reading import Item, read
from sotopia_rl_data.importers.record import Record
from sotopia_rl_data.importers.sources import plan
from sotopia_rl_data.samples import path as samples_path

__all__ = ["Example", "Item", "Record", "plan", "read", "samples_path"]
