"""Requests that are drawn from asynchronous sources.

Owns the cutting of a source into requests. Must not know channels, time or retries.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import TypeVar

from vecserve.v1.index_pb2 import UpsertRequest
from vecserve_client import calls
from vecserve_client.arguments import AnyRecord
from vecserve_client.types import EmbedOptions

T = TypeVar("T")


async def as_async(items: Iterable[T]) -> AsyncIterator[T]:
    """Iterate without waiting."""
    for item in items:
        yield item


async def upsert_requests(
    collection: str,
    records: Iterable[AnyRecord] | AsyncIterable[AnyRecord],
    *,
    options: EmbedOptions | None,
    batch_rows: int,
    skip_unchanged: bool,
) -> AsyncIterator[UpsertRequest]:
    """Cut records into requests, as `calls.upsert_requests` does, while they are drawn."""
    position = 0
    async for chunk in _chunks(records, batch_rows):
        for request in calls.upsert_requests(
            collection,
            chunk,
            options=options,
            batch_rows=batch_rows,
            skip_unchanged=skip_unchanged,
            start=position,
        ):
            yield request
        position += len(chunk)


async def _chunks(
    records: Iterable[AnyRecord] | AsyncIterable[AnyRecord], size: int
) -> AsyncIterator[list[AnyRecord]]:
    chunk: list[AnyRecord] = []
    async for record in records if isinstance(records, AsyncIterable) else as_async(records):
        chunk.append(record)
        if len(chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
