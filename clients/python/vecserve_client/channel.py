"""What both clients share to set up channels and calls.

Owns the channel's options and the defaults of a client. Must not know what calls say.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, SupportsFloat

import grpc
from google.protobuf.message import Message

from vecserve_client.batching import MESSAGE_BYTES, check_size
from vecserve_client.errors import Cancelled, InvalidArgument
from vecserve_client.retry import Attempts, RetryPolicy

DEFAULT_TARGET: Final = "127.0.0.1:8001"
DEFAULT_DEADLINE_S: Final = 30.0
HEALTH_POLL_S: Final = 0.05

REPLY_BYTES: Final = 2**31 - 1
"""Largest message to receive: as large as they get; how large a reply is, the server decides."""

OPTIONS: Final = (
    ("grpc.max_receive_message_length", REPLY_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # A restarted server is found again within a couple of seconds.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)

_THIS_MACHINE: Final = re.compile(
    r"(dns:(//[^/]*/)?|ipv[46]:)?(localhost|127(\.\d+){3}|::1|\[::1\])(:\d+)?", re.IGNORECASE
)


def options_for(target: str) -> tuple[tuple[str, int], ...]:
    """Return the options of a channel to a server.

    gRPC obeys `http_proxy` for every address; what is meant for this machine must not leave it.
    """
    direct = (("grpc.enable_http_proxy", 0),) if _THIS_MACHINE.fullmatch(target) else ()
    return (*OPTIONS, *direct)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a client waits and how often it tries, where a call does not say."""

    deadline_s: float
    retry: RetryPolicy

    def for_call(self, *, timeout_s: float | None, idempotent: bool) -> Attempts:
        """Begin the attempts of one unary call."""
        return self._begin(self.retry, timeout_s, idempotent=idempotent)

    def for_stream(self, *, timeout_s: float | None) -> Attempts:
        """Begin the attempts of one stream, bounded by the time without any reply."""
        return self._begin(replace(self.retry, max_attempts=None), timeout_s, idempotent=True)

    def _begin(self, policy: RetryPolicy, timeout_s: float | None, *, idempotent: bool) -> Attempts:
        seconds = self.deadline_s if timeout_s is None else timeout_s
        if not isinstance(seconds, SupportsFloat) or not float(seconds) > 0:
            raise InvalidArgument(f"timeout_s: {seconds!r:.80}, must be a number of more than 0")
        return Attempts(
            policy=policy,
            idempotent=idempotent,
            timeout_s=seconds,
            clock=time.monotonic,
            jitter=random.random,
        )


@contextmanager
def closed_as_cancelled(method: str) -> Iterator[None]:
    """Turn gRPC's complaint about a channel that was closed into a failure of the call."""
    try:
        yield
    except (ValueError, grpc.aio.UsageError) as complaint:
        if "closed" not in str(complaint):
            raise
        raise Cancelled("the client is closed", method=method) from None


def serialise(message: Message, *, limit_bytes: int = MESSAGE_BYTES) -> bytes:
    """Turn a request into bytes, for gRPC; raise InvalidArgument where they are too many.

    gRPC itself would report its limit as if the server were overloaded.
    """
    request = message.SerializeToString()
    check_size("request", len(request), limit_bytes=limit_bytes)
    return request
