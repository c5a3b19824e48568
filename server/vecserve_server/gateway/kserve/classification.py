"""The `classification` extension: the best classes of an output instead of the tensor.

Owns the ranking and its text form. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecserve_server.errors import InvalidArgument

DATATYPES = frozenset(
    ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP32", "FP64")
)


def classify(
    field: str,
    datatype: str,
    tensor: NDArray[Any],
    *,
    classes: int,
    batched: bool,
    labels: Sequence[str] = (),
) -> NDArray[Any]:
    """Rank the elements, of each row where the model is `batched`, best first.

    Returns BYTES [N, K], or [K] without batches, of `score:index` with `:label` where there is
    one; K is at most the number of elements. Raises InvalidArgument for a datatype without order.
    """
    if datatype not in DATATYPES:
        raise InvalidArgument(field, f"has the datatype {datatype}; it cannot be classified")
    rows = tensor.reshape(len(tensor) if batched else 1, -1)
    texts = [[_text(row, int(index), labels) for index in _best(row, classes)] for row in rows]
    ranked = np.empty((len(rows), min(classes, rows.shape[1])), object)
    ranked[:] = texts
    return ranked if batched else ranked[0]


def _best(row: NDArray[Any], classes: int) -> NDArray[np.intp]:
    """Return the indices of the greatest, the first of equals before the others, NaN last."""
    # The complement turns the order of integers round and cannot overflow.
    descending = -row if row.dtype.kind == "f" else ~row
    return np.argsort(descending, kind="stable")[:classes]


def _text(row: NDArray[Any], index: int, labels: Sequence[str]) -> bytes:
    score = f"{row[index]:f}" if row.dtype.kind == "f" else str(row[index])
    label = f":{labels[index]}" if index < len(labels) and labels[index] else ""
    return f"{score}:{index}{label}".encode()
