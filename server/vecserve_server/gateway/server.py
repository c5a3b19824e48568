"""The gRPC server: one port, all services.

Owns the assembly of servicers, health and reflection. Must not know how anything is computed.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from google.rpc import error_details_pb2
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from vecserve.inference import service_pb2, service_pb2_grpc
from vecserve.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    collection_pb2,
    collection_pb2_grpc,
    embedding_pb2,
    embedding_pb2_grpc,
    index_pb2,
    index_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)
from vecserve_server.errors import ConfigError
from vecserve_server.gateway.common.doors import make_doors
from vecserve_server.gateway.common.failures import Failures
from vecserve_server.gateway.common.health import HealthServicer
from vecserve_server.gateway.common.interceptor import CallInterceptor
from vecserve_server.gateway.common.reflection import gathered
from vecserve_server.gateway.kserve.servicer import InferenceServicer
from vecserve_server.gateway.vecserve.admin_servicer import AdminServicer
from vecserve_server.gateway.vecserve.collection_servicer import CollectionServicer
from vecserve_server.gateway.vecserve.embedding_servicer import EmbeddingServicer
from vecserve_server.gateway.vecserve.index_servicer import IndexServicer
from vecserve_server.gateway.vecserve.search_servicer import SearchServicer
from vecserve_server.observability.metrics import Metrics
from vecserve_server.settings.server_settings import ServerSettings
from vecserve_server.settings.settings import LimitSettings

API = (embedding_pb2, collection_pb2, index_pb2, search_pb2, admin_pb2, service_pb2)
SERVICES: tuple[str, ...] = tuple(
    service.full_name for module in API for service in module.DESCRIPTOR.services_by_name.values()
)
DESCRIBED = (*API, health_pb2, reflection_pb2, error_details_pb2)
"""What reflection tells of: the services, and what the details of an error are made of."""
MAX_UNSEEN_CALLS = 1 << 16
KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 60_000, 20_000
"""A client that does not answer within the second, asked after the first, is gone."""
NO_LIMIT = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Servicers:
    """One servicer for each service."""

    embedding: EmbeddingServicer
    collection: CollectionServicer
    index: IndexServicer
    search: SearchServicer
    admin: AdminServicer
    inference: InferenceServicer


class GrpcServer:
    """The listening server with its health."""

    def __init__(
        self,
        *,
        settings: ServerSettings,
        interceptor: CallInterceptor,
    ) -> None:
        self._interceptor = interceptor
        self._server: Any = aio.server(interceptors=[interceptor], options=_options(settings))
        self._health = HealthServicer(SERVICES)
        address = f"{settings.host}:{settings.port}"
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ConfigError(
                f"server.port: {address} cannot be bound: "
                "it is in use, or not an address of this machine"
            ) from error

    async def start(self) -> None:
        """Listen; only health answers, NOT_SERVING."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        await self._server.start()

    async def serve(self, servicers: Servicers) -> None:
        """Add all services and tell health checks that the server takes work."""
        self._add(servicers)
        self._interceptor.open()
        self._health.set(serving=True)

    async def set_not_serving(self) -> None:
        """Tell health checks that the server takes no more work; cannot be taken back."""
        self._health.set(serving=False)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls; cancel what still runs after the grace period."""
        await self._server.stop(grace_s)

    def _add(self, servicers: Servicers) -> None:
        server = _Registry(self._server.add_generic_rpc_handlers)
        added: tuple[tuple[Callable[..., None], object], ...] = (
            (embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server, servicers.embedding),
            (collection_pb2_grpc.add_CollectionServiceServicer_to_server, servicers.collection),
            (index_pb2_grpc.add_IndexServiceServicer_to_server, servicers.index),
            (search_pb2_grpc.add_SearchServiceServicer_to_server, servicers.search),
            (admin_pb2_grpc.add_AdminServiceServicer_to_server, servicers.admin),
            (service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server, servicers.inference),
            (reflection_pb2_grpc.add_ServerReflectionServicer_to_server, self._reflection()),
        )
        for add, servicer in added:
            add(servicer, server)

    def _reflection(self) -> reflection.aio.ReflectionServicer:
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        pool = gathered(module.DESCRIPTOR for module in DESCRIBED)
        return reflection.aio.ReflectionServicer(names, pool)


def open_server(
    settings: ServerSettings,
    limits: LimitSettings,
    *,
    unpack_pool: Executor,
    metrics: Metrics,
    failures: Failures,
    clock_ns: Callable[[], int],
) -> GrpcServer:
    """Bind the port, with doors and an interceptor before it. Raises ConfigError."""
    doors = make_doors(settings, limits=limits, unpack_pool=unpack_pool, metrics=metrics)
    interceptor = CallInterceptor(
        metrics=metrics, failures=failures, clock_ns=clock_ns, doors=doors
    )
    return GrpcServer(settings=settings, interceptor=interceptor)


@dataclass(frozen=True, slots=True)
class _Registry:
    """Takes the handlers of a service for a server that has started.

    Handlers that are registered by method are for servers that have not, and gRPC warns of them.
    """

    add_generic_rpc_handlers: Callable[..., None]

    def add_registered_method_handlers(self, *_: object) -> None:
        """Leave them out: the generic ones do the same."""


def max_connections(settings: ServerSettings) -> int:
    """Return how many connections are let in: half of the file descriptors are for other things."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(settings.max_connections, descriptors // 2))


def _options(settings: ServerSettings) -> list[tuple[str, int]]:
    """Return what gRPC itself keeps to."""
    handshake_ms = _milliseconds(settings.handshake_timeout_s)
    return [
        ("grpc.max_send_message_length", NO_LIMIT),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        # They are unpacked where it is known how many there are.
        ("grpc.per_message_decompression", 0),
        # Two servers on one port would split the calls between them.
        ("grpc.so_reuseport", 0),
        # Calls that nobody has looked at yet; what is more is cancelled, without a reason.
        ("grpc.server.max_pending_requests", MAX_UNSEEN_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", MAX_UNSEEN_CALLS),
        # Clients may keep idle channels alive as tritonclient does.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5000),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.max_allowed_incoming_connections", max_connections(settings)),
        ("grpc.server_handshake_timeout_ms", handshake_ms),
        ("grpc.http2.settings_timeout", handshake_ms),
        ("grpc.max_connection_idle_ms", _milliseconds(settings.max_connection_idle_s)),
        # Without a period of grace, so calls that are open at that moment go on.
        ("grpc.max_connection_age_ms", _milliseconds(settings.max_connection_age_s)),
    ]


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
