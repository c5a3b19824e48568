"""Any ONNX model in the layout of Triton's model repository."""

from __future__ import annotations
