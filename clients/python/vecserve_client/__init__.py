"""The vecserve client: `Client`, `AsyncClient`, and what they take and return."""

from __future__ import annotations

from vecserve_client import filters
from vecserve_client.aio import AsyncClient
from vecserve_client.client import Client
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
    Collection,
    EmbedOptions,
    EmbedResult,
    Fields,
    GetResult,
    Hit,
    Model,
    ModelRef,
    Record,
    Row,
    SearchResult,
    Timings,
    UpsertBatch,
    UpsertResult,
)

__all__ = [
    "AlreadyExists",
    "AsyncClient",
    "Cancelled",
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
    "Model",
    "ModelRef",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "Query",
    "ReciprocalRank",
    "Record",
    "RetryPolicy",
    "Row",
    "SearchResult",
    "ServerError",
    "Timings",
    "Unavailable",
    "Unimplemented",
    "UpsertBatch",
    "UpsertResult",
    "VecserveError",
    "WeightedSum",
    "filters",
]
