"""Write a finished model to disk.

Owns where tensors go that do not fit into one protobuf message. Must not know what the model is.
"""

from __future__ import annotations

from pathlib import Path

import onnx

EXTERNAL_FROM_BYTES = 1_500_000_000
"""A protobuf message holds 2 GiB at most; larger models keep their tensors in a second file."""

_SMALL_TENSOR_BYTES = 1024


def save_model(
    model: onnx.ModelProto, file: Path, *, external_from_bytes: int = EXTERNAL_FROM_BYTES
) -> None:
    """Write the model; tensors of a large one go to `<file>.data` beside it."""
    size_bytes = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size_bytes < external_from_bytes:
        onnx.save(model, file)
        return
    onnx.save(
        model,
        file,
        save_as_external_data=True,
        location=f"{file.name}.data",
        size_threshold=_SMALL_TENSOR_BYTES,
    )
    # The library keeps the second file for its owner alone.
    file.with_name(f"{file.name}.data").chmod(file.stat().st_mode)
