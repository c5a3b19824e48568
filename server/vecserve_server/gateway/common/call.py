"""What the servicers of both protocols share: the door, the clock, and failures in streams.

Owns the start of a call. Must not know any single method, nor a protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from google.protobuf.message import Message

from vecserve_server.gateway.common.admission import Admission
from vecserve_server.gateway.common.failures import Failures
from vecserve_server.observability.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class CallScope:
    """Dependencies of a servicer that are not its use case."""

    admission: Admission
    metrics: Metrics
    failures: Failures
    clock_ns: Callable[[], int]
    closing: asyncio.Event
    """Set when the server begins to drain: streams end."""
    stream_window: int

    @contextmanager
    def admit(self, request: Message, *, items: int = 1) -> Iterator[int]:
        """Come in with a request of so many items; yields the monotonic time of arrival."""
        with self.admission.admit(items, size_bytes=request.ByteSize()):
            yield self.clock_ns()
