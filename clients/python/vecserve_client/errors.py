"""Every failure that the client raises, as one tree.

Owns the mapping from gRPC status codes to exceptions. Must not know retries or requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


class VecserveError(Exception):
    """Any failure of a call; the message has the method and the server's message."""

    def __init__(
        self, message: str, *, method: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(f"{method}: {message}" if method else message)
        self.method = method
        self.retry_after_s = retry_after_s
        """Seconds after which the server expects to have room, if it said so."""


class InvalidArgument(VecserveError):
    """A field of the request is malformed or outside its limit."""


class NotFound(VecserveError):
    """The named resource does not exist."""


class AlreadyExists(VecserveError):
    """The named resource already exists."""


class FailedPrecondition(VecserveError):
    """The request is well-formed but the state of the resource forbids it."""


class Unimplemented(VecserveError):
    """The server does not offer this call or field."""


class PermissionDenied(VecserveError):
    """The caller is unknown or not allowed to make this call."""


class Overloaded(VecserveError):
    """A bounded queue of the server is full; the same call may succeed later."""


class Unavailable(VecserveError):
    """The server cannot be reached, or is shutting down."""


class DeadlineExceeded(VecserveError):
    """The call's deadline passed before the call was done."""


class Cancelled(VecserveError):
    """The call was cancelled."""


class ServerError(VecserveError):
    """The server failed, or answered with something that the protocol does not allow."""


KINDS: Final[Mapping[grpc.StatusCode, type[VecserveError]]] = MappingProxyType(
    {
        grpc.StatusCode.CANCELLED: Cancelled,
        grpc.StatusCode.UNKNOWN: ServerError,
        grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
        grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
        grpc.StatusCode.NOT_FOUND: NotFound,
        grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
        grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
        grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
        grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
        grpc.StatusCode.ABORTED: FailedPrecondition,
        grpc.StatusCode.OUT_OF_RANGE: InvalidArgument,
        grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
        grpc.StatusCode.INTERNAL: ServerError,
        grpc.StatusCode.UNAVAILABLE: Unavailable,
        grpc.StatusCode.DATA_LOSS: ServerError,
        grpc.StatusCode.UNAUTHENTICATED: PermissionDenied,
    }
)
"""Which exception stands for which status; total over the codes of a failure."""

_TOO_LARGE: Final = "message larger than max"
_KINDS_BY_NUMBER: Final = MappingProxyType({code.value[0]: kind for code, kind in KINDS.items()})


def from_number(number: int, message: str, *, method: str) -> VecserveError:
    """Make the exception for a google.rpc.Code out of a reply; an unknown code: ServerError."""
    kind = _KINDS_BY_NUMBER.get(number, ServerError)
    return kind(message, method=method)


def from_rpc(error: grpc.RpcError, *, method: str) -> VecserveError:
    """Make the exception for a failed call, synchronous or not."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return ServerError(str(error), method=method)
    code = error.code()
    kind = KINDS.get(code, ServerError) if code is not None else ServerError
    message = error.details() or f"the server answered {code.name if code else 'nothing'}"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in message:
        # gRPC itself refused it: to try again is no use.
        advice = "send fewer items in one call, or raise the server's server.max_message_bytes"
        return InvalidArgument(f"{message}; {advice}", method=method)
    return kind(message, method=method, retry_after_s=_retry_after_s(error))


def _retry_after_s(error: grpc.Call | grpc.aio.AioRpcError) -> float | None:
    try:
        status = rpc_status.from_call(cast("grpc.Call", error))  # reads what both have
    except ValueError:  # the details contradict the status; the status is what counts
        return None
    info = error_details_pb2.RetryInfo()
    for detail in status.details if status is not None else ():
        if detail.Unpack(info):
            return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
    return None
