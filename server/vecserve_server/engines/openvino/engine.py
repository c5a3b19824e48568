"""What OpenVINO can do.

Owns its name and the names of the files that it runs. Must not know sessions.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from types import MappingProxyType

from vecserve_server.engines.engine import EncoderSupport, Engine
from vecserve_server.engines.openvino.runtime import openvino_is_installed
from vecserve_server.engines.openvino.session import OpenVinoSession
from vecserve_server.model_files.encoder_config import PACKED, PADDED

OPENVINO = "openvino"
FILES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "fp32": ("model.onnx",),
        "int8": ("model.int8.xml", "model.int8.bin"),
        "fp16": ("model.fp16.xml", "model.fp16.bin"),
    }
)


def openvino_engine() -> Engine:
    """Return the engine `openvino`."""
    return Engine(
        name=OPENVINO,
        is_installed=openvino_is_installed,
        version=lambda: importlib.metadata.version("openvino"),
        open=OpenVinoSession,
        encoders=EncoderSupport(layouts=frozenset({PACKED, PADDED}), files=FILES),
        runs_onnx_models=True,
        accelerator="cpu",
        compiled_folder="compiled",
    )
