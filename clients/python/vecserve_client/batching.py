"""How a long list is cut into requests.

Owns the limits of one request as the client keeps them. Pure. Must not know what the items are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from vecserve_client.errors import InvalidArgument

T = TypeVar("T")

MESSAGE_BYTES: Final = 32 * 1024 * 1024
"""Largest message to send: what the server takes by default."""

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
    items: Iterable[T],
    *,
    name: str,
    max_items: int,
    size_bytes: Callable[[T], int],
    start: int = 0,
) -> Iterator[list[T]]:
    """Cut items into lists of at most `max_items` and `REQUEST_BYTES`, in order.

    An item that is larger than `REQUEST_BYTES` travels alone: whether it is too large, the server
    says. Raises InvalidArgument for an item that no message holds; `name` and the item's position,
    counted from `start`, tell which.
    """
    batch: list[T] = []
    filled_bytes = 0
    for position, item in enumerate(items, start):
        item_bytes = size_bytes(item)
        check_size(f"{name}[{position}]", item_bytes)
        if batch and (len(batch) == max_items or filled_bytes + item_bytes > REQUEST_BYTES):
            yield batch
            batch, filled_bytes = [], 0
        batch.append(item)
        filled_bytes += item_bytes
    if batch:
        yield batch


def check_size(name: str, size_bytes: int, *, limit_bytes: int = MESSAGE_BYTES) -> None:
    """Raise InvalidArgument for what is too large for one message."""
    if size_bytes > limit_bytes:
        raise InvalidArgument(
            f"{name}: has {size_bytes} bytes; the limit of one message is {limit_bytes}"
        )
