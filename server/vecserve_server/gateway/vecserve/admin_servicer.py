"""vecserve.v1.AdminService over gRPC."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from grpc import aio

from vecserve.v1 import admin_pb2, admin_pb2_grpc
from vecserve_server.collections.collections import Collections
from vecserve_server.gateway.common.call import CallScope
from vecserve_server.gateway.common.page_tokens import cut_page
from vecserve_server.gateway.vecserve.converters import write_model_info
from vecserve_server.observability.process import resident_bytes
from vecserve_server.services.reindexing import Progress, ReindexingService
from vecserve_server.services.upkeep import UpkeepService
from vecserve_server.serving.catalog import Catalog, ServedModel
from vecserve_server.storage.folders.snapshots import Snapshot, Unreadable

Context = aio.ServicerContext[Any, Any]
MAX_DOWN = 100

REINDEX_STATES = {
    "running": admin_pb2.REINDEX_STATE_RUNNING,
    "evaluating": admin_pb2.REINDEX_STATE_EVALUATING,
    "done": admin_pb2.REINDEX_STATE_DONE,
    "failed": admin_pb2.REINDEX_STATE_FAILED,
    "cancelled": admin_pb2.REINDEX_STATE_CANCELLED,
}


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """Tell about models and the running server; look after collections."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        collections: Collections,
        reindexing: ReindexingService,
        upkeep: UpkeepService,
        queued_rows: Callable[[], int],
        scope: CallScope,
    ) -> None:
        self._catalog = catalog
        self._collections = collections
        self._reindexing = reindexing
        self._upkeep = upkeep
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
                down_collections=islice(self._collections.down(), MAX_DOWN),
            )
            return self._scope.complete(reply, request, arrived_ns)

    async def StartReindex(
        self, request: admin_pb2.StartReindexRequest, context: Context
    ) -> admin_pb2.StartReindexResponse:
        """Begin to embed a collection anew."""
        with self._scope.admit(request):
            reindex_id = await self._reindexing.start(request.collection, request.model)
            return admin_pb2.StartReindexResponse(reindex_id=reindex_id)

    async def GetReindex(
        self, request: admin_pb2.GetReindexRequest, context: Context
    ) -> admin_pb2.GetReindexResponse:
        """Tell how far a re-index is."""
        with self._scope.admit(request):
            return _write_progress(self._reindexing.get(request.reindex_id))

    async def CancelReindex(
        self, request: admin_pb2.CancelReindexRequest, context: Context
    ) -> admin_pb2.CancelReindexResponse:
        """Stop a re-index, or take it back."""
        with self._scope.admit(request):
            await self._reindexing.cancel(request.reindex_id)
            return admin_pb2.CancelReindexResponse()

    async def CreateSnapshot(
        self, request: admin_pb2.CreateSnapshotRequest, context: Context
    ) -> admin_pb2.CreateSnapshotResponse:
        """Write a consistent copy of a collection."""
        with self._scope.admit(request):
            made = await self._upkeep.snapshot(request.collection, request.name)
            return admin_pb2.CreateSnapshotResponse(
                size_bytes=made.size_bytes, last_seq=made.last_seq, collection=made.spec.name
            )

    async def RestoreSnapshot(
        self, request: admin_pb2.RestoreSnapshotRequest, context: Context
    ) -> admin_pb2.RestoreSnapshotResponse:
        """Make a collection from a snapshot."""
        with self._scope.admit(request):
            rows = await self._upkeep.restore(request.name, request.collection)
            return admin_pb2.RestoreSnapshotResponse(row_count=rows)

    async def ListSnapshots(
        self, request: admin_pb2.ListSnapshotsRequest, context: Context
    ) -> admin_pb2.ListSnapshotsResponse:
        """List snapshots, a page at a time."""
        with self._scope.admit(request):
            found = await self._upkeep.snapshots()
            page, token = cut_page(
                "snapshots", found, page_size=request.page_size, page_token=request.page_token
            )
            return admin_pb2.ListSnapshotsResponse(
                snapshots=[_write_snapshot(name, found[name]) for name in page],
                next_page_token=token,
            )

    async def DeleteSnapshot(
        self, request: admin_pb2.DeleteSnapshotRequest, context: Context
    ) -> admin_pb2.DeleteSnapshotResponse:
        """Delete a snapshot."""
        with self._scope.admit(request):
            await self._upkeep.delete_snapshot(request.name)
            return admin_pb2.DeleteSnapshotResponse()

    async def CompactCollection(
        self, request: admin_pb2.CompactCollectionRequest, context: Context
    ) -> admin_pb2.CompactCollectionResponse:
        """Rewrite a collection's files without deleted rows."""
        with self._scope.admit(request):
            freed = await self._upkeep.compact(request.collection)
            return admin_pb2.CompactCollectionResponse(freed_bytes=freed)

    async def VerifyCollection(
        self, request: admin_pb2.VerifyCollectionRequest, context: Context
    ) -> admin_pb2.VerifyCollectionResponse:
        """Check a collection."""
        with self._scope.admit(request):
            checked = await self._upkeep.verify(request.collection, repairs=request.repair)
            return admin_pb2.VerifyCollectionResponse(
                row_count=checked.row_count,
                problems=checked.problems,
                repaired=checked.repaired,
                has_damaged_rows=checked.has_damaged_rows or checked.has_lost_rows,
            )

    def _describe(self, served: ServedModel) -> admin_pb2.Model:
        config = served.text.config
        return admin_pb2.Model(
            info=write_model_info(served.text.ref),
            dim=config.dim,
            max_tokens=config.max_tokens,
            precision=config.precision,
            engine=served.text.engine,
            instance_count=served.compute.instance_count,
            is_default=served.text.ref.name == self._catalog.default,
            prompt_names=sorted(config.prompts),
        )


def _write_snapshot(name: str, found: Snapshot | Unreadable) -> admin_pb2.Snapshot:
    if isinstance(found, Unreadable):
        return admin_pb2.Snapshot(name=name, problem=found.reason)
    return admin_pb2.Snapshot(
        name=name,
        collection=found.spec.name,
        size_bytes=found.size_bytes,
        last_seq=found.last_seq,
    )


def _write_progress(progress: Progress) -> admin_pb2.GetReindexResponse:
    reindex = progress.reindex
    return admin_pb2.GetReindexResponse(
        state=REINDEX_STATES[reindex.state],
        done_rows=progress.done_rows,
        total_rows=progress.total_rows,
        message=reindex.message,
        collection=progress.collection,
        model=write_model_info(reindex.generation.model),
        self_hit_rate=reindex.self_hit_rate,
        overlap_at_10=reindex.overlap,
    )
