"""The calls of inference.GRPCInferenceService.

Owns the mapping of each call to the part that answers it. Must not know how models are loaded or
run.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import wraps
from typing import Any

from vecserve.inference import service_pb2
from vecserve_server import __version__
from vecserve_server.errors import InvalidArgument, Unsupported
from vecserve_server.gateway.common.call import CallScope
from vecserve_server.gateway.common.callers import CallContext as Context
from vecserve_server.gateway.common.status_table import Dialect
from vecserve_server.gateway.common.streams import answer_stream
from vecserve_server.gateway.kserve import repository
from vecserve_server.gateway.kserve.infer import Inference
from vecserve_server.gateway.kserve.log_levels import LogLevels, Value
from vecserve_server.gateway.kserve.metadata import EXTENSIONS, model_metadata
from vecserve_server.gateway.kserve.parameters import FINAL_RESPONSE
from vecserve_server.gateway.kserve.shared_memory import SharedMemoryRegions
from vecserve_server.gateway.kserve.statistics import statistics_message
from vecserve_server.gateway.kserve.trace_log import TraceLog
from vecserve_server.gateway.kserve.words import REWORDED, not_available, reworded
from vecserve_server.observability.logging import LOGGER_NAME, get_logger
from vecserve_server.services.inference import InferenceService

# Metadata by which a client asks that the first failure ends its stream, with a status.
STATUS_ON_ERROR = ("triton_grpc_error", "true")
STREAM_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"


Call = Callable[[Any, Any, Context], Awaitable[Any]]


def admitted(call: Call) -> Call:
    """Let a call in before anything else is done for it; for methods of the servicer."""

    @wraps(call)
    async def wrapper(self: InferenceServicer, request: Any, context: Context) -> Any:
        try:
            with self._scope.admit(request):
                return await call(self, request, context)
        except REWORDED as error:
            raise reworded(error) from error

    return wrapper


class InferenceServicer:
    """The KServe v2 / Triton protocol over every served model."""

    def __init__(
        self,
        *,
        service: InferenceService,
        scope: CallScope,
        regions: SharedMemoryRegions,
        logs_tensor_values: bool = False,
    ) -> None:
        """Let traces hold the values of tensors only where `logs_tensor_values`."""
        self._service = service
        self._scope = scope
        self._regions = regions
        self._traces = TraceLog(logger=get_logger("trace"), with_values=logs_tensor_values)
        self._log_levels = LogLevels(logging.getLogger(LOGGER_NAME))
        self._inference = Inference(
            service=service, regions=self._regions, traces=self._traces, scope=scope
        )

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
        """Tell whether a model takes work."""
        known = bool(request.name) and self._service.is_ready(
            request.name, request.version, context.caller
        )
        return service_pb2.ModelReadyResponse(ready=known and not self._scope.closing.is_set())

    @admitted
    async def ServerMetadata(
        self, request: service_pb2.ServerMetadataRequest, context: Context
    ) -> service_pb2.ServerMetadataResponse:
        """Name the server, its version and the protocol's extensions that it speaks."""
        return service_pb2.ServerMetadataResponse(
            name="vecserve", version=__version__, extensions=EXTENSIONS
        )

    @admitted
    async def ModelMetadata(
        self, request: service_pb2.ModelMetadataRequest, context: Context
    ) -> service_pb2.ModelMetadataResponse:
        """Describe a model's tensors, and name its ready versions."""
        _require_model(request.name)
        index = await self._service.index(context.caller, ready_only=True)
        ready = [entry.version for entry in index if entry.name == request.name]
        with self._service.lease(request.name, request.version, context.caller) as model:
            return model_metadata(model, [request.version] if request.version else ready)

    @admitted
    async def ModelConfig(
        self, request: service_pb2.ModelConfigRequest, context: Context
    ) -> service_pb2.ModelConfigResponse:
        """Return a model's configuration as it is in force."""
        _require_model(request.name)
        with self._service.lease(request.name, request.version, context.caller) as model:
            return service_pb2.ModelConfigResponse(config=model.config)

    @admitted
    async def ModelStatistics(
        self, request: service_pb2.ModelStatisticsRequest, context: Context
    ) -> service_pb2.ModelStatisticsResponse:
        """Return what was counted for a model, or for all."""
        try:
            counted = await self._service.statistics(request.name, request.version, context.caller)
        except InvalidArgument as error:
            raise not_available(error, request.name) from error
        return service_pb2.ModelStatisticsResponse(model_stats=map(statistics_message, counted))

    async def ModelInfer(
        self, request: service_pb2.ModelInferRequest, context: Context
    ) -> service_pb2.ModelInferResponse:
        """Infer once."""
        return await self._inference.answer(request, context.caller)

    async def ModelStreamInfer(
        self, requests: AsyncIterator[service_pb2.ModelInferRequest], context: Context
    ) -> AsyncIterator[service_pb2.ModelStreamInferResponse]:
        """Infer for each request of a stream, in order; a failure is told and the rest goes on."""
        ends_on_error = STATUS_ON_ERROR in context.metadata()

        async def answer(
            request: service_pb2.ModelInferRequest,
        ) -> service_pb2.ModelStreamInferResponse:
            try:
                response = await self._inference.answer(request, context.caller, streamed=True)
            except Exception as error:
                if ends_on_error:
                    raise
                return self._stream_failure(request, error)
            return service_pb2.ModelStreamInferResponse(infer_response=response)

        replies = answer_stream(
            requests,
            answer,
            window=self._scope.stream_window,
            closing=self._scope.closing,
            in_order=True,
        )
        async for reply in replies:
            yield reply

    @admitted
    async def RepositoryIndex(
        self, request: service_pb2.RepositoryIndexRequest, context: Context
    ) -> service_pb2.RepositoryIndexResponse:
        """List the models of the repository with their states."""
        repository.check_repository_name(request.repository_name)
        entries = await self._service.index(context.caller, ready_only=request.ready)
        return service_pb2.RepositoryIndexResponse(models=map(repository.index_entry, entries))

    @admitted
    async def RepositoryModelLoad(
        self, request: service_pb2.RepositoryModelLoadRequest, context: Context
    ) -> service_pb2.RepositoryModelLoadResponse:
        """Load or reload a model, as its files say or as the request does."""
        await repository.load(self._service, request, context.caller)
        return service_pb2.RepositoryModelLoadResponse()

    @admitted
    async def RepositoryModelUnload(
        self, request: service_pb2.RepositoryModelUnloadRequest, context: Context
    ) -> service_pb2.RepositoryModelUnloadResponse:
        """Take a model out of service."""
        await repository.unload(self._service, request, context.caller)
        return service_pb2.RepositoryModelUnloadResponse()

    @admitted
    async def SystemSharedMemoryStatus(
        self, request: service_pb2.SystemSharedMemoryStatusRequest, context: Context
    ) -> service_pb2.SystemSharedMemoryStatusResponse:
        """Describe a shared-memory region, or all."""
        status = service_pb2.SystemSharedMemoryStatusResponse
        regions = self._regions.list(request.name)
        return status(
            regions={
                region.name: status.RegionStatus(
                    name=region.name,
                    key=region.key,
                    offset=region.offset,
                    byte_size=region.size_bytes,
                )
                for region in regions
            }
        )

    @admitted
    async def SystemSharedMemoryRegister(
        self, request: service_pb2.SystemSharedMemoryRegisterRequest, context: Context
    ) -> service_pb2.SystemSharedMemoryRegisterResponse:
        """Keep a part of a POSIX shared-memory object."""
        self._regions.register(
            request.name, request.key, offset=request.offset, size_bytes=request.byte_size
        )
        return service_pb2.SystemSharedMemoryRegisterResponse()

    @admitted
    async def SystemSharedMemoryUnregister(
        self, request: service_pb2.SystemSharedMemoryUnregisterRequest, context: Context
    ) -> service_pb2.SystemSharedMemoryUnregisterResponse:
        """Forget a region, or all."""
        self._regions.unregister(request.name)
        return service_pb2.SystemSharedMemoryUnregisterResponse()

    @admitted
    async def CudaSharedMemoryStatus(
        self, request: service_pb2.CudaSharedMemoryStatusRequest, context: Context
    ) -> service_pb2.CudaSharedMemoryStatusResponse:
        """Answer that there are no regions of CUDA memory."""
        return service_pb2.CudaSharedMemoryStatusResponse()

    @admitted
    async def CudaSharedMemoryRegister(
        self, request: service_pb2.CudaSharedMemoryRegisterRequest, context: Context
    ) -> service_pb2.CudaSharedMemoryRegisterResponse:
        """Refuse."""
        raise Unsupported("CUDA shared memory is not offered by this server")

    @admitted
    async def CudaSharedMemoryUnregister(
        self, request: service_pb2.CudaSharedMemoryUnregisterRequest, context: Context
    ) -> service_pb2.CudaSharedMemoryUnregisterResponse:
        """Answer that nothing is left: perf_analyzer asks whatever memory it uses."""
        return service_pb2.CudaSharedMemoryUnregisterResponse()

    @admitted
    async def TraceSetting(
        self, request: service_pb2.TraceSettingRequest, context: Context
    ) -> service_pb2.TraceSettingResponse:
        """Set, clear and return the trace settings of a model, or of all."""
        if request.model_name:
            with self._service.lease(request.model_name, "", context.caller):
                pass  # NotFound for what is not served
        self._traces.update(
            request.model_name, {name: each.value for name, each in request.settings.items()}
        )
        response = service_pb2.TraceSettingResponse()
        for name, values in self._traces.settings(request.model_name).items():
            response.settings[name].value.extend(values)
        return response

    @admitted
    async def LogSettings(
        self, request: service_pb2.LogSettingsRequest, context: Context
    ) -> service_pb2.LogSettingsResponse:
        """Set and return which levels are logged."""
        self._log_levels.update({name: _value(each) for name, each in request.settings.items()})
        response = service_pb2.LogSettingsResponse()
        for name, value in self._log_levels.settings().items():
            kind = {bool: "bool_param", int: "uint32_param", str: "string_param"}[type(value)]
            setattr(response.settings[name], kind, value)
        return response

    def _stream_failure(
        self, request: service_pb2.ModelInferRequest, error: Exception
    ) -> service_pb2.ModelStreamInferResponse:
        status = self._scope.failures.wire_status(STREAM_METHOD, error, Dialect.TRITON)
        response = service_pb2.ModelInferResponse(
            model_name=request.model_name, model_version=request.model_version, id=request.id
        )
        response.parameters[FINAL_RESPONSE].bool_param = True
        return service_pb2.ModelStreamInferResponse(
            error_message=status.message, infer_response=response
        )


def _value(setting: service_pb2.LogSettingsRequest.SettingValue) -> Value | None:
    kind = setting.WhichOneof("parameter_choice")
    return getattr(setting, kind) if kind else None


def _require_model(name: str) -> None:
    if not name:
        raise InvalidArgument("name", "is empty")
