"""One sealed segment, open for searching: graph handles, codes, vectors, and which rows are dead.

Owns the memory that a segment takes and the search inside it. Must not know other segments,
manifests or how segments are made. Rows are numbered by their place in the files.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import numkong
import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

from vecserve_server.domain.vectors import Codes
from vecserve_server.errors import CorruptData, StorageError
from vecserve_server.index.segments.mapped_file import map_file
from vecserve_server.index.segments.segment_files import (
    GRAPH,
    QUANTISER,
    SEQS,
    STRAYS,
    VECTORS,
    SegmentRecord,
    read_record,
    read_verified,
    verify_file,
)
from vecserve_server.index.vectors.quantiser import load_quantiser
from vecserve_server.index.vectors.ranking import are_among, best_positions

Rows = NDArray[np.int64]

NO_ROWS: Rows = np.empty(0, np.int64)
_ALIVE = np.iinfo(np.int64).max
_SCAN_ROWS = 16384
# From so many queries on, packing the codes of a block costs less than it saves.
_PACKING_QUERIES = 3
_GRAPH_HEADER_BYTES = 8


class Segment:
    """Immutable but for deaths, which one thread at a time records.

    A row that died in version V of the index is alive for readers of versions before V.
    """

    def __init__(self, *, folder: Path, record: SegmentRecord, handles: int) -> None:
        # Before the memory that they look at, so that they also go before it.
        self._handles: SimpleQueue[Any] = SimpleQueue()
        self.folder = folder
        self.record = record
        self.rows = record.rows
        self.quantiser = load_quantiser(folder / QUANTISER)
        self.seqs = _read_array(folder / SEQS)
        self._run_starts = np.cumsum([0, *record.runs])
        self._died_in = np.full(self.rows, _ALIVE, np.int64)
        self._memory = _read_graph(folder, record)
        self.codes = _codes(self._memory, record)
        self.strays = _read_array(folder / STRAYS)
        self._vectors = _map_vectors(folder, record)
        for _ in range(handles):
            self._handles.put(_view(self._memory, record))
        self._handle_count = handles
        self._distance: Any = "sqeuclidean" if record.metric == "l2sq" else "angular"
        self._packed_distances = (
            numkong.euclideans_packed if record.metric == "l2sq" else numkong.angulars_packed
        )

    @classmethod
    def open(cls, folder: Path, *, handles: int) -> Segment:
        """Verify every file, then open them; `handles` searches can run at once.

        Raises CorruptData if anything is missing or damaged, ConfigError if a newer vecserve
        wrote it, StorageError.
        """
        record = read_record(folder)
        for name in (QUANTISER, STRAYS, SEQS, VECTORS):
            verify_file(folder / name, record.files[name])
        try:
            return cls(folder=folder, record=record, handles=handles)
        except OSError as error:
            raise StorageError(f"{folder}: cannot be opened: {error.strerror}") from error
        except (ValueError, RuntimeError) as error:
            raise CorruptData(f"{folder}: cannot be opened: {error}") from error

    def find(self, seqs: NDArray[np.int64]) -> Rows:
        """Return the rows of those seqs that the segment holds, dead or alive."""
        found = []
        for start, stop in zip(self._run_starts, self._run_starts[1:], strict=False):
            run = self.seqs[start:stop]
            if len(run):
                places = np.minimum(np.searchsorted(run, seqs), len(run) - 1)
                found.append(start + places[run[places] == seqs])
        return np.concatenate(found) if found else NO_ROWS

    def among(self, allowed: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell of each row whether its seq is among the ascending `allowed`, bool [rows]."""
        runs = zip(self._run_starts, self._run_starts[1:], strict=False)
        return np.concatenate([are_among(self.seqs[start:stop], allowed) for start, stop in runs])

    def bury(self, rows: Rows, version: int) -> int:
        """Let the rows be dead from `version` on; return how many of them lived."""
        living = rows[self._died_in[rows] == _ALIVE]
        self._died_in[living] = version
        return len(living)

    def alive(self, rows: Rows, version: int) -> Rows:
        """Leave out the rows that are dead in `version`."""
        return rows[self._died_in[rows] > version]

    def living(self, version: int) -> NDArray[np.bool_]:
        """Tell of each row whether it is alive in `version`, bool [rows]."""
        return self._died_in > version

    def graph_search(self, codes: Codes, count: int, expansion: int) -> list[Rows]:
        """Ask the graph for the `count` nearest rows of each code, int8 [Q, D]; dead ones too."""
        handle = self._handles.get()
        try:
            if handle.expansion_search != expansion:
                handle.expansion_search = expansion
            found = handle.search(codes, count, threads=1)
        finally:
            self._handles.put(handle)
        keys = np.atleast_2d(found.keys)
        return [
            row[:held].astype(np.int64)
            for row, held in zip(keys, _counts(found, keys), strict=True)
        ]

    def nearest_of(self, rows: Rows, code: Codes, count: int) -> Rows:
        """Return the `count` of `rows` whose codes are nearest to one code, int8 [D]."""
        if len(rows) <= count:
            return rows
        nearest = _Nearest(count)
        for start in range(0, len(rows), _SCAN_ROWS):
            some = rows[start : start + _SCAN_ROWS]
            block = np.take(self.codes, some, axis=0)
            nearest.offer(self._distances(code[np.newaxis], block)[0], some)
        return nearest.rows

    def scan(self, codes: Codes, count: int, mask: NDArray[np.bool_]) -> list[Rows]:
        """Return the `count` nearest rows under `mask` of each code, int8 [Q, D]."""
        nearest = [_Nearest(count) for _ in codes]
        for start in range(0, self.rows, _SCAN_ROWS):
            stop = min(start + _SCAN_ROWS, self.rows)
            inside = np.flatnonzero(mask[start:stop])
            if not len(inside):
                continue
            distances = self._distances(codes, self.codes[start:stop])
            for of_query, best in zip(distances, nearest, strict=True):
                best.offer(of_query[inside], inside + start)
        return [best.rows for best in nearest]

    def vectors(self, rows: Rows) -> NDArray[np.float16]:
        """Read the vectors of rows, float16 [N, D]."""
        return np.take(self._vectors, rows, axis=0)

    @property
    def memory_bytes(self) -> int:
        """Memory held; the vectors are on disk."""
        arrays = (self.seqs, self._died_in, self.strays)
        offsets = 8 * self.rows * self._handle_count
        return len(self._memory) + sum(array.nbytes for array in arrays) + offsets

    def self_finders(self, rows: Rows, expansion: int) -> Iterator[tuple[Rows, NDArray[np.bool_]]]:
        """For blocks of the rows, tell which of them a search for their own code leads to."""
        for start in range(0, len(rows), 256):
            some = rows[start : start + 256]
            handle = self._handles.get()
            try:
                handle.expansion_search = expansion
                found = find_themselves(handle, some, np.take(self.codes, some, axis=0))
            finally:
                self._handles.put(handle)
            yield some, found | np.isin(some, self.strays)

    def _distances(self, codes: Codes, block: Codes) -> NDArray[np.float32]:
        if len(codes) >= _PACKING_QUERIES:
            packed = numkong.dots_pack(block)
            return np.asarray(self._packed_distances(codes, packed))
        return np.asarray(numkong.cdist(codes, block, self._distance, out_dtype="float32"))


def find_themselves(graph: Index, rows: Rows, codes: Codes, count: int = 10) -> NDArray[np.bool_]:
    """Tell which rows a search for their own code leads to, bool [N].

    A row whose search fills up with codes as near as its own counts: one of them is as good.
    """
    found = graph.search(codes, count, threads=1)
    keys, distances = np.atleast_2d(found.keys), np.atleast_2d(found.distances)
    counts = _counts(found, keys)[:, np.newaxis]
    held = np.arange(keys.shape[1]) < counts
    itself = (held & (keys == rows[:, np.newaxis].astype(keys.dtype))).any(axis=1)
    crowded = (counts[:, 0] == count) & (distances[:, -1] <= 1e-6)
    return cast("NDArray[np.bool_]", itself | crowded)


def _counts(found: Any, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Tell how many keys of each row are answers; in a batch, the others are any memory."""
    return np.asarray(getattr(found, "counts", [keys.shape[1]]), np.int64)


class _Nearest:
    """The least distances offered so far."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._distances = np.empty(0, np.float32)
        self.rows = NO_ROWS

    def offer(self, distances: NDArray[np.float32], rows: Rows) -> None:
        least = best_positions(-distances, self._count)
        distances = np.concatenate([self._distances, distances[least]])
        rows = np.concatenate([self.rows, rows[least]])
        order = np.lexsort((rows, distances))[: self._count]
        self._distances, self.rows = distances[order], rows[order]


def _read_graph(folder: Path, record: SegmentRecord) -> mmap.mmap:
    # A copy of its own, not a mapping of the file: what was verified is what is searched, whatever
    # happens to the file, and large pages make the search's random reads cheaper.
    wanted = record.files[GRAPH]
    memory = mmap.mmap(-1, max(wanted.size_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Not every kernel has them.
    with suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    with memoryview(memory) as view:
        read_verified(folder / GRAPH, wanted, view[: wanted.size_bytes])
    return memory


def _codes(memory: mmap.mmap, record: SegmentRecord) -> Codes:
    rows, dim = np.frombuffer(memory, np.uint32, 2).tolist()
    if (rows, dim) != (record.rows, record.dim):
        raise CorruptData(f"{GRAPH}: holds {rows} codes of {dim} components")
    flat = np.frombuffer(memory, np.int8, rows * dim, offset=_GRAPH_HEADER_BYTES)
    return flat.reshape(rows, dim)


def _view(memory: mmap.mmap, record: SegmentRecord) -> Any:
    handle = Index(
        ndim=record.dim,
        dtype="i8",
        metric=record.metric,
        connectivity=record.connectivity,
        enable_key_lookups=False,
    )
    handle.view(memoryview(memory))
    if len(handle) != record.rows or handle.ndim != record.dim:
        raise CorruptData(f"{GRAPH}: holds {len(handle)} rows of {handle.ndim} components")
    return handle


def _read_array(path: Path) -> NDArray[np.int64]:
    return np.frombuffer(path.read_bytes(), "<i8")


def _map_vectors(folder: Path, record: SegmentRecord) -> NDArray[np.float16]:
    mapped = map_file(folder / VECTORS)
    vectors: NDArray[np.float16] = np.frombuffer(mapped, "<f2").reshape(record.rows, record.dim)
    # As the file is: writing would end the process.
    vectors.flags.writeable = False
    return vectors
