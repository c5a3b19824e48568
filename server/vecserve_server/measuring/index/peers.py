"""Other libraries at the same task: hnswlib, faiss HNSW with 8-bit codes, USearch as it comes.

Each is optional. Each is tuned to the recall that is asked for, by the breadth of its searches.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vecserve_server.measuring.index.data import Rows, Vectors, recall

LINKS, BUILD_BREADTH = 24, 200
BREADTHS = (16, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512)


@dataclass(slots=True, kw_only=True)
class Peer:
    """A library with all vectors added."""

    name: str
    build_s: float
    search: Callable[[Vectors, int], Rows]
    """One query, float32 [D]."""
    set_breadth: Callable[[int], None]
    breadth: int = 0
    recall: float = 0.0

    def tune(self, queries: Vectors, truth: Sequence[Rows], k: int, wanted: float) -> None:
        """Take the least breadth that reaches the wanted recall, or the largest."""
        for self.breadth in BREADTHS:
            self.set_breadth(self.breadth)
            self.recall = recall([self.search(query, k) for query in queries], truth)
            if self.recall >= wanted:
                return


def build_peers(vectors: Vectors) -> list[Peer]:
    """Build what is installed, on all cores."""
    made = []
    for name, make in (
        ("hnswlib-f32", _hnswlib),
        ("faiss-hnsw-sq8", _faiss),
        ("usearch-naive-i8", _usearch),
    ):
        began_s = time.perf_counter()
        try:
            search, set_breadth = make(vectors)
        except ImportError:
            continue
        made.append(
            Peer(
                name=name,
                build_s=time.perf_counter() - began_s,
                search=search,
                set_breadth=set_breadth,
            )
        )
    return made


_Made = tuple[Callable[[Vectors, int], Rows], Callable[[int], None]]


def _hnswlib(vectors: Vectors) -> _Made:
    library: Any = importlib.import_module("hnswlib")
    index = library.Index(space="ip", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), M=LINKS, ef_construction=BUILD_BREADTH)
    index.add_items(vectors, np.arange(len(vectors)))
    index.set_num_threads(1)

    def search(query: Vectors, k: int) -> Rows:
        labels, _ = index.knn_query(query, k=k)
        return np.asarray(labels[0], np.int64)

    return search, index.set_ef


def _faiss(vectors: Vectors) -> _Made:
    library: Any = importlib.import_module("faiss")
    quantiser = library.ScalarQuantizer.QT_8bit
    index = library.IndexHNSWSQ(vectors.shape[1], quantiser, LINKS, library.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = BUILD_BREADTH
    index.train(vectors[: min(len(vectors), 50_000)])
    index.add(vectors)
    library.omp_set_num_threads(1)

    def search(query: Vectors, k: int) -> Rows:
        _, labels = index.search(query[np.newaxis], k)
        return np.asarray(labels[0], np.int64)

    def set_breadth(breadth: int) -> None:
        index.hnsw.efSearch = breadth

    return search, set_breadth


def _usearch(vectors: Vectors) -> _Made:
    library: Any = importlib.import_module("usearch.index")
    index = library.Index(
        ndim=vectors.shape[1],
        metric="cos",
        dtype="i8",
        connectivity=LINKS,
        expansion_add=BUILD_BREADTH,
    )
    index.add(np.arange(len(vectors)), vectors)

    def search(query: Vectors, k: int) -> Rows:
        return np.asarray(index.search(query, k, threads=1).keys, np.int64)

    def set_breadth(breadth: int) -> None:
        index.expansion_search = breadth

    return search, set_breadth
