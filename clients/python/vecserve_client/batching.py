"""How a long list is cut into requests.

Owns the limits of one request as the client keeps them. Pure. Must not know what the items are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

T = TypeVar("T")

REQUEST_BYTES: Final = 2 * 1024 * 1024
"""Bytes of items in one request; half of what gRPC servers take by default."""

REQUEST_ITEMS: Final = 1024
"""Items in one request: what the server takes by default."""

EMBED_ITEMS: Final = 128
"""Texts in one embed request: enough to fill the encoder, short enough to overlap."""

UPSERT_ROWS: Final = 256
"""Rows in one upsert request: enough to share an fsync."""

WINDOW_REQUESTS: Final = 4
"""Unanswered requests on one stream."""


def batches(
    items: Iterable[T], *, max_items: int, size_bytes: Callable[[T], int]
) -> Iterator[list[T]]:
    """Cut items into lists of at most `max_items` and `REQUEST_BYTES`, in order.

    An item that is larger than the limit travels alone: whether it is too large, the server says.
    """
    batch: list[T] = []
    filled_bytes = 0
    for item in items:
        item_bytes = size_bytes(item)
        if batch and (len(batch) == max_items or filled_bytes + item_bytes > REQUEST_BYTES):
            yield batch
            batch, filled_bytes = [], 0
        batch.append(item)
        filled_bytes += item_bytes
    if batch:
        yield batch
