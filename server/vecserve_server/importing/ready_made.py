"""Take a text encoder that is an ONNX file already, and append what is missing to it.

Owns which inputs and outputs such a file may have. Must not know packed rows or weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, version_converter

from vecserve_server.errors import ModelError
from vecserve_server.importing.families.families import family_for, is_supported
from vecserve_server.importing.graph.blocks import TokenPlaces, plain_ids
from vecserve_server.importing.graph.graph import GraphBuilder, Value
from vecserve_server.importing.graph.head import EMBEDDING, NORM, Head, add_head, publish
from vecserve_server.importing.quantise.calibration import Calibration
from vecserve_server.importing.sources.checkpoint import Checkpoint
from vecserve_server.importing.sources.external_data import (
    ONNX_FILES,
    external_files,
    load_model,
    take_in,
)
from vecserve_server.importing.sources.limits import TokenLimit, token_limit
from vecserve_server.importing.sources.memory import check_fits
from vecserve_server.importing.sources.model_file import save_model
from vecserve_server.importing.sources.sentence_settings import is_positive
from vecserve_server.model_files.encoder_config import PADDED

_TAKEN = ("input_ids", "attention_mask", "token_type_ids")
"""Inputs of the finished model, int64 [N, T]; the last where the file has it."""
_COMPUTED = ("position_ids",)
_POOLED = ("sentence_embedding", "embedding", "pooled_embedding")
_STATES = ("last_hidden_state", "token_embeddings")
_OLDEST_OPSET = 20
"""The first in which every operator of a head is standard."""
_INTEGERS = (TensorProto.INT64, TensorProto.INT32)
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx")
"""What families call the number of their positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyMade:
    """An encoder that is served as its authors exported it, over padded batches."""

    file: Path
    model: onnx.ModelProto
    dim: int
    limit: TokenLimit
    weight_paths: tuple[Path, ...]
    """The files that hold the graph and its tensors."""

    @property
    def max_tokens(self) -> int:
        """See `Build`."""
        return self.limit.tokens

    @property
    def clamped(self) -> str | None:
        """See `Build`."""
        return self.limit.clamped

    @property
    def architecture(self) -> str:
        """See `Build`."""
        return "ready-made ONNX"

    @property
    def layout(self) -> str:
        """See `Build`."""
        return PADDED

    @property
    def default_precisions(self) -> tuple[str, ...]:
        """See `Build`."""
        return ("fp32",)

    def calibration(self) -> Calibration:
        """See `Build`: there is none."""
        raise self._refused("int8")

    def write(self, precision: str, file: Path, calibration: Calibration | None = None) -> None:  # noqa: ARG002 - part of the interface
        """Write the finished model; only one precision, called fp32, can be had."""
        if precision != "fp32":
            raise self._refused(precision)
        save_model(self.model, file)

    def _refused(self, precision: str) -> ModelError:
        return ModelError(f"{self.file.name}: a ready-made model cannot be built in {precision}")


def find_onnx(folder: Path) -> Path | None:
    """Return the folder's ONNX file, if there is one."""
    return next((folder / name for name in ONNX_FILES if (folder / name).is_file()), None)


def ready_made(
    file: Path, checkpoint: Checkpoint, *, max_length: int | None, memory_limit_bytes: int | None
) -> ReadyMade:
    """Read the file and append pooling and normalisation.

    Raises `ModelError` for a damaged file, for inputs and outputs that are not a text encoder's,
    and for too little memory.
    """
    check_fits(file.stat().st_size, memory_limit_bytes)
    model = load_model(file)
    files = (file, *external_files(model, file))
    size_bytes = sum(path.stat().st_size for path in files if path.is_file())
    check_fits(size_bytes, memory_limit_bytes)
    limit = token_limit(checkpoint, longest=_longest(checkpoint), wanted=max_length)
    take_in(model, file)
    model = _raised(model, file)
    return ReadyMade(
        file=file,
        model=model,
        dim=_finish(model, checkpoint.modules.head, file.name),
        limit=limit,
        weight_paths=files,
    )


def _raised(model: onnx.ModelProto, file: Path) -> onnx.ModelProto:
    """Return the model in an opset that a head can be appended in."""
    opset = next(
        (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None
    )
    if opset is None:
        raise ModelError(f"{file.name}: not a readable ONNX model (it states no opset)")
    if opset >= _OLDEST_OPSET:
        return model
    try:
        return version_converter.convert_version(model, _OLDEST_OPSET)
    except Exception as error:
        raise ModelError(
            f"{file.name}: cannot be raised from opset {opset} to {_OLDEST_OPSET} ({error}); "
            f"export it with opset {_OLDEST_OPSET} or later"
        ) from error


def _finish(model: onnx.ModelProto, head: Head, name: str) -> int:
    """Give the model our inputs and outputs; return the embedding's width."""
    outputs = {value.name: value for value in model.graph.output}
    chosen = next((key for key in (*_POOLED, *_STATES) if key in outputs), None)
    chosen = chosen or (next(iter(outputs)) if len(outputs) == 1 else None)
    if chosen is None:
        known = ", ".join((*_POOLED, *_STATES))
        raise ModelError(f"{name}: none of the outputs {sorted(outputs)} is one of {known}")
    kind = outputs[chosen].type.tensor_type
    width = kind.shape.dim[-1].dim_value if kind.shape.dim else 0
    rank = len(kind.shape.dim)
    if kind.elem_type not in _FLOATS or rank not in (2, 3) or width < 1:
        raise ModelError(
            f"{name}: output {chosen} must be floats [N, D] or [N, T, D] with a known D"
        )
    if rank == 2 and not head.include_prompt:
        raise ModelError(f"{name}: pools by itself, which include_prompt = false does not allow")
    marked = _take_inputs(model, name, with_marks=not head.include_prompt)
    # The finished model's outputs may be called as something within it is.
    for taken in (EMBEDDING, NORM):
        _rename(model, taken, f"given_{taken}")
    chosen = f"given_{chosen}" if chosen in (EMBEDDING, NORM) else chosen
    graph = GraphBuilder(prefix="vecserve_")
    if kind.elem_type != TensorProto.FLOAT:
        chosen = graph.op("Cast", chosen, to=TensorProto.FLOAT)
    if rank == 2:
        publish(graph, chosen, dim=width)
        dim = width
    else:
        flat = graph.op("Reshape", chosen, graph.const(np.array([-1, width], np.int64)))
        add_head(graph, head, _places(graph, marked), flat, hidden=width)
        dim = head.dim(width)
    graph.append_to(model)
    return dim


def _take_inputs(model: onnx.ModelProto, name: str, *, with_marks: bool) -> Value | None:
    """Declare our inputs and derive the model's own from them, whatever their integer type.

    Returns which ids are marked, [N, T], where some may be.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: value for value in model.graph.input if value.name not in constants}
    kinds = {key: value.type.tensor_type.elem_type for key, value in inputs.items()}
    known = (*_TAKEN, *_COMPUTED)
    unknown = sorted(
        key for key, kind in kinds.items() if key not in known or kind not in _INTEGERS
    )
    if unknown or not {"input_ids", "attention_mask"} <= inputs.keys():
        raise ModelError(
            f"{name}: inputs must be integers, input_ids and attention_mask and any of "
            f"token_type_ids and position_ids; found {sorted(inputs)}"
        )
    graph = GraphBuilder(prefix="vecserve_in_")
    marked, ids = plain_ids(graph, "input_ids") if with_marks else (None, "input_ids")
    sources = {"input_ids": ids, **{key: _positions(graph) for key in _COMPUTED if key in inputs}}
    for key in _TAKEN:
        if key in inputs:
            graph.input(key, TensorProto.INT64, ["N", "T"])
    for key, kind in kinds.items():
        derived: Value = sources.get(key, key)
        if kind != TensorProto.INT64:
            derived = graph.op("Cast", derived, to=kind)
        if derived != key:
            _rename(model, key, derived)
    graph.prepend_to(model)
    return marked


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    """Call a value otherwise, wherever a node reads or writes it."""
    for node in model.graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                if value == old:
                    values[index] = new


def _positions(graph: GraphBuilder) -> Value:
    """Return each token's place in its text [N, T]; 0 before the first."""
    counted = graph.op("CumSum", "attention_mask", graph.const(np.int64(1)))
    place = graph.op("Sub", counted, graph.const(np.int64(1)))
    return graph.op("Max", place, graph.const(np.int64(0)))


def _places(graph: GraphBuilder, marked: Value | None) -> TokenPlaces:
    """Describe padded batches [N, T] as a head wants them: by token and by sequence.

    Tokens that are `marked` belong to none.
    """
    flat = graph.const(np.array([-1], np.int64))
    count = graph.op("Shape", "attention_mask", end=1)
    zero, one = graph.const(np.int64(0)), graph.const(np.int64(1))
    scalar = graph.op("Squeeze", count, graph.const(np.array([0], np.int64)))
    sequences = graph.op("Range", zero, scalar, one)
    column = graph.op("Unsqueeze", sequences, graph.const(np.array([1], np.int64)))
    real = graph.op("Greater", "attention_mask", zero)
    if marked is not None:
        real = graph.op("And", real, graph.op("Not", marked))
    segments = graph.op("Where", real, column, graph.const(np.int64(-1)))
    return TokenPlaces(
        positions=graph.op("Reshape", _positions(graph), flat),
        segments=graph.op("Reshape", segments, flat),
        sequences=sequences,
    )


def _longest(checkpoint: Checkpoint) -> int | None:
    """Return the longest text that the encoder takes, as well as the files tell."""
    config = checkpoint.config
    if is_supported(config):
        return family_for(config).size(config).max_tokens
    stated = next((key for key in _LENGTH_KEYS if is_positive(config.values.get(key))), None)
    return None if stated is None else config.integer(stated)
