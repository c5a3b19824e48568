"""What ONNX Runtime can do.

Owns the names of the files that it runs. Must not know sessions.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from types import MappingProxyType

import onnxruntime

from vecserve_server.engines.engine import EncoderSupport, Engine
from vecserve_server.engines.onnxruntime.providers import cuda_is_available
from vecserve_server.engines.onnxruntime.session import OnnxRuntimeSession
from vecserve_server.model_files.encoder_config import CPU, GPU, ONNXRUNTIME, PACKED, PADDED

FILES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"fp32": ("model.onnx",), "int8": ("model.int8.onnx",), "fp16": ("model.fp16.onnx",)}
)


def onnxruntime_engine() -> Engine:
    """Return the engine `onnxruntime`."""
    return Engine(
        name=ONNXRUNTIME,
        is_installed=lambda: importlib.util.find_spec("onnxruntime") is not None,
        version=lambda: str(onnxruntime.__version__),
        open=OnnxRuntimeSession,
        encoders=EncoderSupport(layouts=frozenset({PACKED, PADDED}), files=FILES),
        devices=lambda: frozenset({CPU, GPU} if cuda_is_available() else {CPU}),
        runs_onnx_models=True,
    )
