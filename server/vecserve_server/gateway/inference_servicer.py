"""inference.GRPCInferenceService, the KServe v2 / Triton protocol, for the text encoders.

Owns the mapping between its tensors and the embedding use case. What it does not define answers
UNIMPLEMENTED.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from grpc import aio
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from vecserve_server import __version__
from vecserve_server.domain import TokenIds, Vectors
from vecserve_server.errors import InvalidArgument, NotFound, Unsupported
from vecserve_server.gateway.call import CallScope
from vecserve_server.gateway.tensors import read_inputs
from vecserve_server.services.catalog import Catalog, ServedModel
from vecserve_server.services.embedding import EmbeddingService, EmbedOptions

Context = aio.ServicerContext[Any, Any]
TEXT, TOKENS, MASK, OUTPUT = "text", "input_ids", "attention_mask", "embedding"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "parameters")
ACCEPTED_TRITON_PARAMETERS = frozenset({"triton_enable_empty_final_response"})
SEQUENCE_PARAMETERS = ("sequence_id", "sequence_start", "sequence_end")


class InferenceServicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Server and model metadata, and inference on the text encoders."""

    def __init__(self, *, catalog: Catalog, service: EmbeddingService, scope: CallScope) -> None:
        self._catalog = catalog
        self._service = service
        self._scope = scope

    async def ServerLive(
        self, request: service_pb2.ServerLiveRequest, context: Context
    ) -> service_pb2.ServerLiveResponse:
        """Answer that the process lives."""
        return service_pb2.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: service_pb2.ServerReadyRequest, context: Context
    ) -> service_pb2.ServerReadyResponse:
        """Tell whether the server takes work."""
        return service_pb2.ServerReadyResponse(ready=not self._scope.closing.is_set())

    async def ModelReady(
        self, request: service_pb2.ModelReadyRequest, context: Context
    ) -> service_pb2.ModelReadyResponse:
        """Tell whether a model is loaded."""
        try:
            self._catalog.get(request.name, request.version)
        except NotFound:
            return service_pb2.ModelReadyResponse(ready=False)
        return service_pb2.ModelReadyResponse(ready=not self._scope.closing.is_set())

    async def ServerMetadata(
        self, request: service_pb2.ServerMetadataRequest, context: Context
    ) -> service_pb2.ServerMetadataResponse:
        """Name the server, its version and the protocol's extensions that it speaks."""
        return service_pb2.ServerMetadataResponse(
            name="vecserve", version=__version__, extensions=EXTENSIONS
        )

    async def ModelMetadata(
        self, request: service_pb2.ModelMetadataRequest, context: Context
    ) -> service_pb2.ModelMetadataResponse:
        """Describe a model's tensors."""
        served = self._named(request.name, request.version)
        config = served.text.proto
        return service_pb2.ModelMetadataResponse(
            name=served.text.ref.name,
            versions=[served.text.ref.version],
            platform=config.platform or config.backend,
            inputs=[_tensor_metadata(tensor, config) for tensor in config.input],
            outputs=[_tensor_metadata(tensor, config) for tensor in config.output],
        )

    async def ModelConfig(
        self, request: service_pb2.ModelConfigRequest, context: Context
    ) -> service_pb2.ModelConfigResponse:
        """Return a model's configuration as it is in force."""
        served = self._named(request.name, request.version)
        return service_pb2.ModelConfigResponse(config=served.text.proto)

    async def ModelInfer(
        self, request: service_pb2.ModelInferRequest, context: Context
    ) -> service_pb2.ModelInferResponse:
        """Embed the texts or token ids of a request."""
        served = self._named(request.model_name, request.model_version)
        _check_parameters(request)
        _check_outputs(request)
        deadline_ns = self._deadline_ns(request, context)
        with self._scope.admit(request, items=_claimed_rows(request, served)):
            vectors = await self._embed(served, read_inputs(request), deadline_ns)
        return service_pb2.ModelInferResponse(
            model_name=served.text.ref.name,
            model_version=served.text.ref.version,
            id=request.id,
            outputs=[
                service_pb2.ModelInferResponse.InferOutputTensor(
                    name=OUTPUT, datatype="FP32", shape=vectors.shape
                )
            ],
            raw_output_contents=[vectors.astype("<f4").tobytes()],
        )

    def _named(self, name: str, version: str) -> ServedModel:
        if not name:
            raise InvalidArgument("model_name", "is empty")
        return self._catalog.get(name, version)

    async def _embed(
        self, served: ServedModel, inputs: Mapping[str, NDArray[Any]], deadline_ns: int | None
    ) -> Vectors:
        name = served.text.ref.name
        if set(inputs) == {TEXT}:
            texts = _texts(inputs[TEXT])
            embedded = await self._service.embed(
                name, texts, EmbedOptions(), deadline_ns=deadline_ns
            )
            for error in embedded.errors.values():
                raise error
            return embedded.vectors
        if set(inputs) in ({TOKENS, MASK}, {TOKENS}):
            sequences = _sequences(inputs, served)
            return await self._service.embed_tokens(name, sequences, deadline_ns=deadline_ns)
        raise InvalidArgument(
            "inputs",
            f"are {', '.join(sorted(inputs)) or 'empty'}; {TEXT!r} alone, or {TOKENS!r} with "
            f"{MASK!r}, are expected",
        )

    def _deadline_ns(self, request: service_pb2.ModelInferRequest, context: Context) -> int | None:
        """Return the earlier of the gRPC deadline and the request's `timeout` in microseconds."""
        deadlines = [self._scope.deadline_ns(context)]
        if "timeout" in request.parameters:
            timeout_us = _whole_number(request, "timeout")
            if timeout_us:
                deadlines.append(self._scope.clock_ns() + timeout_us * 1000)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)


def _tensor_metadata(
    tensor: model_config_pb2.ModelInput | model_config_pb2.ModelOutput,
    config: model_config_pb2.ModelConfig,
) -> service_pb2.ModelMetadataResponse.TensorMetadata:
    datatype = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    batch = [-1] if config.max_batch_size > 0 else []
    return service_pb2.ModelMetadataResponse.TensorMetadata(
        name=tensor.name,
        datatype="BYTES" if datatype == "STRING" else datatype,
        shape=[*batch, *tensor.dims],
    )


def _check_parameters(request: service_pb2.ModelInferRequest) -> None:
    for name in request.parameters:
        if name.startswith("triton_") and name not in ACCEPTED_TRITON_PARAMETERS:
            raise InvalidArgument("parameters", f"{name!r} is reserved and not known here")
        if name in SEQUENCE_PARAMETERS:
            value = request.parameters[name]
            if getattr(value, value.WhichOneof("parameter_choice") or "bool_param"):
                raise Unsupported(f"parameters: {name!r}: sequences are not offered")


def _check_outputs(request: service_pb2.ModelInferRequest) -> None:
    for index, output in enumerate(request.outputs):
        if output.name != OUTPUT:
            raise InvalidArgument(
                f"outputs[{index}].name", f"{output.name!r} is unknown; the model has {OUTPUT!r}"
            )
        for name in ("classification", "shared_memory_region"):
            if name in output.parameters:
                raise Unsupported(f"outputs[{index}]: {name} is not offered by this server")


def _whole_number(request: service_pb2.ModelInferRequest, name: str) -> int:
    value = request.parameters[name]
    kind = value.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param") or getattr(value, kind) < 0:
        raise InvalidArgument("parameters", f"{name!r} must be a whole number >= 0")
    return int(getattr(value, kind))


def _claimed_rows(request: service_pb2.ModelInferRequest, served: ServedModel) -> int:
    """Return the batch size that the shapes claim, within the model's limit."""
    rows = max((tensor.shape[0] for tensor in request.inputs if tensor.shape), default=0)
    limit = served.text.proto.max_batch_size
    if rows > limit:
        name = served.text.ref.name
        raise InvalidArgument("inputs", f"have {rows} rows; max_batch_size of {name!r} is {limit}")
    return max(rows, 1)


def _texts(tensor: NDArray[Any]) -> list[str]:
    if tensor.dtype != object or tensor.ndim not in (1, 2) or tensor.shape[1:] not in ((), (1,)):
        raise InvalidArgument(
            f"input {TEXT!r}", f"must be BYTES of the shape [N, 1], not {list(tensor.shape)}"
        )
    texts = []
    for index, element in enumerate(tensor.ravel()):
        try:
            texts.append(element.decode())
        except UnicodeDecodeError:
            raise InvalidArgument(f"input {TEXT!r}[{index}]", "is not valid UTF-8") from None
    return texts


def _sequences(inputs: Mapping[str, NDArray[Any]], served: ServedModel) -> list[TokenIds]:
    tokens = inputs[TOKENS]
    mask = inputs.get(MASK, np.ones_like(tokens))
    for name, tensor in ((TOKENS, tokens), (MASK, mask)):
        if tensor.dtype.kind not in "iu" or tensor.ndim != 2:
            raise InvalidArgument(f"input {name!r}", "must be INT64 of the shape [N, T]")
    if mask.shape != tokens.shape:
        raise InvalidArgument(
            f"input {MASK!r}",
            f"has the shape {list(mask.shape)}; {TOKENS!r} has {list(tokens.shape)}",
        )
    vocabulary = served.text.tokenizer.vocabulary_size
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < vocabulary:
        raise InvalidArgument(f"input {TOKENS!r}", f"holds ids outside 0 to {vocabulary - 1}")
    sequences = [row[kept != 0].astype(np.int64) for row, kept in zip(tokens, mask, strict=True)]
    limit = served.text.config.max_tokens
    for index, sequence in enumerate(sequences):
        if not 1 <= len(sequence) <= limit:
            raise InvalidArgument(
                f"input {TOKENS!r}[{index}]",
                f"has {len(sequence)} tokens; 1 to {limit} are allowed",
            )
    if not sequences:
        raise InvalidArgument(f"input {TOKENS!r}", "has no rows")
    return sequences
