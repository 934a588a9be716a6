"""Files that hf_xet left in its folder. Given "local:///DIR" it keeps chunks and shards there, without a CAS server."""

from __future__ import annotations

import hashlib
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from hub_server.state import Hub, Refused

_HEADER, _ENTRY, _BOOKEND = 48, 48, b"\xff" * 32
_VERIFIED, _WITH_SHA256 = 1 << 31, 1 << 30


def materialise(hub: Hub, wanted: set[str]) -> dict[str, str]:
    """The Xet hashes of uploaded files by SHA-256, after their plain bytes were put where others get them by HTTP."""
    found = {sha256: (hash_, size) for sha256, hash_, size in _files(_folder(hub)) if sha256 in wanted}
    missing = {sha256: one for sha256, one in found.items() if not (hub.lfs / sha256).exists()}
    if missing:
        _rebuild(hub, missing)
    return {sha256: hash_ for sha256, (hash_, _) in found.items()}


def _rebuild(hub: Hub, files: dict[str, tuple[str, int]]) -> None:
    import hf_xet

    targets, copy = {sha256: hub.new_file() for sha256 in files}, hub.new_file()
    shutil.copytree(_folder(hub), copy)  # the client may still hold the lock of the folder's database
    session = hf_xet.XetSession()
    soon = int(time.time()) + 600
    with session.new_file_download_group(endpoint=f"local://{copy}", token="xet", token_expiry_unix_secs=soon) as group:
        for sha256, (hash_, size) in files.items():
            group.start_download_file(hf_xet.XetFileInfo(hash_, size), str(targets[sha256]))
    shutil.rmtree(copy)
    for sha256, target in targets.items():
        with target.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise Refused(500, "the Xet folder gave other bytes")
        target.rename(hub.lfs / sha256)


def _folder(hub: Hub) -> Path:
    return Path((hub.cas or "").removeprefix("local://"))


def _files(folder: Path) -> Iterator[tuple[str, str, int]]:
    """(SHA-256, Xet hash, bytes) of every file in the folder's shards (MDB shard format, version 2)."""
    for shard in (folder / "xet/xorbs/shards").glob("*.mdb"):
        data, at = shard.read_bytes(), _HEADER
        while data[at : at + 32] != _BOOKEND:
            hash_, (flags, segments) = data[at : at + 32], struct.unpack_from("<II", data, at + 32)
            size = sum(struct.unpack_from("<I", data, at + _ENTRY * (i + 1) + 36)[0] for i in range(segments))
            at += _ENTRY * (1 + segments + (segments if flags & _VERIFIED else 0))
            if flags & _WITH_SHA256:
                yield _hex(data[at : at + 32]), _hex(hash_), size
                at += _ENTRY


def _hex(data: bytes) -> str:
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", data))
