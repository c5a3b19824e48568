"""ONNX Runtime's execution providers.

Owns their names, and which there are here. Must not know sessions.
"""

from __future__ import annotations

import onnxruntime

CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"


def cuda_is_available() -> bool:
    """Tell whether this ONNX Runtime was built for GPUs."""
    return CUDA_PROVIDER in onnxruntime.get_available_providers()
