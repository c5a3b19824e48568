"""vecserve.v1.AdminService over gRPC."""

from __future__ import annotations

from itertools import islice

from vecserve.v1 import admin_pb2
from vecserve_server.domain.snapshots import Snapshot, UnreadableSnapshot
from vecserve_server.gateway.common.callers import CallContext as Context
from vecserve_server.gateway.common.page_tokens import cut_page
from vecserve_server.gateway.vecserve.answering import Answering
from vecserve_server.gateway.vecserve.converters import write_model_info
from vecserve_server.services.reindexing import Progress, ReindexingService
from vecserve_server.services.reporting import ModelDescription, ReportingService
from vecserve_server.services.upkeep import UpkeepService

MAX_DOWN = 100

REINDEX_STATES = {
    "running": admin_pb2.REINDEX_STATE_RUNNING,
    "evaluating": admin_pb2.REINDEX_STATE_EVALUATING,
    "done": admin_pb2.REINDEX_STATE_DONE,
    "failed": admin_pb2.REINDEX_STATE_FAILED,
    "cancelled": admin_pb2.REINDEX_STATE_CANCELLED,
}


class AdminServicer:
    """Tell about models and the running server; look after collections."""

    def __init__(
        self,
        *,
        reporting: ReportingService,
        reindexing: ReindexingService,
        upkeep: UpkeepService,
        answering: Answering,
    ) -> None:
        self._reporting = reporting
        self._reindexing = reindexing
        self._upkeep = upkeep
        self._answering = answering

    async def ListModels(
        self, request: admin_pb2.ListModelsRequest, context: Context
    ) -> admin_pb2.ListModelsResponse:
        """List the loaded models by name."""
        with self._answering.admit(request) as arrived_ns:
            reply = admin_pb2.ListModelsResponse(
                models=[_write_model(model) for model in self._reporting.models(context.caller)]
            )
            return self._answering.complete(reply, request, arrived_ns)

    async def GetStats(
        self, request: admin_pb2.GetStatsRequest, context: Context
    ) -> admin_pb2.GetStatsResponse:
        """Report the server's numbers."""
        with self._answering.admit(request) as arrived_ns:
            stats = self._reporting.stats(context.caller)
            reply = admin_pb2.GetStatsResponse(
                uptime_seconds=stats.uptime_s,
                # This call itself is not worth reporting.
                pending_items=self._answering.scope.admission.pending_items - 1,
                queued_rows=stats.queued_rows,
                resident_bytes=stats.resident_bytes,
                collection_count=stats.collection_count,
                row_count=stats.row_count,
                down_collections=islice(stats.down_collections, MAX_DOWN),
            )
            return self._answering.complete(reply, request, arrived_ns)

    async def StartReindex(
        self, request: admin_pb2.StartReindexRequest, context: Context
    ) -> admin_pb2.StartReindexResponse:
        """Begin to embed a collection anew."""
        with self._answering.admit(request):
            reindex_id = await self._reindexing.start(
                request.collection, request.model, context.caller
            )
            return admin_pb2.StartReindexResponse(reindex_id=reindex_id)

    async def GetReindex(
        self, request: admin_pb2.GetReindexRequest, context: Context
    ) -> admin_pb2.GetReindexResponse:
        """Tell how far a re-index is."""
        with self._answering.admit(request):
            return _write_progress(self._reindexing.get(request.reindex_id, context.caller))

    async def CancelReindex(
        self, request: admin_pb2.CancelReindexRequest, context: Context
    ) -> admin_pb2.CancelReindexResponse:
        """Stop a re-index, or take it back."""
        with self._answering.admit(request):
            await self._reindexing.cancel(request.reindex_id, context.caller)
            return admin_pb2.CancelReindexResponse()

    async def CreateSnapshot(
        self, request: admin_pb2.CreateSnapshotRequest, context: Context
    ) -> admin_pb2.CreateSnapshotResponse:
        """Write a consistent copy of a collection."""
        with self._answering.admit(request):
            made = await self._upkeep.snapshot(request.collection, request.name, context.caller)
            return admin_pb2.CreateSnapshotResponse(
                size_bytes=made.size_bytes, last_seq=made.last_seq, collection=made.spec.name
            )

    async def RestoreSnapshot(
        self, request: admin_pb2.RestoreSnapshotRequest, context: Context
    ) -> admin_pb2.RestoreSnapshotResponse:
        """Make a collection from a snapshot."""
        with self._answering.admit(request):
            rows = await self._upkeep.restore(request.name, request.collection, context.caller)
            return admin_pb2.RestoreSnapshotResponse(row_count=rows)

    async def ListSnapshots(
        self, request: admin_pb2.ListSnapshotsRequest, context: Context
    ) -> admin_pb2.ListSnapshotsResponse:
        """List snapshots, a page at a time."""
        with self._answering.admit(request):
            found = await self._upkeep.snapshots(context.caller)
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
        with self._answering.admit(request):
            await self._upkeep.delete_snapshot(request.name, context.caller)
            return admin_pb2.DeleteSnapshotResponse()

    async def CompactCollection(
        self, request: admin_pb2.CompactCollectionRequest, context: Context
    ) -> admin_pb2.CompactCollectionResponse:
        """Rewrite a collection's files without deleted rows."""
        with self._answering.admit(request):
            freed = await self._upkeep.compact(request.collection, context.caller)
            return admin_pb2.CompactCollectionResponse(freed_bytes=freed)

    async def VerifyCollection(
        self, request: admin_pb2.VerifyCollectionRequest, context: Context
    ) -> admin_pb2.VerifyCollectionResponse:
        """Check a collection."""
        with self._answering.admit(request):
            checked = await self._upkeep.verify(
                request.collection, context.caller, repairs=request.repair
            )
            return admin_pb2.VerifyCollectionResponse(
                row_count=checked.row_count,
                problems=checked.problems,
                repaired=checked.repaired,
                has_damaged_rows=checked.has_damaged_rows or checked.has_lost_rows,
            )


def _write_model(model: ModelDescription) -> admin_pb2.Model:
    return admin_pb2.Model(
        info=write_model_info(model.ref),
        dim=model.dim,
        max_tokens=model.max_tokens,
        precision=model.precision,
        engine=model.engine,
        instance_count=model.instance_count,
        is_default=model.is_default,
        prompt_names=model.prompt_names,
    )


def _write_snapshot(name: str, found: Snapshot | UnreadableSnapshot) -> admin_pb2.Snapshot:
    if isinstance(found, UnreadableSnapshot):
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
