"""Records as databases hand them out: under their key, as text, in a list of one, in a {key, value} object.

A key of the sotopia library ends in the collection and the id, ":sotopia.database.logs.EpisodeLog:01HX…"; it gives a
record its id where it names none, and tells which of a dump's records are episodes.
"""

from __future__ import annotations

import re
from dataclasses import replace

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.literals import json_value
from sotopia_rl_data.importers.record import Record

_KEY = re.compile(r":?(?:[\w.]*\.)?(?P<collection>[A-Za-z]\w*):(?P<id>[^:]+)")


def unwrap(record: Record) -> Record:
    """`record` with the wrapping taken off its value, and its key from the wrapping where there was one."""
    value, key = record.value, record.key
    if isinstance(value, dict) and isinstance(value.get("key"), str) and "value" in value and len(value) <= 8:
        value, key = value["value"], value["key"]
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            value = json_value(value)
        except InputError:
            return record
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    return record if value is record.value else replace(record, value=value, key=key)


def collection(key: str) -> str:
    """The collection in a key ("EpisodeLog"), "" where it names none."""
    found = _KEY.fullmatch(key)
    return found["collection"] if found else ""


def identity(key: str) -> str:
    """The id in a key: what is behind the last colon."""
    return key.rpartition(":")[2]
