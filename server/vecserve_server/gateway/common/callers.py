"""Who makes a call, and until when it waits.

Owns what is found out of a caller from what gRPC knows of a call: identity will be found here, and
nowhere else. Must not know methods, nor what a caller may do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from grpc import aio

from vecserve_server.domain.caller import ANONYMOUS, Caller

GrpcContext: TypeAlias = aio.ServicerContext[Any, Any]
NO_DEADLINE_S = 1e6
"""Without a deadline grpc reports one that is centuries away."""


class CallContext:
    """What a servicer is given beside the request, in place of gRPC's own context."""

    __slots__ = ("_context", "caller")

    def __init__(self, context: GrpcContext, *, clock_ns: Callable[[], int]) -> None:
        self._context = context
        self.caller = _caller_of(context, clock_ns)

    def metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """Return what the client sent beside its messages."""
        return [(key, value) for key, value in self._context.invocation_metadata() or ()]


def _caller_of(context: GrpcContext, clock_ns: Callable[[], int]) -> Caller:
    remaining_s = context.time_remaining()
    if remaining_s is None or remaining_s > NO_DEADLINE_S:
        return ANONYMOUS
    return Caller(deadline_ns=clock_ns() + int(remaining_s * 1e9))
