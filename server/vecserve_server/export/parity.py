"""Measure built graphs on short texts: against fp32, and alone against in a batch.

Owns the figures and their floors. Must not know checkpoints or the repository.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain import TokenIds, Vectors
from vecserve_server.errors import ModelError
from vecserve_server.export.card import Parity
from vecserve_server.export.sample_run import open_session, run_in_one_row

_MEAN_FLOOR, _MIN_FLOOR = 0.99, 0.97


def measure_parity(files: Mapping[str, Path], sequences: Sequence[TokenIds]) -> dict[str, Parity]:
    """Compare the graph of every precision with that of fp32, which must be among them."""
    alone: dict[str, Vectors] = {}
    batched: dict[str, Vectors] = {}
    for precision, file in files.items():
        session = open_session(str(file))
        alone[precision] = np.concatenate(
            [run_in_one_row(session, [sequence])[0] for sequence in sequences]
        )
        batched[precision] = run_in_one_row(session, sequences)[0]
    return {
        precision: _parity(alone[precision], batched[precision], alone["fp32"])
        for precision in files
    }


def check_parity(parity: Mapping[str, Parity]) -> None:
    """Raise `ModelError` where a precision falls below the floor."""
    for precision, found in parity.items():
        # Written so that a NaN fails too.
        if not (found.cosine_mean >= _MEAN_FLOOR and found.cosine_min >= _MIN_FLOOR):
            raise ModelError(
                f"{precision} is too far from fp32: cosine mean {found.cosine_mean:.4f} "
                f"(at least {_MEAN_FLOOR}), min {found.cosine_min:.4f} (at least {_MIN_FLOOR})"
            )


def _parity(alone: Vectors, batched: Vectors, exact: Vectors) -> Parity:
    to_exact = _cosines(alone, exact)
    return Parity(
        cosine_mean=round(float(to_exact.mean()), 7),
        cosine_min=round(float(to_exact.min()), 7),
        batch_cosine_min=round(float(_cosines(alone, batched).min()), 7),
    )


def _cosines(a: Vectors, b: Vectors) -> NDArray[np.float64]:
    """Return row by row cosines, in float64 so that equal rows give 1."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    return np.asarray(np.einsum("nd,nd->n", a64, b64) / norms, np.float64)
