"""What every servicer of our API shares: the door, the clock, the deadline and failures in streams.

Owns the start and the end of a call. Must not know any single method.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message
from grpc import aio

from vecserve.v1 import common_pb2, embedding_pb2
from vecserve_server.domain.caller import Caller
from vecserve_server.domain.timings import Timings
from vecserve_server.domain.validation import check_count, check_request_id
from vecserve_server.errors import InvalidArgument
from vecserve_server.gateway.common.admission import Admission
from vecserve_server.gateway.common.failures import Failures
from vecserve_server.gateway.common.status_table import Dialect, code_number
from vecserve_server.gateway.common.streams import answer_stream
from vecserve_server.gateway.vecserve.filters import ANY_SIZE, FilterLimits
from vecserve_server.observability.metrics import Metrics


class TimedReply(Protocol):
    """Any reply of our API."""

    request_id: str

    @property
    def timings(self) -> common_pb2.Timings:
        """Where the time went."""
        ...


Reply = TypeVar("Reply", bound=TimedReply)
StreamReply = TypeVar("StreamReply", bound=Message)


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
    max_items_per_call: int
    filter_limits: FilterLimits = ANY_SIZE

    @contextmanager
    def admit(self, request: Message, *, items: int = 1, field: str | None = None) -> Iterator[int]:
        """Come in with a request; yields the monotonic time of arrival.

        `items` is the length of its batch field, which must be 1 to `max_items_per_call`: a batch
        that could never come in is refused for good.
        """
        if field is not None:
            check_count(field, items, limit=self.max_items_per_call)
        check_request_id(getattr(request, "request_id", ""))
        with self.admission.admit(items, size_bytes=request.ByteSize()):
            yield self.clock_ns()

    def deadline_ns(self, context: aio.ServicerContext[Any, Any]) -> int | None:
        """Return the monotonic time at which the client stops waiting."""
        remaining_s = context.time_remaining()
        # Without a deadline grpc reports one that is centuries away.
        if remaining_s is None or remaining_s > 1e6:
            return None
        return self.clock_ns() + int(remaining_s * 1e9)

    def caller(self, context: aio.ServicerContext[Any, Any]) -> Caller:
        """Tell who calls, and until when it waits."""
        return Caller(deadline_ns=self.deadline_ns(context))

    def complete(
        self, reply: Reply, request: Any, arrived_ns: int, timings: Timings | None = None
    ) -> Reply:
        """Put the request's id and where its time went into the reply; record the stages."""
        stages = _stages_ns(timings) if timings is not None else {}
        for stage, duration_ns in stages.items():
            if duration_ns:
                self.metrics.stage_seconds.labels(stage=stage).observe(duration_ns / 1e9)
        total_us = (self.clock_ns() - arrived_ns) // 1000
        reply.request_id = request.request_id
        stages_us = {f"{stage}_us": duration_ns // 1000 for stage, duration_ns in stages.items()}
        reply.timings.CopyFrom(common_pb2.Timings(**stages_us, total_us=total_us))
        return reply

    def answer_each(
        self,
        method: str,
        messages: AsyncIterator[Any],
        answer: Callable[[Any], Awaitable[Message]],
        reply_type: Callable[..., StreamReply],
    ) -> AsyncIterator[StreamReply]:
        """Answer the request in each message of a stream; where one fails, the stream goes on."""

        async def reply(message: Any) -> StreamReply:
            request = message.request
            try:
                _require_request_id(request.request_id)
                return reply_type(response=await answer(request))
            except Exception as error:  # noqa: BLE001 - whatever it is, the others do not fail
                status = self.failures.wire_status(method, error, Dialect.VECSERVE)
                return reply_type(
                    error=embedding_pb2.StreamError(
                        request_id=request.request_id,
                        code=code_number(status.code),
                        message=status.message,
                    )
                )

        return answer_stream(messages, reply, window=self.stream_window, closing=self.closing)


def _stages_ns(timings: Timings) -> dict[str, int]:
    """Name the stages as our API does."""
    return {
        "queue": timings.queue_ns,
        "tokenise": timings.compute_input_ns,
        "encode": timings.compute_infer_ns,
        "search": timings.search_ns,
        "write": timings.write_ns,
    }


def _require_request_id(request_id: str) -> None:
    """Refuse a message of a stream that cannot be told from the others."""
    if not request_id:
        raise InvalidArgument("request.request_id", "is empty; a stream needs one for each message")
