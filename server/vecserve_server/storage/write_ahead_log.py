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
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vecserve_server.errors import CorruptData, StorageError

_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
_MAGIC = 0x377F0682
"""The last bit says that checksums are of big-endian words."""
_FRAMES_AT_ONCE = 2048

_Words = NDArray[np.uint32]


def check_log(database: Path) -> None:
    """Refuse a log whose damage hides transactions that were durable; it must not be open.

    Raises CorruptData that names the log, StorageError if it cannot be read.
    """
    path = database.with_name(database.name + "-wal")
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES or not any(header):
            return  # nothing was ever written to it
        frame = _hidden_frame(_Frames(path=path, size=path.stat().st_size, header=header))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    if frame is not None:
        raise CorruptData(
            f"{path}: frame {frame} is damaged and transactions follow it, which SQLite would "
            "forget; restore a snapshot, or remove the file to go on without them"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frames:
    """The frames of one log."""

    path: Path
    size: int
    header: bytes

    @property
    def is_sound(self) -> bool:
        """Whether the header is what was written."""
        magic, _, page_bytes, *_ = self._header
        if magic & ~1 != _MAGIC or not 512 <= page_bytes <= 65536:
            return False
        words = np.frombuffer(self.header[:24], self._order)[:, np.newaxis].astype(np.uint32)
        zero = np.zeros(1, np.uint32)
        found = [int(part[0]) for part in _checksums(words, zero, zero)]
        return found == list(self._header[6:])

    def blocks(self) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """Tell of some frames at a time which follow from the one before, and which commit."""
        page_bytes = self._header[2]
        frame_bytes = _FRAME_HEADER_BYTES + page_bytes
        count = (self.size - _HEADER_BYTES) // frame_bytes
        before = np.array([self._header[6:]], np.uint32)
        for start in range(0, count, _FRAMES_AT_ONCE):
            some = min(_FRAMES_AT_ONCE, count - start)
            data = np.fromfile(
                self.path, np.uint8, some * frame_bytes, offset=_HEADER_BYTES + start * frame_bytes
            ).reshape(some, frame_bytes)
            heads = data[:, :_FRAME_HEADER_BYTES].copy().view(">u4").astype(np.uint32)
            seeds = np.concatenate([before, heads[:-1, 4:]])
            covered = np.delete(data, np.s_[8:_FRAME_HEADER_BYTES], axis=1)
            words = np.ascontiguousarray(covered.view(self._order).T).astype(np.uint32)
            first, second = _checksums(words, seeds[:, 0], seeds[:, 1])
            salted = (heads[:, 2:4] == np.array(self._header[4:6], np.uint32)).all(axis=1)
            follows = salted & (heads[:, 4] == first) & (heads[:, 5] == second)
            yield follows, heads[:, 1] != 0
            before = heads[-1:, 4:]

    @property
    def _header(self) -> tuple[int, ...]:
        return struct.unpack(">8I", self.header)

    @property
    def _order(self) -> Literal["<u4", ">u4"]:
        return ">u4" if self._header[0] & 1 else "<u4"


def _hidden_frame(frames: _Frames) -> int | None:
    """Return the number of a damaged frame, 0 is the header, that later transactions follow."""
    if not frames.is_sound:
        return 0
    damaged: int | None = None
    number = 0
    commits_before = False
    for follows, commits in frames.blocks():
        if damaged is None and not follows.all():
            damaged = number + int(np.argmin(follows)) + 1
        if damaged is not None:
            # What follows a commit was written after it was durable.
            after_commit = np.concatenate([[commits_before], commits[:-1]])
            places = np.arange(number + 1, number + len(follows) + 1)
            if (follows & after_commit & (places > damaged)).any():
                return damaged
        number += len(follows)
        commits_before = bool(commits[-1])
    return None


def _checksums(words: _Words, first: _Words, second: _Words) -> tuple[_Words, _Words]:
    """Add up the words [W, N] of N frames, each begun with the checksum of the one before."""
    first, second = first.copy(), second.copy()
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first += even + second
        second += odd + first
    return first, second
