"""One inference: a request's tensors to a model, its outputs to the response.

Owns the order of the steps and what is held meanwhile. Must not know gRPC calls or streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

from vecserve.inference import service_pb2
from vecserve_server.domain.caller import Caller
from vecserve_server.domain.tensors import TensorReply, TensorRequest
from vecserve_server.errors import EngineError, InvalidArgument
from vecserve_server.gateway.common.call import CallScope
from vecserve_server.gateway.kserve.classification import classify
from vecserve_server.gateway.kserve.contract import Contract, Contracts
from vecserve_server.gateway.kserve.parameters import (
    BYTE_SIZE,
    FINAL_RESPONSE,
    OFFSET,
    REGION,
    RegionSlice,
    RequestedOutput,
    input_slice,
    request_parameters,
)
from vecserve_server.gateway.kserve.shared_memory import Region, SharedMemoryRegions
from vecserve_server.gateway.kserve.tensors import BYTES, read_raw, read_typed, write_raw
from vecserve_server.gateway.kserve.trace_log import TraceLog
from vecserve_server.gateway.kserve.words import REWORDED, reworded
from vecserve_server.services.inference import InferenceService, TensorModel

Request: TypeAlias = service_pb2.ModelInferRequest
Response: TypeAlias = service_pb2.ModelInferResponse
COPY_ON_LOOP_BYTES = 1 << 20
"""More is copied in a thread: it would hold up all other calls."""


class Inference:
    """Answer inference requests with any model. Loop only."""

    def __init__(
        self,
        *,
        service: InferenceService,
        regions: SharedMemoryRegions,
        traces: TraceLog,
        scope: CallScope,
    ) -> None:
        self._service = service
        self._regions = regions
        self._traces = traces
        self._scope = scope
        self._contracts = Contracts()

    async def answer(self, request: Request, caller: Caller, *, streamed: bool = False) -> Response:
        """Infer; raises the errors of `errors.py`, naming the tensor at fault."""
        try:
            with self._scope.admit(request) as arrived_ns:
                response = await self._answer(request, caller, arrived_ns)
        except REWORDED as error:
            raise reworded(error) from error
        if streamed:
            response.parameters[FINAL_RESPONSE].bool_param = True
        return response

    async def _answer(self, request: Request, caller: Caller, started_ns: int) -> Response:
        if not request.model_name:
            raise InvalidArgument("model_name", "is empty")
        parameters = request_parameters(request)
        lease = self._service.lease(request.model_name, request.model_version, caller)
        with lease as model:
            contract = self._contracts.of(model)
            rows = contract.check_inputs(request)
            wanted = contract.requested_outputs(request)
            slices = _slices(request, wanted)
            names = {field: place.region for field, place in slices.items()}
            with self._regions.hold(names) as regions:
                shared = _shared(slices, regions)
                shared_bytes = _shared_input_bytes(request, shared)
                # The call came in as one item; how many it is, is known only now.
                with self._scope.admission.admit(rows - 1, size_bytes=shared_bytes):
                    inputs = await _inputs(request, shared)
                    reply = await model.infer(
                        TensorRequest(
                            inputs=inputs,
                            outputs=_names(request, wanted),
                            priority=parameters.priority,
                            timeout_us=parameters.timeout_us,
                            deadline_ns=caller.deadline_ns,
                        )
                    )
                    writer = _Writer(model, contract, reply, shared)
                    response = await _written(writer, request, wanted, reply)
                self._traces.record(
                    request, response, reply.times, started_ns, inputs, reply.outputs
                )
        return response


def _slices(request: Request, wanted: Sequence[RequestedOutput]) -> dict[str, RegionSlice]:
    """Find which tensors lie in shared memory."""
    slices = {
        _input(tensor.name): place
        for tensor in request.inputs
        if (place := input_slice(tensor)) is not None
    }
    return slices | {
        _output(output.name): output.slice for output in wanted if output.slice is not None
    }


def _names(request: Request, wanted: Sequence[RequestedOutput]) -> tuple[str, ...]:
    return tuple(output.name for output in wanted) if request.outputs else ()


def _shared(
    slices: Mapping[str, RegionSlice], regions: Mapping[str, Region]
) -> dict[str, SharedTensor]:
    """Find the places of the tensors; refuse those outside their regions."""
    shared = {
        field: SharedTensor(field=field, region=regions[field], place=place)
        for field, place in slices.items()
    }
    for tensor in shared.values():
        tensor.check()
    return shared


def _shared_input_bytes(request: Request, shared: Mapping[str, SharedTensor]) -> int:
    names = [_input(tensor.name) for tensor in request.inputs]
    return sum(shared[name].place.size_bytes for name in names if name in shared)


async def _inputs(request: Request, shared: Mapping[str, SharedTensor]) -> dict[str, NDArray[Any]]:
    """Read all inputs by name, in a thread where that takes long."""
    if _shared_input_bytes(request, shared) <= COPY_ON_LOOP_BYTES:
        return _read_inputs(request, shared)
    return await asyncio.to_thread(_read_inputs, request, shared)


def _read_inputs(request: Request, shared: Mapping[str, SharedTensor]) -> dict[str, NDArray[Any]]:
    """Read all inputs by name; those in shared memory have no raw contents."""
    sent = [tensor for tensor in request.inputs if _input(tensor.name) not in shared]
    raw = request.raw_input_contents
    if raw and len(raw) != len(sent):
        raise InvalidArgument(
            "raw_input_contents", f"has {len(raw)} entries for {len(sent)} inputs"
        )
    contents = {tensor.name: data for tensor, data in zip(sent, raw, strict=False)}
    tensors = {}
    for tensor in request.inputs:
        place = shared.get(_input(tensor.name))
        if place is not None:
            tensors[tensor.name] = read_raw(tensor, place.read())
        elif raw:
            tensors[tensor.name] = read_raw(tensor, contents[tensor.name])
        else:
            tensors[tensor.name] = read_typed(tensor)
    return tensors


async def _written(
    writer: _Writer, request: Request, wanted: Sequence[RequestedOutput], reply: TensorReply
) -> Response:
    """Write the response, in a thread where that takes long."""
    size_bytes = sum(tensor.nbytes for tensor in reply.outputs.values())
    if size_bytes <= COPY_ON_LOOP_BYTES:
        return writer.write(request, wanted)
    return await asyncio.to_thread(writer.write, request, wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTensor:
    """Where in shared memory the bytes of a tensor are, and what it is called in messages."""

    field: str
    region: Region
    place: RegionSlice

    def check(self) -> None:
        """Refuse a place outside the region."""
        self.region.check(self.field, offset=self.place.offset, size_bytes=self.place.size_bytes)

    def read(self) -> bytes:
        """Copy the tensor out."""
        place = self.place
        return self.region.read(self.field, offset=place.offset, size_bytes=place.size_bytes)

    def write(self, data: bytes) -> None:
        """Copy a tensor in, which may be smaller than the place."""
        if len(data) > self.place.size_bytes:
            raise InvalidArgument(
                self.field,
                f"has {len(data)} bytes; shared_memory_byte_size is {self.place.size_bytes}",
            )
        self.region.write(self.field, data, offset=self.place.offset)


class _Writer:
    """Puts the outputs of one reply into a response."""

    def __init__(
        self,
        model: TensorModel,
        contract: Contract,
        reply: TensorReply,
        shared: Mapping[str, SharedTensor],
    ) -> None:
        self._model = model
        self._contract = contract
        self._reply = reply
        self._shared = shared

    def write(self, request: Request, wanted: Sequence[RequestedOutput]) -> Response:
        """Write the wanted outputs in order; one entry of raw contents each, always."""
        response = Response(
            model_name=self._model.name, model_version=self._model.version, id=request.id
        )
        for output in wanted:
            if output.name not in self._reply.outputs:
                if not request.outputs:
                    continue
                raise EngineError(f"output {output.name!r}: the model did not return it")
            self._write(response, output)
        return response

    def _write(self, response: Response, output: RequestedOutput) -> None:
        datatype = self._contract.outputs[output.name].datatype
        tensor = self._reply.outputs[output.name]
        if output.classes:
            tensor = self._classify(datatype, tensor, output)
            datatype = BYTES
        described = response.outputs.add(name=output.name, datatype=datatype, shape=tensor.shape)
        data = write_raw(datatype, tensor)
        if output.slice is None:
            response.raw_output_contents.append(data)
            return
        self._shared[_output(output.name)].write(data)
        response.raw_output_contents.append(b"")
        described.parameters[REGION].string_param = output.slice.region
        described.parameters[BYTE_SIZE].int64_param = len(data)
        if output.slice.offset:
            described.parameters[OFFSET].int64_param = output.slice.offset

    def _classify(
        self, datatype: str, tensor: NDArray[Any], output: RequestedOutput
    ) -> NDArray[Any]:
        labels = self._model.labels
        return classify(
            _output(output.name),
            datatype,
            tensor,
            classes=output.classes,
            batched=self._contract.outputs[output.name].batched,
            labels=labels.get(output.name, ()),
        )


def _input(name: str) -> str:
    return f"input {name!r}"


def _output(name: str) -> str:
    return f"output {name!r}"
