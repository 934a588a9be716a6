"""ConvoKit corpora: `utterances.jsonl`, and beside it what is known of the corpus, its speakers and conversations.

    {"id": "u0", "conversation_id": "c0", "speaker": "A", "text": …, "reply-to": null, "timestamp": 0, "meta": {…}}

`speakers.json` and `conversations.json` (and `users.json` of older corpora) hold an object with `meta` for each id;
`corpus.json` has the corpus's name, which becomes the episodes' tag. `index.json` lists types and is not needed. The
`meta` of conversations, speakers and utterances is kept as that of episodes, agents and turns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.dialogue import Setting, Speaker, Utterance, dialogue, named
from sotopia_rl_data.importers.documents import json_document
from sotopia_rl_data.importers.formats.format import Format, Located
from sotopia_rl_data.importers.formats.utterances import UtteranceRow, episode_or_failures, in_order
from sotopia_rl_data.importers.opened import Metered, lies_in, read_beside
from sotopia_rl_data.importers.record import MAX_RECORD, Record, identifier, json_value, mapping, text
from sotopia_rl_data.importers.spool import Spool
from sotopia_rl_data.schema import Episode

UTTERANCES = "utterances.jsonl"
COMPANIONS = ("speakers.json", "users.json", "conversations.json", "corpus.json", "index.json")
_CONVERSATIONS, _SPEAKERS, _REPLIES = ("conversation_id", "root"), ("speaker", "user"), ("reply-to", "reply_to")


def read_corpus_row(record: Record) -> UtteranceRow:
    """A line of `utterances.jsonl`. Raises InputError."""
    row = mapping(record.value, "the record")
    conversation, speaker = (named(row, keys) or keys[0] for keys in (_CONVERSATIONS, _SPEAKERS))
    who = row.get(speaker)
    if isinstance(who, Mapping):  # older corpora hold the whole speaker
        who = who.get("id", who.get("name"))
    meta = mapping(row["meta"], "`meta`") if row.get("meta") is not None else {}
    time = row.get("timestamp")
    return UtteranceRow(
        record.source,
        identifier(row, conversation),
        Utterance(
            identifier({speaker: who}, speaker),
            text(row, "text"),
            meta={**meta, **{key: row[key] for key in ("id", "timestamp", *_REPLIES) if row.get(key) is not None}},
        ),
        time if isinstance(time, (int, float, str)) else None,
        {},
    )


class _Corpus:
    """The reader of one corpus: the utterances wait until the file has ended."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._spool = folder, Spool()

    def add(self, record: Record) -> Located:
        try:
            row = read_corpus_row(record)
        except InputError as error:
            yield record.failure(error.message), record
        else:
            self._spool.add(row.conversation, row.packed())

    def rest(self) -> Located:
        speakers, conversations = (
            _Metas(self._folder, "speakers.json", "users.json"),
            _Metas(self._folder, "conversations.json"),
        )
        for record, wrong in (*speakers.wrong, *conversations.wrong):
            yield record.failure(wrong), record
        tag = _corpus_name(self._folder)
        try:
            for conversation, packed in self._spool.groups():
                rows = [UtteranceRow.unpacked(conversation, row) for row in packed]
                scene = Setting(conversation, "convokit", tag=tag, meta=conversations.of(conversation))
                people = {u.speaker: Speaker(meta=speakers.of(u.speaker)) for u in (row.utterance for row in rows)}
                yield from episode_or_failures(rows, partial(_episode, scene, people))
        finally:
            self._spool.close()


def _episode(scene: Setting, people: Mapping[str, Speaker], rows: Sequence[UtteranceRow]) -> Episode:
    return dialogue(scene, [row.utterance for row in in_order(rows)], people)


FORMAT = Format(
    "convokit",
    keys=(frozenset(_CONVERSATIONS), frozenset(_SPEAKERS), frozenset({"text"}), frozenset(_REPLIES)),
    reader=lambda beside: _Corpus(beside.folder),
)


class _Metas:
    """The `meta` by id of the first of these companions that is there, kept as text: a corpus may have a million."""

    def __init__(self, folder: Path, *names: str) -> None:
        self._texts: dict[str, str] = {}
        self.wrong: list[tuple[Record, str]] = []
        path = next((folder / name for name in names if lies_in(folder, folder / name)), None)
        if path is None:
            return
        try:
            with Metered(path).buffered() as stream:
                for record, wrong in json_document(stream, path.name, 1):
                    self._add(record, wrong)
        except InputError as error:  # what it is packed in is damaged, or it is not text
            self.wrong.append((Record(None, f"{path.name}:1", b""), error.message))

    def _add(self, record: Record, wrong: InputError | None) -> None:
        value = record.value
        if wrong is not None or not isinstance(value, Mapping):
            self.wrong.append((record, wrong.message if wrong else "the record is not an object."))
            return
        meta = value.get("meta", {key: one for key, one in value.items() if key != "vectors"})
        if meta:
            self._texts[record.key] = json.dumps(meta, ensure_ascii=False)

    def of(self, key: str) -> Mapping[str, Any]:
        meta = json.loads(self._texts.get(key, "{}"))
        return meta if isinstance(meta, dict) else {"meta": meta}


def _corpus_name(folder: Path) -> str:
    """The name in `corpus.json`; "" where there is none that can be read."""
    try:
        value = json_value(read_beside(folder, folder / "corpus.json", MAX_RECORD))
    except (OSError, InputError):
        return ""
    name = value.get("name") if isinstance(value, dict) else None
    return name if isinstance(name, str) else ""
