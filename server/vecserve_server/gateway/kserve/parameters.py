"""The parameters of an inference request, its inputs and its outputs.

Owns their names, types and limits. Pure; each failure names the parameter, and the tensor where
there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vecserve.inference import service_pb2
from vecserve_server.errors import InvalidArgument, Unsupported

FINAL_RESPONSE_WANTED = "triton_enable_empty_final_response"
FINAL_RESPONSE = "triton_final_response"
SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
REGION, BYTE_SIZE, OFFSET = (
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
)
CLASSIFICATION = "classification"
MAX_PRIORITY = 2**64 - 1
MAX_TIMEOUT_US = 2**63 // 1000 - 1

Parameters = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestParameters:
    """What the parameters of a whole request say."""

    priority: int
    timeout_us: int


NO_PARAMETERS = RequestParameters(priority=0, timeout_us=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionSlice:
    """A part of a registered shared-memory region."""

    region: str
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedOutput:
    """What a request wants of one output."""

    name: str
    classes: int = 0
    """How many of the best classes to return instead of the tensor; 0: the tensor."""
    slice: RegionSlice | None = None
    """Where to write it; None: into the response."""


def request_parameters(request: service_pb2.ModelInferRequest) -> RequestParameters:
    """Read what the protocol defines, pass over what it leaves to users, refuse the rest."""
    parameters = request.parameters
    if not parameters:
        return NO_PARAMETERS
    for name in parameters:
        if name.startswith("triton_") and name != FINAL_RESPONSE_WANTED:
            raise InvalidArgument("parameters", f"{name!r} is reserved and not known here")
    # The answer to a request is its only one, and marked as the last, whether asked for or not.
    _check_flag("parameters", parameters, FINAL_RESPONSE_WANTED)
    for name in SEQUENCE:
        if _value("parameters", parameters, name):
            raise Unsupported(f"parameters: {name!r}: sequences are not offered")
    return RequestParameters(
        priority=_whole_number("parameters", parameters, "priority", limit=MAX_PRIORITY),
        timeout_us=_whole_number("parameters", parameters, "timeout", limit=MAX_TIMEOUT_US),
    )


def input_slice(tensor: service_pb2.ModelInferRequest.InferInputTensor) -> RegionSlice | None:
    """Read where in shared memory an input lies; None: in the request."""
    if not tensor.parameters:
        return None
    return _slice(f"input {tensor.name!r}", tensor.parameters)


def requested_output(
    output: service_pb2.ModelInferRequest.InferRequestedOutputTensor,
) -> RequestedOutput:
    """Read what is wanted of one output."""
    if not output.parameters:
        return RequestedOutput(name=output.name)
    field = f"output {output.name!r}"
    classes = _whole_number(field, output.parameters, CLASSIFICATION, limit=2**31 - 1)
    place = _slice(field, output.parameters)
    if classes and place is not None:
        raise InvalidArgument(field, f"{CLASSIFICATION!r} cannot go to shared memory")
    return RequestedOutput(name=output.name, classes=classes, slice=place)


def _slice(field: str, parameters: Parameters) -> RegionSlice | None:
    if REGION not in parameters:
        for name in (BYTE_SIZE, OFFSET):
            if name in parameters:
                raise InvalidArgument(field, f"has {name!r} without {REGION!r}")
        return None
    region = _value(field, parameters, REGION)
    if not isinstance(region, str) or not region:
        raise InvalidArgument(field, f"{REGION!r} must be the name of a region")
    if BYTE_SIZE not in parameters:
        raise InvalidArgument(field, f"has {REGION!r} without {BYTE_SIZE!r}")
    return RegionSlice(
        region=region,
        offset=_whole_number(field, parameters, OFFSET, limit=2**63 - 1),
        size_bytes=_whole_number(field, parameters, BYTE_SIZE, limit=2**63 - 1),
    )


def _value(field: str, parameters: Parameters, name: str) -> object:
    """Return a parameter's value, None where it is absent; one without a value is refused."""
    # Indexing a map of messages would add what is missing.
    if name not in parameters:
        return None
    kind = parameters[name].WhichOneof("parameter_choice")
    if kind is None:
        raise InvalidArgument(field, f"{name!r} has no value")
    value: object = getattr(parameters[name], kind)
    return value


def _whole_number(field: str, parameters: Parameters, name: str, *, limit: int) -> int:
    value = _value(field, parameters, name)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
        raise InvalidArgument(field, f"{name!r} must be a whole number from 0 to {limit}")
    return value


def _check_flag(field: str, parameters: Parameters, name: str) -> None:
    if not isinstance(_value(field, parameters, name), bool | None):
        raise InvalidArgument(field, f"{name!r} must be true or false")
