"""What every servicer of our API shares: the door, the clock and the deadline.

Owns the start and the end of a call. Must not know any single method.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from grpc import aio

from vecserve_server.domain import Timings
from vecserve_server.observability.metrics import Metrics
from vecserve_server.services.admission import Admission


@dataclass(frozen=True, slots=True, kw_only=True)
class CallScope:
    """Dependencies of a servicer that are not its use case."""

    admission: Admission
    metrics: Metrics
    clock_ns: Callable[[], int]
    closing: asyncio.Event
    """Set when the server begins to drain: streams end."""
    stream_window: int

    @contextmanager
    def admit(self, items: int) -> Iterator[int]:
        """Come in with so many items; yields the monotonic time of arrival."""
        with self.admission.admit(max(1, items)):
            yield self.clock_ns()

    def deadline_ns(self, context: aio.ServicerContext[Any, Any]) -> int | None:
        """Return the monotonic time at which the client stops waiting."""
        remaining_s = context.time_remaining()
        # Without a deadline grpc reports one that is centuries away.
        if remaining_s is None or remaining_s > 1e6:
            return None
        return self.clock_ns() + int(remaining_s * 1e9)

    def timings(self, arrived_ns: int, **stages_us: int) -> Timings:
        """Close the account of a call and record its stages."""
        for stage, duration_us in stages_us.items():
            if duration_us:
                name = stage.removesuffix("_us")
                self.metrics.stage_seconds.labels(stage=name).observe(duration_us / 1e6)
        return Timings(**stages_us, total_us=(self.clock_ns() - arrived_ns) // 1000)
