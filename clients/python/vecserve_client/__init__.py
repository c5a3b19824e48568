"""The vecserve client: `Client`, `AsyncClient`, and what they take and return."""

from __future__ import annotations

from vecserve_client import filters
from vecserve_client.aio import AsyncClient
from vecserve_client.client import Client
from vecserve_client.conditions import Where
from vecserve_client.errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Overloaded,
    PermissionDenied,
    ServerError,
    Unavailable,
    Unimplemented,
    VecserveError,
)
from vecserve_client.retry import RetryPolicy
from vecserve_client.searches import Query, ReciprocalRank, WeightedSum
from vecserve_client.types import (
    Alias,
    Classification,
    Collection,
    EmbedOptions,
    EmbedResult,
    Fields,
    GetResult,
    Hit,
    LabelScore,
    Model,
    ModelRef,
    Record,
    Reindex,
    Row,
    SearchResult,
    Snapshot,
    Timings,
    UpsertBatch,
    UpsertResult,
    Verification,
)

__all__ = [
    "Alias",
    "AlreadyExists",
    "AsyncClient",
    "Cancelled",
    "Classification",
    "Client",
    "Collection",
    "DeadlineExceeded",
    "EmbedOptions",
    "EmbedResult",
    "FailedPrecondition",
    "Fields",
    "GetResult",
    "Hit",
    "InvalidArgument",
    "LabelScore",
    "Model",
    "ModelRef",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "Query",
    "ReciprocalRank",
    "Record",
    "Reindex",
    "RetryPolicy",
    "Row",
    "SearchResult",
    "ServerError",
    "Snapshot",
    "Timings",
    "Unavailable",
    "Unimplemented",
    "UpsertBatch",
    "UpsertResult",
    "VecserveError",
    "Verification",
    "WeightedSum",
    "Where",
    "filters",
]
