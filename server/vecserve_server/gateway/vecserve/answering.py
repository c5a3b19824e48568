"""What every servicer of vecserve.v1 shares: how a call begins, and how it is answered.

Owns the fields that all requests and replies of our API have, and failures within its streams.
Must not know any single method.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from vecserve.v1 import common_pb2, embedding_pb2
from vecserve_server.domain.timings import Timings
from vecserve_server.domain.validation import check_count, check_request_id
from vecserve_server.errors import InvalidArgument
from vecserve_server.gateway.common.call import CallScope
from vecserve_server.gateway.common.status_table import Dialect, code_number
from vecserve_server.gateway.common.streams import answer_stream
from vecserve_server.gateway.vecserve.filters import ANY_SIZE, FilterLimits


class TimedReply(Protocol):
    """Any reply of our API that tells where the time went."""

    request_id: str

    @property
    def timings(self) -> common_pb2.Timings:
        """Where the time went."""
        ...


Reply = TypeVar("Reply", bound=TimedReply)
StreamReply = TypeVar("StreamReply", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """What a servicer of our API works with beside its use case."""

    scope: CallScope
    max_items_per_call: int
    filter_limits: FilterLimits = ANY_SIZE

    @contextmanager
    def admit(self, request: Message, *, items: int = 1, field: str = "") -> Iterator[int]:
        """Come in with a request; yields the monotonic time of arrival.

        `items` is the length of its batch in `field`, which must be 1 to `max_items_per_call`.
        Whether there is room is told before any mistake. A batch that could never come in asks
        for the room of the largest that could, and is then refused for good.
        """
        limit, scope = self.max_items_per_call, self.scope
        with scope.admission.admit(min(items, limit), size_bytes=request.ByteSize()):
            if field:
                check_count(field, items, limit=limit)
            check_request_id(getattr(request, "request_id", ""))
            yield scope.clock_ns()

    def complete(
        self, reply: Reply, request: Any, arrived_ns: int, timings: Timings | None = None
    ) -> Reply:
        """Put the request's id and where its time went into the reply; record the stages."""
        stages = _stages_ns(timings) if timings is not None else {}
        for stage, duration_ns in stages.items():
            if duration_ns:
                self.scope.metrics.stage_seconds.labels(stage=stage).observe(duration_ns / 1e9)
        total_us = (self.scope.clock_ns() - arrived_ns) // 1000
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
        scope = self.scope

        async def reply(message: Any) -> StreamReply:
            request = message.request
            try:
                _require_request_id(request.request_id)
                return reply_type(response=await answer(request))
            except Exception as error:  # noqa: BLE001 - whatever it is, the others do not fail
                status = scope.failures.wire_status(method, error, Dialect.VECSERVE)
                return reply_type(
                    error=embedding_pb2.StreamError(
                        request_id=request.request_id,
                        code=code_number(status.code),
                        message=status.message,
                    )
                )

        return answer_stream(messages, reply, window=scope.stream_window, closing=scope.closing)


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
        raise InvalidArgument(
            ("request", "request_id"), "is empty; a stream needs one for each message"
        )
