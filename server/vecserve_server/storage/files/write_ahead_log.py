"""Whether SQLite's write-ahead log lost transactions that were acknowledged.

Owns the file's format, as far as that takes. SQLite itself reads the log up to the first frame
whose checksum is wrong, and forgets the rest without a word: it cannot tell a damaged frame from
the torn end that a power cut leaves. But each commit is synced before the next begins, so damage
that another transaction follows is no torn end. Must not know tables.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecserve_server.atomic_files import io_errors
from vecserve_server.errors import CorruptData

_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
_MAGIC = 0x377F0682
"""The last bit says that checksums are of big-endian words."""
_FRAMES_AT_ONCE = 2048

_Words: TypeAlias = NDArray[np.uint32]
_Flags: TypeAlias = NDArray[np.bool_]


def check_log(database: Path) -> None:
    """Refuse a log whose damage hides transactions that were durable; it must not be open.

    Raises CorruptData that names the log, StorageError if it cannot be read.
    """
    path = database.with_name(database.name + "-wal")
    if not path.exists():
        return
    with io_errors(path, "cannot be read"), path.open("rb") as file:
        frame = _hidden_frame(file)
    if frame is not None:
        raise CorruptData(
            f"{path}: frame {frame} is damaged and transactions follow it, which SQLite would "
            "forget; restore a snapshot, or remove the file to go on without them"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """What the frames of a log have in common."""

    order: Literal["<u4", ">u4"]
    """Of the words that checksums are of."""
    page_bytes: int
    salt: _Words
    checksum: _Words
    """With which that of the first frame begins."""

    @classmethod
    def read(cls, data: bytes) -> _Header | None:
        """Take the header apart; None if it is damaged."""
        magic, _, page_bytes, _, *salt_and_checksum = struct.unpack(">8I", data)
        if magic & ~1 != _MAGIC:
            return None
        header = cls(
            order=">u4" if magic & 1 else "<u4",
            page_bytes=page_bytes,
            salt=np.array(salt_and_checksum[:2], np.uint32),
            checksum=np.array(salt_and_checksum[2:], np.uint32),
        )
        covered = np.frombuffer(data[:24], np.uint8)[np.newaxis]
        sums = _checksums(covered, np.zeros((1, 2), np.uint32), header.order)
        return header if (sums == header.checksum).all() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frames:
    """Some frames that lie one after the other."""

    commits: _Flags
    """Which of them end a transaction."""
    follows: _Flags
    """Which of them continue the frame before as it says that it is."""
    follows_content: _Flags
    """Which of them continue what the frame before holds, whatever its checksum."""


def _hidden_frame(file: BinaryIO) -> int | None:
    """Return the number of a damaged frame, 0 is the header, that later transactions follow."""
    head = file.read(_HEADER_BYTES)
    first = file.read(1)
    if not first:
        return None  # no frame was ever written
    file.seek(_HEADER_BYTES)
    header = _Header.read(head)
    if header is None:
        return 0
    damaged: int | None = None
    start, after_commit = 1, False
    for frames in _frames(file, header):
        if damaged is None and not frames.follows.all():
            damaged = start + int(np.argmin(frames.follows))
        if damaged is not None:
            # What follows a commit was written after it was durable.
            is_later = np.append(after_commit, frames.commits[:-1])
            is_later &= frames.follows | frames.follows_content
            if is_later[max(0, damaged + 1 - start) :].any():
                return damaged
        start += len(frames.commits)
        after_commit = bool(frames.commits[-1])
    return None


def _frames(file: BinaryIO, header: _Header) -> Iterator[_Frames]:
    frame_bytes = _FRAME_HEADER_BYTES + header.page_bytes
    stored_before = computed_before = header.checksum[np.newaxis]
    while len(read := file.read(_FRAMES_AT_ONCE * frame_bytes)) >= frame_bytes:
        count = len(read) // frame_bytes
        data = np.frombuffer(read, np.uint8, count * frame_bytes).reshape(count, frame_bytes)
        heads = data[:, :_FRAME_HEADER_BYTES].copy().view(">u4").astype(np.uint32)
        covered = np.delete(data, np.s_[8:_FRAME_HEADER_BYTES], axis=1)
        salted, stored = (heads[:, 2:4] == header.salt).all(axis=1), heads[:, 4:]
        computed = _checksums(covered, np.vstack([stored_before, stored[:-1]]), header.order)
        follows = follows_content = salted & (computed == stored).all(axis=1)
        if not follows.all():
            seeds = np.vstack([computed_before, computed[:-1]])
            sums = _checksums(covered, seeds, header.order)
            follows_content = salted & (sums == stored).all(axis=1)
        yield _Frames(commits=heads[:, 1] != 0, follows=follows, follows_content=follows_content)
        stored_before, computed_before = stored[-1:], computed[-1:]


def _checksums(covered: NDArray[np.uint8], seeds: _Words, order: Literal["<u4", ">u4"]) -> _Words:
    """Add up the bytes of N pieces [N, B], each begun with its seed [N, 2]; uint32 [N, 2]."""
    words = np.ascontiguousarray(covered.view(order).T).astype(np.uint32)
    first, second = seeds.T.copy()
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first += even + second
        second += odd + first
    return np.stack([first, second], axis=1)
