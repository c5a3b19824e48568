"""A model that returns its inputs, behind the whole inference service, in this process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from grpc import aio

from vecserve.inference import model_config_pb2, service_pb2_grpc
from vecserve_server.domain.models import ModelEntry, ModelState
from vecserve_server.domain.tensors import TensorReply, TensorRequest
from vecserve_server.domain.timings import Timings
from vecserve_server.errors import InvalidArgument, NotFound
from vecserve_server.gateway.common.admission import Admission
from vecserve_server.gateway.common.call import CallScope
from vecserve_server.gateway.common.doors import Doors, make_doors
from vecserve_server.gateway.common.failures import Failures
from vecserve_server.gateway.common.interceptor import CallInterceptor
from vecserve_server.gateway.kserve.servicer import InferenceServicer
from vecserve_server.gateway.kserve.shared_memory import SHARED_MEMORY_FOLDER, SharedMemoryRegions
from vecserve_server.observability.metrics import make_metrics
from vecserve_server.observability.model_statistics import ModelStatistics, VersionStatistics
from vecserve_server.services.inference import InferenceService, TensorModel
from vecserve_server.settings.server_settings import ServerSettings
from vecserve_server.settings.settings import LimitSettings

NUMBERS = (
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "BF16"),
)
DATATYPES = (*NUMBERS, "BYTES")
MAX_BATCH_SIZE = 8
STREAM_WINDOW = 4


def echo_config(max_batch_size: int = MAX_BATCH_SIZE) -> model_config_pb2.ModelConfig:
    """One optional input of each datatype, one output `OUT_…` for each."""
    tensors = []
    for datatype in DATATYPES:
        kind = "STRING" if datatype == "BYTES" else datatype
        tensors.append(
            f'input {{ name: "{datatype}" data_type: TYPE_{kind} dims: [-1] optional: true }}'
            f'output {{ name: "OUT_{datatype}" data_type: TYPE_{kind} dims: [-1] }}'
        )
    text = f'name: "echo" backend: "test" max_batch_size: {max_batch_size} {" ".join(tensors)}'
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@dataclass(kw_only=True)
class EchoModel:
    """Returns each input as the output of its datatype, once `gate` is open."""

    name: str = "echo"
    version: str = "1"
    config: model_config_pb2.ModelConfig = field(default_factory=echo_config)
    unlisted_inputs: Sequence[model_config_pb2.ModelInput] = ()
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    requests: list[TensorRequest] = field(default_factory=list)
    arrived: asyncio.Queue[TensorRequest] = field(default_factory=asyncio.Queue)
    left: asyncio.Queue[TensorRequest] = field(default_factory=asyncio.Queue)
    failure: Exception | None = None

    async def infer(self, request: TensorRequest) -> TensorReply:
        self.requests.append(request)
        self.arrived.put_nowait(request)
        if self.failure is not None:
            raise self.failure
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.left.put_nowait(request)
            raise
        outputs = {f"OUT_{name}": tensor for name, tensor in request.inputs.items()}
        for name in set(request.outputs).difference(outputs):
            raise InvalidArgument(("inputs", name.removeprefix("OUT_")), "is missing")
        return TensorReply(outputs=outputs, times=Timings())


@dataclass(kw_only=True)
class OneModel:
    """The face of one model, which writes down what it is asked."""

    model: EchoModel
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    load_failure: Exception | None = None

    async def index(self, ready_only: bool) -> list[ModelEntry]:
        broken = ModelEntry("broken", "", ModelState.UNAVAILABLE, "no model file")
        ready = ModelEntry(self.model.name, self.model.version, ModelState.READY, "")
        return [ready] if ready_only else [broken, ready]

    async def load(
        self,
        name: str,
        config_json: str | None = None,
        files: MutableMapping[str, bytes] | None = None,
    ) -> None:
        self.asked.append(("load", name, config_json, files))
        if self.load_failure is not None:
            raise self.load_failure

    async def unload(self, name: str, unload_dependents: bool) -> None:
        self.asked.append(("unload", name, unload_dependents))

    async def statistics(self, name: str, version: str) -> list[VersionStatistics]:
        self.asked.append(("statistics", name, version))
        counted = ModelStatistics(wall_clock_ms=int)
        counted.executed(3, 0, 0, 0)
        return [VersionStatistics("echo", "1", counted)]

    @contextmanager
    def lease(self, name: str, version: str) -> Iterator[TensorModel]:
        if not self.is_ready(name, version):
            raise NotFound(f"model: {name!r} is not loaded")
        yield self.model

    def is_ready(self, name: str, version: str) -> bool:
        return name == self.model.name and version in ("", self.model.version)


@dataclass(frozen=True, kw_only=True)
class EchoServer:
    """Where the service listens, and its parts."""

    target: str
    model: EchoModel
    control: OneModel
    closing: asyncio.Event
    admission: Admission


def echo_scope(closing: asyncio.Event) -> CallScope:
    metrics = make_metrics()
    return CallScope(
        admission=Admission(max_pending_items=64, max_pending_bytes=1 << 24, metrics=metrics),
        metrics=metrics,
        failures=Failures(logger=logging.getLogger("vecserve.test")),
        clock_ns=time.perf_counter_ns,
        closing=closing,
        stream_window=STREAM_WINDOW,
    )


def echo_regions(
    scope: CallScope, folder: Path = SHARED_MEMORY_FOLDER, **bounds: Any
) -> SharedMemoryRegions:
    wanted = {"offered": True, "max_regions": 64, "max_bytes": 1 << 30} | bounds
    return SharedMemoryRegions(metrics=scope.metrics, folder=folder, **wanted)


def echo_doors(scope: CallScope, **settings: Any) -> Doors:
    return make_doors(
        ServerSettings(**settings),
        limits=LimitSettings(max_items_per_call=64),
        unpack_pool=ThreadPoolExecutor(1),
        metrics=scope.metrics,
    )


@asynccontextmanager
async def echo_server(
    model: EchoModel, *, logs_tensor_values: bool = False, **settings: Any
) -> AsyncIterator[EchoServer]:
    """Serve a model on a free port, with settings of the section `server`."""
    closing = asyncio.Event()
    scope, control = echo_scope(closing), OneModel(model=model)
    interceptor = CallInterceptor(
        metrics=scope.metrics,
        failures=scope.failures,
        clock_ns=scope.clock_ns,
        doors=echo_doors(scope, **settings),
    )
    server: Any = aio.server(
        interceptors=[interceptor],
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.per_message_decompression", 0),
        ],
    )
    port = server.add_insecure_port("127.0.0.1:0")
    servicer: Any = InferenceServicer(
        service=InferenceService(models=control),
        scope=scope,
        regions=echo_regions(scope),
        logs_tensor_values=logs_tensor_values,
    )
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    interceptor.open()
    await server.start()
    try:
        yield EchoServer(
            target=f"127.0.0.1:{port}",
            model=model,
            control=control,
            closing=closing,
            admission=scope.admission,
        )
    finally:
        await server.stop(0)
