"""Replies on their way out: how much of them no client has read yet.

Owns the bounds, of all connections and of each. A call is over for the services when its reply is
made; gRPC keeps the reply until the client takes it, for ever where it never does. Who has nothing
unread always gets a small reply, whatever others leave lying. Must not know methods. Loop only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from grpc import aio

from vecserve_server.errors import Overloaded
from vecserve_server.observability.metrics import Metrics

RETRY_AFTER_MS = 500
SMALL_BYTES = 256 * 1024
SHARE = 4
"""A connection may leave a quarter of what all may."""


@dataclass(slots=True)
class _Unread:
    replies: int = 0
    size_bytes: int = 0


class Departures:
    """Counts replies from when they are made until they are sent."""

    def __init__(self, *, max_bytes: int, max_replies: int, metrics: Metrics) -> None:
        """Let all connections together leave `max_bytes`, and one of them `max_replies`."""
        self._max_bytes = max_bytes
        self._max_replies = max_replies
        self._size_bytes = 0
        self._by_connection: dict[str, _Unread] = {}
        self._rejected = metrics.rejected.labels(reason="unread")
        metrics.unread_bytes.set_function(lambda: self._size_bytes)

    def hold(self, context: aio.ServicerContext[Any, Any], size_bytes: int) -> None:
        """Count a unary call's reply until gRPC has ended the call. Raises Overloaded."""
        connection = context.peer()
        self._add(connection, size_bytes)

        def ended(_: object) -> None:
            self._drop(connection, size_bytes)

        tell: Any = context.add_done_callback
        tell(ended)

    @contextmanager
    def holding(self, context: aio.ServicerContext[Any, Any], size_bytes: int) -> Iterator[None]:
        """Count a reply of a stream while it is being sent. Raises Overloaded."""
        connection = context.peer()
        self._add(connection, size_bytes)
        try:
            yield
        finally:
            self._drop(connection, size_bytes)

    def _add(self, connection: str, size_bytes: int) -> None:
        unread = self._by_connection.get(connection)
        if unread is not None:
            self._check_share(unread, size_bytes)
        if (
            self._size_bytes
            and self._size_bytes + size_bytes > self._max_bytes
            and (unread is not None or size_bytes > SMALL_BYTES)
        ):
            self._refuse(f"{self._size_bytes} bytes of replies are unread", self._max_bytes)
        if unread is None:
            unread = self._by_connection[connection] = _Unread()
        unread.replies += 1
        unread.size_bytes += size_bytes
        self._size_bytes += size_bytes

    def _drop(self, connection: str, size_bytes: int) -> None:
        unread = self._by_connection[connection]
        unread.replies -= 1
        unread.size_bytes -= size_bytes
        self._size_bytes -= size_bytes
        if not unread.replies:
            del self._by_connection[connection]

    def _check_share(self, unread: _Unread, size_bytes: int) -> None:
        if unread.size_bytes + size_bytes > self._max_bytes // SHARE:
            self._refuse(
                f"{unread.size_bytes} bytes of replies are unread on this connection, which may "
                "leave a quarter of all",
                self._max_bytes,
            )
        if unread.replies >= self._max_replies:
            self._rejected.inc()
            raise Overloaded(
                f"{unread.replies} replies are unread on this connection; "
                f"server.max_connection_calls = {self._max_replies}",
                retry_after_ms=RETRY_AFTER_MS,
            )

    def _refuse(self, found: str, limit_bytes: int) -> None:
        self._rejected.inc()
        raise Overloaded(
            f"{found}; server.max_unread_bytes = {limit_bytes}: read replies, or ask for less",
            retry_after_ms=RETRY_AFTER_MS,
        )
