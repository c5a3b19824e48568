"""The gRPC server: one port, all services.

Owns the assembly of servicers, health and reflection. Must not know how anything is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tritonclient.grpc import service_pb2, service_pb2_grpc

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
from vecserve_server.gateway.admin_servicer import AdminServicer
from vecserve_server.gateway.collection_servicer import CollectionServicer
from vecserve_server.gateway.embedding_servicer import EmbeddingServicer
from vecserve_server.gateway.index_servicer import IndexServicer
from vecserve_server.gateway.inference.servicer import InferenceServicer
from vecserve_server.gateway.interceptor import CallInterceptor
from vecserve_server.gateway.search_servicer import SearchServicer

SERVICES: tuple[str, ...] = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (embedding_pb2, "EmbeddingService"),
        (collection_pb2, "CollectionService"),
        (index_pb2, "IndexService"),
        (search_pb2, "SearchService"),
        (admin_pb2, "AdminService"),
        (service_pb2, "GRPCInferenceService"),
    )
)
MAX_UNSEEN_CALLS = 1 << 16


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
        host: str,
        port: int,
        max_message_bytes: int,
        max_concurrent_calls: int,
        interceptor: CallInterceptor,
    ) -> None:
        self._interceptor = interceptor
        self._server: Any = aio.server(
            interceptors=[interceptor],
            maximum_concurrent_rpcs=max_concurrent_calls,
            options=[
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.max_receive_message_length", max_message_bytes),
                # Two servers on one port would split the calls between them.
                ("grpc.so_reuseport", 0),
                # Calls that nobody has looked at yet; what is more is cancelled, without a reason.
                ("grpc.server.max_pending_requests", MAX_UNSEEN_CALLS),
                ("grpc.server.max_pending_requests_hard_limit", MAX_UNSEEN_CALLS),
                # Clients may keep idle channels alive as tritonclient does.
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            ],
        )
        self._health = health.aio.HealthServicer()
        try:
            self.port = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise ConfigError(
                f"server.port: {host}:{port} cannot be bound: "
                "it is in use, or not an address of this machine"
            ) from error

    async def start(self) -> None:
        """Listen; only health answers, NOT_SERVING."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()

    async def serve(self, servicers: Servicers) -> None:
        """Add all services and tell health checks that the server takes work."""
        self._add(servicers)
        self._interceptor.open()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def set_not_serving(self) -> None:
        """Tell health checks that the server takes no more work; cannot be taken back."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls; cancel what still runs after the grace period."""
        await self._server.stop(grace_s)

    async def _set_health(self, status: int) -> None:
        for name in (health.OVERALL_HEALTH, *SERVICES):
            await self._health.set(name, status)

    def _add(self, servicers: Servicers) -> None:
        server = self._server
        embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(servicers.embedding, server)
        collection_pb2_grpc.add_CollectionServiceServicer_to_server(servicers.collection, server)
        index_pb2_grpc.add_IndexServiceServicer_to_server(servicers.index, server)
        search_pb2_grpc.add_SearchServiceServicer_to_server(servicers.search, server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(servicers.admin, server)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicers.inference, server)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
