"""The state of one pipelined stream: which requests are unanswered, and what a reply means.

Owns the rule that every request is answered to the caller once, even when the stream is lost
midway. Sans I/O: the clients send, receive, sleep and reconnect. Must not know channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from google.protobuf.message import Message

from vecserve.v1 import embedding_pb2, index_pb2
from vecserve.v1.embedding_pb2 import EmbedRequest, EmbedResponse
from vecserve.v1.index_pb2 import UpsertRequest, UpsertResponse
from vecserve_client import calls
from vecserve_client.errors import InvalidArgument, Overloaded, Unavailable, VecserveError
from vecserve_client.errors import from_number as error_from_number
from vecserve_client.retry import Attempts


class Numbered(Protocol):
    """A request that its reply can be matched with."""

    request_id: str


Q = TypeVar("Q", bound=Numbered)
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamMethod(Generic[Q, R]):
    """One bidirectional method: its name and how requests and replies are packed."""

    path: str
    wrap: Callable[[Q], Message]
    reply_type: type[Message]
    response_type: type[R]

    @property
    def name(self) -> str:
        """The method's short name, for messages."""
        return self.path.rpartition("/")[2]


EMBED: Final[StreamMethod[EmbedRequest, EmbedResponse]] = StreamMethod(
    path="/vecserve.v1.EmbeddingService/EmbedStream",
    wrap=lambda request: embedding_pb2.EmbedStreamRequest(request=request),
    reply_type=embedding_pb2.EmbedStreamResponse,
    response_type=EmbedResponse,
)

UPSERT: Final[StreamMethod[UpsertRequest, UpsertResponse]] = StreamMethod(
    path="/vecserve.v1.IndexService/UpsertStream",
    wrap=lambda request: index_pb2.UpsertStreamRequest(request=request),
    reply_type=index_pb2.UpsertStreamResponse,
    response_type=UpsertResponse,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered(Generic[Q, R]):
    """A request and its reply, for the caller."""

    request: Q
    response: R


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A message to send again after a pause."""

    message: Message
    delay_s: float


class Exchange(Generic[Q, R]):
    """The unanswered requests of one stream, at most `window` of them."""

    def __init__(self, *, method: StreamMethod[Q, R], window: int, attempts: Attempts) -> None:
        if window < 1:
            raise InvalidArgument(f"window: {window}, must be 1 or more")
        self.method = method
        self.attempts = attempts
        self._window = window
        self._unanswered: dict[str, Q] = {}

    @property
    def has_room(self) -> bool:
        """True if another request may be sent now."""
        return len(self._unanswered) < self._window

    @property
    def is_idle(self) -> bool:
        """True if no reply is due."""
        return not self._unanswered

    def add(self, request: Q) -> Message:
        """Take a request in; returns the message to send."""
        self._unanswered[request.request_id] = request
        return self.method.wrap(request)

    def read(self, reply: Any) -> Answered[Q, R] | Refused | None:
        """Match a reply with its request.

        Returns None for a reply that is not awaited (any more). Raises the failure of a request
        that is not worth another try.
        """
        if reply.WhichOneof("result") == "response":
            request = self._unanswered.pop(reply.response.request_id, None)
            if request is None:
                return None
            return Answered(request=request, response=reply.response)
        request = self._unanswered.get(reply.error.request_id)
        if request is None:
            return None
        delay_s = self.attempts.delay_after(self._refusal(reply.error))
        return Refused(message=self.method.wrap(request), delay_s=delay_s)

    def delay_after_loss(self, failure: VecserveError) -> float:
        """Seconds to wait before the lost stream is opened anew; raise a failure that is final."""
        if not all(calls.may_resend(request) for request in self._unanswered.values()):
            raise failure
        return self.attempts.delay_after(failure)

    def resend(self) -> list[Message]:
        """Messages that a new stream begins with: all unanswered ones, oldest first."""
        return [self.method.wrap(request) for request in self._unanswered.values()]

    def ended(self) -> Unavailable:
        """Make the failure of a stream that the server closed while replies were due."""
        return Unavailable("the server ended the stream", method=self.method.name)

    def _refusal(self, error: embedding_pb2.StreamError) -> VecserveError:
        failure = error_from_number(error.code, error.message, method=self.method.name)
        if isinstance(failure, Overloaded):
            failure.retry_after_s = 0.0  # nothing of the request was begun: the backoff decides
        return failure
