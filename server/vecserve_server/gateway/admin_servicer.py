"""vecserve.v1.AdminService over gRPC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grpc import aio

from vecserve.v1 import admin_pb2, admin_pb2_grpc
from vecserve_server.gateway.call import CallScope
from vecserve_server.gateway.converters import write_model_info
from vecserve_server.observability.process import resident_bytes
from vecserve_server.services.catalog import Catalog, ServedModel
from vecserve_server.services.collections import Collections

Context = aio.ServicerContext[Any, Any]


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """Tell about models and the running server."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        collections: Collections,
        queued_rows: Callable[[], int],
        scope: CallScope,
    ) -> None:
        self._catalog = catalog
        self._collections = collections
        self._queued_rows = queued_rows
        self._scope = scope
        self._started_ns = scope.clock_ns()

    async def ListModels(
        self, request: admin_pb2.ListModelsRequest, context: Context
    ) -> admin_pb2.ListModelsResponse:
        """List the loaded models by name."""
        with self._scope.admit(request) as arrived_ns:
            reply = admin_pb2.ListModelsResponse(
                models=[self._describe(served) for served in self._catalog.all()]
            )
            return self._scope.complete(reply, request, arrived_ns)

    async def GetStats(
        self, request: admin_pb2.GetStatsRequest, context: Context
    ) -> admin_pb2.GetStatsResponse:
        """Report the server's numbers."""
        with self._scope.admit(request) as arrived_ns:
            collections = self._collections.all()
            reply = admin_pb2.GetStatsResponse(
                uptime_seconds=(self._scope.clock_ns() - self._started_ns) / 1e9,
                # This call itself is not worth reporting.
                pending_items=self._scope.admission.pending_items - 1,
                queued_rows=self._queued_rows(),
                resident_bytes=resident_bytes(),
                collection_count=len(collections),
                row_count=sum(collection.live_rows for collection in collections),
            )
            return self._scope.complete(reply, request, arrived_ns)

    def _describe(self, served: ServedModel) -> admin_pb2.Model:
        config = served.text.config
        return admin_pb2.Model(
            info=write_model_info(served.text.ref),
            dim=config.dim,
            max_tokens=config.max_tokens,
            precision=config.precision,
            engine=served.text.engine,
            instance_count=served.batcher.instance_count,
            is_default=served.text.ref.name == self._catalog.default,
            prompt_names=sorted(config.prompts),
        )
