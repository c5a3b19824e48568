"""Building ONNX graphs from blocks."""

from __future__ import annotations
