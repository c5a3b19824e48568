"""The index of a collection: graphs on disk beside an exact delta, built in the background."""

from __future__ import annotations

from contextlib import suppress

# Where USearch is loaded first, importing ONNX Runtime later is a segmentation fault.
with suppress(ImportError):
    import onnxruntime  # noqa: F401
