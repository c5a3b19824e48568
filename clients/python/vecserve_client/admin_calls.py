"""What each administrative method of the client asks for, and how it reads the answer.

Owns the requests about aliases and the life of collections, shared by both clients. Must not know
channels, time or retries.
"""

from __future__ import annotations

from typing import Final

from vecserve.v1 import admin_pb2, collection_pb2
from vecserve_client import wire
from vecserve_client.arguments import fitted
from vecserve_client.calls import Call, unary
from vecserve_client.errors import ServerError
from vecserve_client.types import Alias, Reindex, ReindexState, Snapshot, Verification

_REINDEX_STATES: Final[dict[int, ReindexState]] = {
    admin_pb2.REINDEX_STATE_RUNNING: "running",
    admin_pb2.REINDEX_STATE_EVALUATING: "evaluating",
    admin_pb2.REINDEX_STATE_DONE: "done",
    admin_pb2.REINDEX_STATE_FAILED: "failed",
    admin_pb2.REINDEX_STATE_CANCELLED: "cancelled",
}


def set_alias(name: str, collection: str) -> Call[str | None]:
    """Make or move an alias; the collection that it pointed at before."""
    return unary(
        "CollectionService/SetAlias",
        fitted(
            collection_pb2.SetAliasRequest,
            alias=collection_pb2.Alias(name=name, collection=collection),
        ),
        collection_pb2.SetAliasResponse,
        lambda reply: reply.previous_collection or None,
    )


def list_aliases_page(*, page_token: str) -> Call[tuple[list[Alias], str]]:
    """List one page of aliases, and the token of the next page ("" on the last)."""
    return unary(
        "CollectionService/ListAliases",
        fitted(collection_pb2.ListAliasesRequest, page_size=1000, page_token=page_token),
        collection_pb2.ListAliasesResponse,
        lambda reply: (
            [Alias(name=alias.name, collection=alias.collection) for alias in reply.aliases],
            reply.next_page_token,
        ),
    )


def delete_alias(name: str) -> Call[None]:
    """Remove an alias."""
    return unary(
        "CollectionService/DeleteAlias",
        fitted(collection_pb2.DeleteAliasRequest, name=name),
        collection_pb2.DeleteAliasResponse,
        lambda _: None,
    )


def start_reindex(collection: str, *, model: str) -> Call[str]:
    """Begin to embed a collection anew; the id of the re-index."""
    return unary(
        "AdminService/StartReindex",
        fitted(admin_pb2.StartReindexRequest, collection=collection, model=model),
        admin_pb2.StartReindexResponse,
        lambda reply: str(reply.reindex_id),
    )


def get_reindex(reindex_id: str) -> Call[Reindex]:
    """Return the progress of a re-index."""
    return unary(
        "AdminService/GetReindex",
        fitted(admin_pb2.GetReindexRequest, reindex_id=reindex_id),
        admin_pb2.GetReindexResponse,
        _read_reindex,
    )


def cancel_reindex(reindex_id: str) -> Call[None]:
    """Stop a re-index, or take it back."""
    return unary(
        "AdminService/CancelReindex",
        fitted(admin_pb2.CancelReindexRequest, reindex_id=reindex_id),
        admin_pb2.CancelReindexResponse,
        lambda _: None,
    )


def create_snapshot(collection: str, name: str) -> Call[Snapshot]:
    """Write a consistent copy of a collection."""
    return unary(
        "AdminService/CreateSnapshot",
        fitted(admin_pb2.CreateSnapshotRequest, collection=collection, name=name),
        admin_pb2.CreateSnapshotResponse,
        lambda reply: Snapshot(
            name=name,
            collection=reply.collection,
            size_bytes=reply.size_bytes,
            last_seq=reply.last_seq,
        ),
    )


def list_snapshots_page(*, page_token: str) -> Call[tuple[list[Snapshot], str]]:
    """List one page of snapshots, and the token of the next page ("" on the last)."""
    return unary(
        "AdminService/ListSnapshots",
        fitted(admin_pb2.ListSnapshotsRequest, page_size=1000, page_token=page_token),
        admin_pb2.ListSnapshotsResponse,
        lambda reply: (
            [
                Snapshot(
                    name=found.name,
                    collection=found.collection,
                    size_bytes=found.size_bytes,
                    last_seq=found.last_seq,
                    problem=found.problem,
                )
                for found in reply.snapshots
            ],
            reply.next_page_token,
        ),
    )


def delete_snapshot(name: str) -> Call[None]:
    """Delete a snapshot."""
    return unary(
        "AdminService/DeleteSnapshot",
        fitted(admin_pb2.DeleteSnapshotRequest, name=name),
        admin_pb2.DeleteSnapshotResponse,
        lambda _: None,
    )


def restore_snapshot(name: str, collection: str) -> Call[int]:
    """Make a collection from a snapshot; its row count."""
    return unary(
        "AdminService/RestoreSnapshot",
        fitted(admin_pb2.RestoreSnapshotRequest, name=name, collection=collection),
        admin_pb2.RestoreSnapshotResponse,
        lambda reply: int(reply.row_count),
    )


def compact_collection(collection: str) -> Call[int]:
    """Rewrite a collection's files; the bytes given back."""
    return unary(
        "AdminService/CompactCollection",
        fitted(admin_pb2.CompactCollectionRequest, collection=collection),
        admin_pb2.CompactCollectionResponse,
        lambda reply: int(reply.freed_bytes),
    )


def verify_collection(collection: str, *, repair: bool) -> Call[Verification]:
    """Check a whole collection."""
    return unary(
        "AdminService/VerifyCollection",
        fitted(admin_pb2.VerifyCollectionRequest, collection=collection, repair=repair),
        admin_pb2.VerifyCollectionResponse,
        lambda reply: Verification(
            row_count=reply.row_count,
            problems=tuple(reply.problems),
            repaired=tuple(reply.repaired),
            has_damaged_rows=reply.has_damaged_rows,
        ),
    )


def _read_reindex(reply: admin_pb2.GetReindexResponse) -> Reindex:
    if reply.state not in _REINDEX_STATES:
        raise ServerError(f"unknown state {reply.state} of a re-index", method="GetReindex")
    return Reindex(
        collection=reply.collection,
        model=wire.model_ref_from_proto(reply.model),
        state=_REINDEX_STATES[reply.state],
        done_rows=reply.done_rows,
        total_rows=reply.total_rows,
        message=reply.message,
        self_hit_rate=reply.self_hit_rate,
        overlap_at_10=reply.overlap_at_10,
    )
