"""A file as UTF-8 bytes, whatever it lies in: gzip, zstd, bzip2 and xz are unpacked, UTF-16 and UTF-32 are put into
UTF-8, a byte-order mark is taken off. All of it is told by the first bytes, never by the name. What is read from the
disk is counted and hashed.
"""

from __future__ import annotations

import bz2
import codecs
import errno
import gzip
import hashlib
import io
import lzma
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sotopia_rl_data.errors import InputError

BUFFER = 1 << 20
MOST_TIMES = 1_000
"""A file unpacks to no more times its size: text packs to a fifth, and logs that repeat themselves to a hundredth."""
_FEW_BYTES = 1 << 20  # that a file may unpack to whatever its size; tiny lines cost seconds a megabyte
_GZIP, _ZSTD, _XZ, _BZIP2 = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00", re.compile(rb"BZh[1-9]1AY&SY")
_CACHED = re.compile("/blobs/(?:[0-9a-f]{2}/)?(?:[0-9a-f]{40}|[0-9a-f]{64})$")  # a file of the Hub's cache, by its hash
_BOM = codecs.BOM_UTF8
_MARKS = {  # that of UTF-32-LE begins with that of UTF-16-LE
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_OTHERS = {
    b"PK\x03\x04": "a ZIP archive (as .xlsx and .docx are)",
    b"%PDF": "a PDF",
    b"SQLite format 3": "an SQLite database",
    b"\x80\x04\x95": "a pickle, which is never opened",
    b"\x80\x05\x95": "a pickle, which is never opened",
    b"\x89HDF": "an HDF5 file",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
    b"<?xml": "XML",
}
"""What people have that is not a file of records, by its first bytes."""


class Metered(io.RawIOBase):
    """A file that counts and hashes the bytes read from it. `tick` is called with the number of each read."""

    def __init__(self, path: Path, tick: Callable[[int], None] | None = None) -> None:
        self._file = path.open("rb", buffering=0)
        self._tick = tick
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer) or 0
        self.sha256.update(memoryview(buffer)[:count])
        if self._tick is not None:
            self._tick(count)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()

    def whole(self) -> None:
        """Read the file to its end, for the count and the hash alone."""
        while self.read(BUFFER):
            pass

    def buffered(self) -> io.BufferedReader[Any]:
        """The file's text as UTF-8 bytes, in blocks of a megabyte. Where what packs it is damaged, or unpacks without
        end, reading raises InputError."""
        stream: io.BufferedReader[Any] = io.BufferedReader(self, BUFFER)
        head, most = stream.peek(10), max(_FEW_BYTES, MOST_TIMES * os.fstat(self._file.fileno()).st_size)
        if head.startswith(_GZIP):
            stream = io.BufferedReader(_Unpacked(gzip.GzipFile(fileobj=stream), "gzip", most), BUFFER)
        elif head.startswith(_ZSTD):
            import pyarrow as pa

            unpacked = pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd")
            stream = io.BufferedReader(_Unpacked(unpacked, "zstd", most), BUFFER)
        elif _BZIP2.match(head):
            stream = io.BufferedReader(_Unpacked(bz2.BZ2File(stream), "bzip2", most), BUFFER)
        elif head.startswith(_XZ):
            stream = io.BufferedReader(_Unpacked(lzma.LZMAFile(stream), "xz", most), BUFFER)  # noqa: SIM115 – closed with the stream
        _refuse_others(stream.peek(512))
        coding = _coding(stream.peek(4)[:256])
        if coding:
            return io.BufferedReader(_Recoded(stream, coding), BUFFER)
        if stream.peek(3)[:3] == _BOM:
            stream.read(3)
        return stream


def lies_in(folder: Path, path: Path) -> bool:
    """Whether `path` is a regular file of `folder`. A link counts as what it leads to, since who sends a folder chooses
    where its links lead; one into the Hub's cache is the file itself, as the cache and `pull` lay files out."""
    if not path.is_file():
        return False
    file = Path(os.path.realpath(path))
    return bool(_CACHED.search(file.as_posix())) or file.is_relative_to(os.path.realpath(folder))


def read_beside(folder: Path, path: Path, most: int) -> bytes:
    """The bytes of a file of `folder`, at most `most`: a pipe, a device or an endless file would never end. Raises
    OSError."""
    if not lies_in(folder, path):
        raise OSError(errno.ENOENT, "it is not a regular file of its folder", str(path))
    with path.open("rb") as file:
        read = file.read(most + 1)
    if len(read) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
    return read


def _refuse_others(head: bytes) -> None:
    """Raises InputError for what is not a file of records."""
    other = next((name for first, name in _OTHERS.items() if head.startswith(first)), None)
    if head[257:262] == b"ustar":
        other = "a tar archive"
    if other is not None:
        raise InputError(f"it is {other}: save what is in it as JSON Lines, CSV or Parquet.")


def _coding(head: bytes) -> str:
    """The UTF-16 or UTF-32 that a text of these first bytes is in, by its mark, or UTF-16 by where its zero bytes lie;
    "" for others."""
    for mark, coding in _MARKS.items():
        if head.startswith(mark):
            return coding
    even, odd = head[0::2], head[1::2]
    if len(head) >= 4 and len(head) % 2 == 0:
        if odd.count(0) == len(odd) and 0 not in even:
            return "utf-16-le"
        if even.count(0) == len(even) and 0 not in odd:
            return "utf-16-be"
    return ""


class _Unpacked(io.RawIOBase):
    """What a packed file holds. `packed` has `read`; damage to it is an InputError that names the packing, and so is
    what comes after the first `most` bytes."""

    def __init__(self, packed: Any, name: str, most: int) -> None:
        self._packed, self._name, self._left = packed, name, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._packed.read(len(buffer))
        except (EOFError, zlib.error, lzma.LZMAError, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's own error
            raise InputError(f"its {self._name} packing is damaged from here on.") from error
        self._left -= len(data)
        if self._left < 0:
            raise InputError(f"its {self._name} packing unpacks to more than {MOST_TIMES:,} times its size.")
        buffer[: len(data)] = data
        return len(data)


class _Recoded(io.RawIOBase):
    """A UTF-16 or UTF-32 text as UTF-8. Half of a surrogate pair stays what it is, and is then not UTF-8."""

    def __init__(self, stream: io.BufferedReader[Any], coding: str) -> None:
        self._stream, self._rest, self._coding = stream, b"", coding
        self._decoder = codecs.getincrementaldecoder(coding)("surrogatepass")
        self._first = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            data = self._stream.read(BUFFER)
            try:
                text = self._decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise InputError(
                    f"its {self._coding[:6].upper()} text holds an invalid character, or ends in the middle of one."
                ) from error
            if self._first:
                self._first, text = False, text.removeprefix("\ufeff")
            self._rest = text.encode("utf-8", "surrogatepass")
            if not data:
                break
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count
