"""Whether a request's tensors fit the model's configuration.

Owns the checks of names, datatypes, shapes and batch sizes that need no data. Pure; each failure
names the tensor. Which inputs may be left out is the model's to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from tritonclient.grpc import model_config_pb2, service_pb2

from vecserve_server.errors import InvalidArgument
from vecserve_server.gateway.inference.parameters import RequestedOutput, requested_output
from vecserve_server.gateway.tensors import BYTES, check_shape

Config: TypeAlias = model_config_pb2.ModelConfig
TensorConfig: TypeAlias = model_config_pb2.ModelInput | model_config_pb2.ModelOutput


def wire_datatype(tensor: TensorConfig) -> str:
    """Name a configured tensor's datatype as the wire does."""
    name: str = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    return BYTES if name == "STRING" else name


def wire_shape(tensor: TensorConfig, config: Config) -> list[int]:
    """Return a configured tensor's shape with its batch dimension, -1 where it may vary."""
    batched = config.max_batch_size > 0 and not tensor.is_shape_tensor
    return [-1, *tensor.dims] if batched else list(tensor.dims)


def check_inputs(request: service_pb2.ModelInferRequest, config: Config) -> int:
    """Check every input that is there; returns the rows, 1 for a model without batches."""
    known = {tensor.name: tensor for tensor in config.input}
    seen: set[str] = set()
    rows: int | None = None
    for tensor in request.inputs:
        field = f"input {tensor.name!r}"
        if tensor.name in seen:
            raise InvalidArgument(field, "comes twice")
        seen.add(tensor.name)
        if tensor.name not in known:
            names = ", ".join(map(repr, known))
            raise InvalidArgument(field, f"is unknown; the model has {names}")
        expected = known[tensor.name]
        _check_datatype(field, tensor.datatype, wire_datatype(expected))
        check_shape(field, tensor.shape)
        _check_dims(field, tensor.shape, wire_shape(expected, config))
        if config.max_batch_size > 0 and not expected.is_shape_tensor:
            rows = _check_rows(field, tensor.shape[0], rows, config.max_batch_size)
    return rows or 1


def requested_outputs(
    request: service_pb2.ModelInferRequest, config: Config
) -> list[RequestedOutput]:
    """Read which outputs are wanted, in order; all of the model's where none is named."""
    known = [tensor.name for tensor in config.output]
    if not request.outputs:
        return [RequestedOutput(name=name) for name in known]
    wanted: dict[str, RequestedOutput] = {}
    for output in request.outputs:
        field = f"output {output.name!r}"
        if output.name not in known:
            names = ", ".join(map(repr, known))
            raise InvalidArgument(field, f"is unknown; the model has {names}")
        if output.name in wanted:
            raise InvalidArgument(field, "is requested twice")
        wanted[output.name] = requested_output(output)
    return list(wanted.values())


def _check_datatype(field: str, datatype: str, expected: str) -> None:
    if datatype != expected:
        raise InvalidArgument(field, f"has the datatype {datatype!r}; the model takes {expected}")


def _check_dims(field: str, shape: Sequence[int], expected: Sequence[int]) -> None:
    fits = len(shape) == len(expected) and all(
        limit in (-1, size) for size, limit in zip(shape, expected, strict=True)
    )
    if not fits:
        raise InvalidArgument(
            field, f"has the shape {list(shape)}; the model takes {list(expected)}"
        )


def _check_rows(field: str, rows: int, others: int | None, limit: int) -> int:
    if not 1 <= rows <= limit:
        raise InvalidArgument(field, f"has {rows} rows; 1 to max_batch_size = {limit} are allowed")
    if others not in (None, rows):
        raise InvalidArgument(field, f"has {rows} rows; the inputs before it have {others}")
    return rows
