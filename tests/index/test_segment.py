"""One segment's graph: what it says of itself, and what it is loaded with."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from usearch.index import Index

from vecserve_server.index.segments.segment import find_themselves

KEYS = 10


class Graph:
    """A graph that leads from the first row to three others, and from the second to ten equals."""

    def search(self, codes: object, count: int, threads: int) -> SimpleNamespace:
        keys = np.arange(2 * KEYS, dtype=np.uint64).reshape(2, KEYS) + 100
        # What lies beyond the answers happens to look like the best answer.
        keys[0, 5] = 0
        return SimpleNamespace(
            keys=keys, distances=np.zeros((2, KEYS), np.float32), counts=np.array([3, KEYS])
        )


def test_memory_beyond_the_answers_is_no_answer() -> None:
    graph: Any = Graph()
    found = find_themselves(cast("Index", graph), np.array([0, 1]), np.zeros((2, 4), np.int8))
    assert found.tolist() == [False, True]


def test_onnx_runtime_can_be_imported_after_an_index() -> None:
    program = "import vecserve_server.index.segments.segment, onnxruntime"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
