"""Vectors in memory: the quantiser, exact scans and the search over them."""

from __future__ import annotations

from contextlib import suppress

# Where USearch is loaded first, importing ONNX Runtime later is a segmentation fault.
with suppress(ImportError):
    import onnxruntime  # noqa: F401
