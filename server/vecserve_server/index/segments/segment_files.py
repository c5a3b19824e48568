"""The files of one sealed segment: names, record, checksums.

Owns what a segment's folder holds and the proof that it is undamaged. Must not know graphs.

    RECORD          what the segment is, with the checksums of the others; written last
    graph.usearch   codes and links, int8 [N, D] first
    vectors.f16     float16 [N, D], little-endian
    seqs.i64        int64 [N], little-endian, ascending within each run
    strays.i64      rows that the graph does not find, int64 [S]
    quantiser.npz   how the codes were made
"""

from __future__ import annotations

import dataclasses
import hashlib
import mmap
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vecserve_server.checked_json import read_checked_json, write_checked_json
from vecserve_server.errors import ConfigError, CorruptData, StorageError

RECORD = "RECORD"
GRAPH, VECTORS, SEQS = "graph.usearch", "vectors.f16", "seqs.i64"
STRAYS, QUANTISER = "strays.i64", "quantiser.npz"
FILES = (GRAPH, VECTORS, SEQS, STRAYS, QUANTISER)

_VERSION = 1
_BLOCK_BYTES = 16 << 20
_PIECE_BYTES = 1 << 20
_THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """What one file must look like."""

    size_bytes: int
    crc32s: tuple[int, ...]
    """One for each block of 16 MiB: fast enough for every start, and several threads share them."""
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRecord:
    """What a segment is, as its builder measured it."""

    dim: int
    rows: int
    runs: tuple[int, ...]
    """Lengths of the stretches of rows with ascending seqs."""
    first_seq: int
    last_seq: int
    metric: str
    quantiser: str
    clip_rate: float
    connectivity: int
    expansion: int
    """The least breadth of a search that reached the wanted recall on vectors not yet added."""
    recall: float
    """Recall@10 of such searches after re-ranking, against exact ones."""
    strays: int
    build_seconds: float
    files: dict[str, FileRecord]


def write_record(folder: Path, record: SegmentRecord) -> None:
    """Write the record of the segment in `folder`, durably. Raises StorageError."""
    write_checked_json(
        folder / RECORD, {"version": _VERSION, "segment": dataclasses.asdict(record)}
    )


def read_record(folder: Path) -> SegmentRecord:
    """Read the record of the segment in `folder`.

    Raises CorruptData if it is missing or damaged, ConfigError if a newer vecserve wrote it,
    StorageError.
    """
    content = read_checked_json(folder / RECORD)
    if content["version"] != _VERSION:
        raise ConfigError(
            f"{folder / RECORD}: has version {content['version']}, this vecserve reads {_VERSION}"
        )
    segment = content["segment"]
    files = {
        name: FileRecord(**{**file, "crc32s": tuple(file["crc32s"])})
        for name, file in segment["files"].items()
    }
    return SegmentRecord(**{**segment, "runs": tuple(segment["runs"]), "files": files})


def describe_file(path: Path) -> FileRecord:
    """Make the file durable and take its checksums. Raises OSError."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
        sha256 = hashlib.sha256()
        crc32s = []
        for start in range(0, size, _BLOCK_BYTES):
            crc32 = 0
            for piece in _pieces(file.fileno(), start, min(_BLOCK_BYTES, size - start)):
                sha256.update(piece)
                crc32 = zlib.crc32(piece, crc32)
            crc32s.append(crc32)
    return FileRecord(size_bytes=size, crc32s=tuple(crc32s), sha256=sha256.hexdigest())


def verify_file(path: Path, wanted: FileRecord) -> None:
    """Read the whole file and compare the fast checksums.

    Raises CorruptData if it is missing or differs, StorageError if it cannot be read.
    """
    with _opened(path, wanted) as descriptor:

        def verify(block: int) -> None:
            start = block * _BLOCK_BYTES
            crc32 = 0
            for piece in _pieces(descriptor, start, min(_BLOCK_BYTES, wanted.size_bytes - start)):
                crc32 = zlib.crc32(piece, crc32)
            _check_block(path, block, crc32, wanted)

        _for_each_block(path, wanted, verify)


def read_verified(path: Path, wanted: FileRecord, into: memoryview) -> None:
    """Read the whole file into memory of its size; what is there then has the right checksums.

    Raises CorruptData, StorageError; the memory may then hold anything.
    """
    with _opened(path, wanted) as descriptor:

        def read(block: int) -> None:
            start = block * _BLOCK_BYTES
            stop = min(start + _BLOCK_BYTES, wanted.size_bytes)
            crc32 = 0
            while start < stop:
                piece = into[start : min(start + _PIECE_BYTES, stop)]
                count = os.preadv(descriptor, [piece], start)
                if not count:
                    break
                crc32 = zlib.crc32(piece[:count], crc32)
                start += count
            _check_block(path, block, crc32, wanted)

        _for_each_block(path, wanted, read)


def verify_sha256(path: Path, wanted: FileRecord) -> bool:
    """Tell whether the file on disk is the one that was recorded, to the last bit."""
    sha256 = hashlib.sha256()
    try:
        with _opened(path, wanted) as descriptor:
            for piece in _pieces(descriptor, 0, wanted.size_bytes):
                sha256.update(piece)
    except (StorageError, OSError):
        return False
    return sha256.hexdigest() == wanted.sha256


@contextmanager
def _opened(path: Path, wanted: FileRecord) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        raise CorruptData(f"{path}: is missing") from error
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        size = os.fstat(descriptor).st_size
        if size != wanted.size_bytes:
            raise CorruptData(f"{path}: has {size} bytes, not {wanted.size_bytes}")
        yield descriptor
    finally:
        os.close(descriptor)


def _for_each_block(path: Path, wanted: FileRecord, work: Callable[[int], None]) -> None:
    try:
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="verify") as pool:
            for _ in pool.map(work, range(len(wanted.crc32s))):
                pass
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error


def _check_block(path: Path, block: int, crc32: int, wanted: FileRecord) -> None:
    if crc32 != wanted.crc32s[block]:
        raise CorruptData(f"{path}: block {block} does not match its checksum")


def _pieces(descriptor: int, start: int, size: int) -> Iterator[memoryview]:
    """Yield the bytes of a file, a piece at a time, each in the place of the one before."""
    stop = start + size
    # Pages of its own, gone when it is: the C library would keep a heap of each thread's.
    with mmap.mmap(-1, _PIECE_BYTES) as pages, memoryview(pages) as buffer:
        while start < stop:
            with buffer[: min(_PIECE_BYTES, stop - start)] as piece:
                count = os.preadv(descriptor, [piece], start)
            if not count:
                return
            with buffer[:count] as piece:
                yield piece
            start += count
