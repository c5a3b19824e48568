"""Judge whether a model fits into memory before it is read.

Owns the estimate. Must not know checkpoints, nor how memory is measured.
"""

from __future__ import annotations

from vecserve_server.errors import ModelError
from vecserve_server.importing.sources.model_file import EXTERNAL_FROM_BYTES

_PEAK_PER_WEIGHT_BYTE, _PEAK_OF_LARGE = 6, 4
"""Measured peaks of an import, in multiples of the float32 weights, rounded up; tensors of a large
model are written one by one."""
_BASE_BYTES = 128 * 1024 * 1024
_GIB = 1024**3


def check_fits(weight_bytes: int, limit_bytes: int | None) -> None:
    """Raise `ModelError` where importing float32 weights of this size takes more than the limit."""
    large = weight_bytes >= EXTERNAL_FROM_BYTES
    needed = weight_bytes * (_PEAK_OF_LARGE if large else _PEAK_PER_WEIGHT_BYTE) + _BASE_BYTES
    if limit_bytes is not None and needed > limit_bytes:
        raise ModelError(
            f"the import needs about {needed / _GIB:.1f} GiB of memory for "
            f"{weight_bytes / _GIB:.2f} GiB of weights, {limit_bytes / _GIB:.1f} GiB are available"
        )
