"""ONNX Runtime, on the CPU and on GPUs by CUDA."""

from __future__ import annotations
