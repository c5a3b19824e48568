"""The process that builds one segment: `python -m vecserve_server.index.building.builder FOLDER`.

Owns the order of the work and the proof that the result is good. It reads the folder's JOB and
writes the segment's files beside it, RECORD last; it must not touch anything else. Graphs are
built by one thread: several leave more rows that no search leads to, and rows lie in order.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

from vecserve_server.atomic_files import fsync_folder
from vecserve_server.domain.vectors import Codes, Vectors
from vecserve_server.errors import CorruptData, StorageError, VecserveError
from vecserve_server.index.building.build_job import BuildJob, read_job
from vecserve_server.index.building.source_rows import SourceRows
from vecserve_server.index.segments.segment import NO_ROWS, Rows, find_themselves
from vecserve_server.index.segments.segment_files import (
    FILES,
    GRAPH,
    QUANTISER,
    SEQS,
    STRAYS,
    VECTORS,
    SegmentRecord,
    describe_file,
    read_record,
    verify_file,
    write_record,
)
from vecserve_server.index.vectors.planning import TUNED_COUNT
from vecserve_server.index.vectors.quantiser import (
    MaxAbsQuantiser,
    Quantiser,
    RotatedQuantiser,
    load_quantiser,
    save_quantiser,
)
from vecserve_server.index.vectors.ranking import rank

EXPANSIONS = (32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512)

_BLOCK_ROWS = 4096
_QUERIES = 512
_SAMPLE_ROWS = 50_000
_NEIGHBOURS = 10
_QUICK_EXPANSION = 24
# A 95 % bound, so that luck with the sample does not pass for recall.
_DEVIATIONS = 1.64
_MOST_CLIPPED = 1e-3
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Build the segment that the folder's job describes; 0 if it is ready to be published."""
    folder, parent = Path(arguments[0]), int(arguments[1])
    try:
        job = read_job(folder)
        _be_modest(job, parent)
        build(folder, job)
    except (VecserveError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def build(folder: Path, job: BuildJob) -> SegmentRecord:
    """Build, verify and describe a segment in `folder`. Raises CorruptData, StorageError."""
    began_s = time.monotonic()
    base = _Base.read(job)
    sources = job.sources[1:] if base else job.sources
    rows = SourceRows.open(sources, dim=job.dim, held_out=_QUERIES, seed=job.seed)
    if base and not base.suits(rows):
        return build(folder, replace(job, base=""))
    rows.write(folder, base.folder if base else None)
    seqs = np.frombuffer((folder / SEQS).read_bytes(), "<i8")
    vectors = np.memmap(folder / VECTORS, "<f2", "r").reshape(-1, job.dim)
    quantiser = base.quantiser if base else _fit(vectors, job)
    clip_rate = _clip_rate(quantiser, _sample(vectors, job.seed))
    graph = _graph(job, quantiser, base)
    # The last rows are the questions that tune the search, before the graph knows them.
    known = len(vectors) - rows.held_out
    _add(graph, quantiser, vectors, len(graph), known)
    expansion, recall = _tune(graph, quantiser, vectors, known, job)
    if base and rows.held_out < _QUERIES:
        # Too few questions to tell that a narrower search would do.
        expansion = max(expansion, base.record.expansion)
        recall = min(recall, base.record.recall)
    _add(graph, quantiser, vectors, known, len(vectors))
    strays = _strays(graph, quantiser, vectors, expansion)
    if len(strays) > job.most_strays * len(vectors):
        raise StorageError(f"the graph does not lead to {len(strays)} of {len(vectors)} rows")
    (folder / STRAYS).write_bytes(strays.astype("<i8").tobytes())
    save_quantiser(folder / QUANTISER, quantiser)
    _save(graph, folder / GRAPH, quantiser, vectors)
    record = SegmentRecord(
        dim=job.dim,
        rows=len(vectors),
        runs=((*base.record.runs,) if base else ()) + rows.runs,
        first_seq=int(seqs.min()),
        last_seq=int(seqs.max()),
        metric=quantiser.metric,
        quantiser=quantiser.name,
        clip_rate=clip_rate,
        connectivity=job.connectivity,
        expansion=expansion,
        recall=recall,
        strays=len(strays),
        build_seconds=time.monotonic() - began_s,
        files={name: describe_file(folder / name) for name in FILES},
    )
    write_record(folder, record)
    fsync_folder(folder)
    return record


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """The segment that is extended."""

    folder: Path
    record: SegmentRecord
    quantiser: Quantiser

    @classmethod
    def read(cls, job: BuildJob) -> _Base | None:
        if not job.base:
            return None
        folder = Path(job.base)
        record = read_record(folder)
        for name in FILES:
            verify_file(folder / name, record.files[name])
        return cls(folder=folder, record=record, quantiser=load_quantiser(folder / QUANTISER))

    def suits(self, rows: SourceRows) -> bool:
        """Tell whether the base's codes can hold the new rows."""
        return _clip_rate(self.quantiser, rows.some(_SAMPLE_ROWS)) <= _MOST_CLIPPED


def _be_modest(job: BuildJob, parent: int) -> None:
    """Yield to the server in every way, and never outlive it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise StorageError("the server is gone")
    os.nice(job.niceness)
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    if job.memory_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (job.memory_bytes, job.memory_bytes))


def _fit(vectors: NDArray[np.float16], job: BuildJob) -> Quantiser:
    if len(vectors) < job.rotated_rows:
        return MaxAbsQuantiser()
    return RotatedQuantiser.fit(_sample(vectors, job.seed), seed=job.seed)


def _clip_rate(quantiser: Quantiser, sample: Vectors) -> float:
    return 0.0 if isinstance(quantiser, MaxAbsQuantiser) else quantiser.clip_rate(sample)


def _sample(vectors: NDArray[np.float16], seed: int) -> Vectors:
    count = min(len(vectors), _SAMPLE_ROWS)
    chosen = np.random.default_rng(seed).choice(len(vectors), count, replace=False)
    return vectors[np.sort(chosen)].astype(np.float32)


def _graph(job: BuildJob, quantiser: Quantiser, base: _Base | None) -> Any:
    graph = Index(
        ndim=job.dim,
        dtype="i8",
        metric=quantiser.metric,
        connectivity=job.connectivity,
        expansion_add=job.expansion_add,
    )
    if base:
        graph.load(base.folder / GRAPH)
    return graph


def _add(
    graph: Any,
    quantiser: Quantiser,
    vectors: NDArray[np.float16],
    start: int,
    stop: int,
) -> None:
    for rows, codes in _codes(quantiser, vectors, start, stop):
        graph.add(rows, codes, threads=1)


def _codes(
    quantiser: Quantiser,
    vectors: NDArray[np.float16],
    start: int,
    stop: int,
) -> Iterator[tuple[Rows, Codes]]:
    for first in range(start, stop, _BLOCK_ROWS):
        rows = np.arange(first, min(first + _BLOCK_ROWS, stop))
        yield rows, quantiser.encode(vectors[rows].astype(np.float32))


def _tune(
    graph: Any,
    quantiser: Quantiser,
    vectors: NDArray[np.float16],
    known: int,
    job: BuildJob,
) -> tuple[int, float]:
    """Find the least breadth that reaches the wanted recall on rows that the graph lacks."""
    queries = vectors[known:].astype(np.float32)
    if not known or not len(queries):
        return EXPANSIONS[0], 1.0
    truth = _exact(queries, vectors[:known])
    codes = quantiser.encode(queries)
    recall = 0.0
    for expansion in EXPANSIONS:
        graph.expansion_search = expansion
        recalls = _recalls(graph, queries, codes, truth, vectors)
        recall = float(recalls.mean())
        if recall - _DEVIATIONS * recalls.std() / len(recalls) ** 0.5 >= job.target_recall:
            return expansion, recall
    if recall < job.least_recall:
        raise StorageError(f"the graph reaches a recall of {recall:.3f} only")
    return EXPANSIONS[-1], recall


def _recalls(
    graph: Any,
    queries: Vectors,
    codes: Codes,
    truth: Sequence[Rows],
    vectors: NDArray[np.float16],
) -> NDArray[np.float64]:
    """Tell which part of the true neighbours each query finds, float64 [Q]."""
    recalls = []
    for query, code, true in zip(queries, codes, truth, strict=True):
        rows = graph.search(code, TUNED_COUNT, threads=1).keys.astype(np.int64)
        nearest = rank(query, rows, vectors[rows], _NEIGHBOURS).seqs
        recalls.append(len(np.intersect1d(nearest, true)) / len(true))
    return np.array(recalls)


def _exact(queries: Vectors, vectors: NDArray[np.float16]) -> list[Rows]:
    """Return the nearest rows of each query by cosine."""
    scores = np.full((len(queries), 0), -np.inf, np.float32)
    rows = np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = vectors[start : start + _BLOCK_ROWS].astype(np.float32)
        norms = np.sqrt(np.maximum(np.einsum("nd,nd->n", block, block), 1e-30))
        scores = np.hstack([scores, queries @ block.T / norms])
        places = np.arange(start, start + len(block))
        rows = np.hstack([rows, np.broadcast_to(places, (len(queries), len(block)))])
        if scores.shape[1] > _NEIGHBOURS:
            best = np.argpartition(-scores, _NEIGHBOURS - 1, axis=1)[:, :_NEIGHBOURS]
            scores = np.take_along_axis(scores, best, axis=1)
            rows = np.take_along_axis(rows, best, axis=1)
    return list(rows)


def _strays(
    graph: Any,
    quantiser: Quantiser,
    vectors: NDArray[np.float16],
    expansion: int,
) -> Rows:
    """List the rows that a search for themselves does not lead to."""
    strays = [NO_ROWS]
    for rows, codes in _codes(quantiser, vectors, 0, len(vectors)):
        # A broader search visits all that a narrower one does.
        graph.expansion_search = _QUICK_EXPANSION
        lost = ~find_themselves(graph, rows, codes)
        if lost.any():
            graph.expansion_search = expansion
            still = ~find_themselves(graph, rows[lost], codes[lost])
            strays.append(rows[lost][still])
    return np.concatenate(strays)


def _save(
    graph: Any,
    path: Path,
    quantiser: Quantiser,
    vectors: NDArray[np.float16],
) -> None:
    """Write the graph and look whether the file holds what it must."""
    graph.save(path)
    # A full disk shows only here: USearch does not look at what fclose returns.
    if path.stat().st_size != graph.serialized_length:
        raise StorageError(f"{path}: was written short")
    stored = np.memmap(path, np.int8, "r", offset=8, shape=vectors.shape)
    for rows, codes in _codes(quantiser, vectors, 0, len(vectors)):
        # Blocks of other lengths may round a component the other way.
        off = np.abs(stored[rows[0] : rows[-1] + 1].astype(np.int16) - codes)
        if off.max() > 1:
            raise CorruptData(f"{path}: the codes do not lie in the order of the rows")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
