"""Whether a request's tensors fit the model's configuration.

Owns the checks of names, datatypes, shapes and batch sizes that need no data. Pure; each failure
names the tensor. Which inputs may be left out is the model's to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from vecserve.inference import model_config_pb2, service_pb2
from vecserve_server.errors import InvalidArgument
from vecserve_server.gateway.kserve.parameters import RequestedOutput, requested_output
from vecserve_server.gateway.kserve.tensors import BYTES, check_shape
from vecserve_server.services.inference import TensorModel

Config: TypeAlias = model_config_pb2.ModelConfig
TensorConfig: TypeAlias = model_config_pb2.ModelInput | model_config_pb2.ModelOutput
MAX_KEPT_CONTRACTS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorTerms:
    """What one tensor of a model is like on the wire."""

    datatype: str
    shape: Sequence[int]
    """With the batch dimension; -1 where a size may vary."""
    batched: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What requests to one model must be like."""

    config: Config
    inputs: Mapping[str, TensorTerms]
    outputs: Mapping[str, TensorTerms]
    max_batch_size: int

    def check_inputs(self, request: service_pb2.ModelInferRequest) -> int:
        """Check every input that is there; returns the rows, 1 for a model without batches."""
        seen: set[str] = set()
        rows: int | None = None
        for tensor in request.inputs:
            name, shape = tensor.name, tensor.shape
            field = f"input {name!r}"
            if name in seen:
                raise InvalidArgument(field, "comes twice")
            seen.add(name)
            terms = _known(field, name, self.inputs)
            _check_datatype(field, tensor.datatype, terms.datatype)
            check_shape(field, shape)
            _check_dims(field, shape, terms.shape)
            if terms.batched:
                rows = _check_rows(field, shape[0], rows, self.max_batch_size)
        return rows or 1

    def requested_outputs(self, request: service_pb2.ModelInferRequest) -> list[RequestedOutput]:
        """Read which outputs are wanted, in order; all of the model's where none is named."""
        if not request.outputs:
            return [RequestedOutput(name=name) for name in self.outputs]
        wanted: dict[str, RequestedOutput] = {}
        for output in request.outputs:
            field = f"output {output.name!r}"
            _known(field, output.name, self.outputs)
            if output.name in wanted:
                raise InvalidArgument(field, "is requested twice")
            wanted[output.name] = requested_output(output)
        return list(wanted.values())


class Contracts:
    """The contract of each model, made once. Loop only."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Contract] = {}

    def of(self, model: TensorModel) -> Contract:
        """Return the contract of the model's configuration as it is now."""
        key, config = (model.name, model.version), model.config
        contract = self._kept.get(key)
        if contract is None or contract.config is not config:
            if len(self._kept) >= MAX_KEPT_CONTRACTS:
                self._kept.clear()
            contract = self._kept[key] = make_contract(config, model.unlisted_inputs)
        return contract


def make_contract(config: Config, unlisted: Sequence[model_config_pb2.ModelInput] = ()) -> Contract:
    """Read a model's configuration; `unlisted` are inputs that are taken, too."""
    return Contract(
        config=config,
        inputs={tensor.name: _terms(tensor, config) for tensor in (*config.input, *unlisted)},
        outputs={tensor.name: _terms(tensor, config) for tensor in config.output},
        max_batch_size=config.max_batch_size,
    )


def _terms(tensor: TensorConfig, config: Config) -> TensorTerms:
    name: str = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    batched = config.max_batch_size > 0 and not tensor.is_shape_tensor
    return TensorTerms(
        datatype=BYTES if name == "STRING" else name,
        shape=[-1, *tensor.dims] if batched else list(tensor.dims),
        batched=batched,
    )


def _known(field: str, name: str, tensors: Mapping[str, TensorTerms]) -> TensorTerms:
    if name not in tensors:
        names = ", ".join(map(repr, tensors))
        raise InvalidArgument(field, f"is unknown; the model has {names}")
    return tensors[name]


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
