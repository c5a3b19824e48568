"""Which gRPC status each failure becomes.

Owns the one table, in the two dialects that the port speaks. Must not know servicers. A test
holds that the table is total over errors.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from vecserve_server import errors

MAX_MESSAGE_CHARACTERS = 500
STATUS_DETAILS_KEY = "grpc-status-details-bin"
Code = grpc.StatusCode

CODES: Mapping[type[errors.VecserveError], grpc.StatusCode] = {
    errors.InvalidArgument: Code.INVALID_ARGUMENT,
    errors.NotFound: Code.NOT_FOUND,
    errors.UnknownModel: Code.NOT_FOUND,
    errors.AlreadyExists: Code.ALREADY_EXISTS,
    errors.FailedPrecondition: Code.FAILED_PRECONDITION,
    errors.LoadFailed: Code.FAILED_PRECONDITION,
    errors.Unsupported: Code.UNIMPLEMENTED,
    errors.RequestError: Code.INVALID_ARGUMENT,
    errors.Overloaded: Code.RESOURCE_EXHAUSTED,
    errors.QueueTimeout: Code.UNAVAILABLE,
    errors.Starting: Code.UNAVAILABLE,
    errors.ModelUnavailable: Code.UNAVAILABLE,
    errors.Superseded: Code.UNAVAILABLE,
    errors.Draining: Code.UNAVAILABLE,
    errors.CapacityError: Code.UNAVAILABLE,
    errors.DeadlineExceeded: Code.DEADLINE_EXCEEDED,
    errors.EngineError: Code.INTERNAL,
    errors.ModelError: Code.FAILED_PRECONDITION,
    errors.ModelLimit: Code.FAILED_PRECONDITION,
    errors.ConfigError: Code.FAILED_PRECONDITION,
    errors.CorruptData: Code.DATA_LOSS,
    errors.StoreGone: Code.UNAVAILABLE,
    errors.StorageError: Code.UNAVAILABLE,
    errors.VecserveError: Code.INTERNAL,
}


# Triton has no FAILED_PRECONDITION and no DATA_LOSS; its clients know these.
TRITON_CODES: Mapping[type[errors.VecserveError], grpc.StatusCode] = {
    **CODES,
    errors.FailedPrecondition: Code.UNAVAILABLE,
    errors.LoadFailed: Code.INTERNAL,
    errors.Overloaded: Code.UNAVAILABLE,
    errors.ModelError: Code.INTERNAL,
    errors.ModelLimit: Code.INTERNAL,
    errors.ConfigError: Code.INTERNAL,
    errors.CorruptData: Code.INTERNAL,
    errors.StorageError: Code.INTERNAL,
}
TRITON_PREFIXES: Mapping[type[errors.VecserveError], str] = {
    errors.Overloaded: "Exceeds maximum queue size",
    errors.QueueTimeout: "Request timeout expired",
}


class Dialect(Enum):
    """Whose status codes a service speaks."""

    VECSERVE = "vecserve"
    TRITON = "triton"
    """As Triton: its codes, its words for a queue that is full or too slow, no error details."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WireStatus:
    """What goes to the client."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, bytes], ...] = ()


def code_of(error: errors.VecserveError, dialect: Dialect = Dialect.VECSERVE) -> grpc.StatusCode:
    """Find the code of the most specific kind that the dialect's table has."""
    codes = TRITON_CODES if dialect is Dialect.TRITON else CODES
    return next(codes[kind] for kind in type(error).__mro__ if kind in codes)


def as_protobuf(path: errors.FieldPath) -> str:
    """Spell a field as protocol buffers do: `rows[3].text`."""
    return errors.spelled(path)


def wire_message(error: errors.VecserveError) -> str:
    """Say what is wrong, cut to what fits into HTTP/2 headers: messages may quote the input."""
    message = str(error)
    if isinstance(error, errors.RequestError):
        message = errors.sentence(error.path, error.problem, as_protobuf)
    if len(message) > MAX_MESSAGE_CHARACTERS:
        return f"{message[:MAX_MESSAGE_CHARACTERS]} …"
    return message


def wire_status(error: errors.VecserveError, dialect: Dialect) -> WireStatus:
    """Render a failure for the wire."""
    message, code = wire_message(error), code_of(error, dialect)
    if dialect is Dialect.TRITON:
        prefix = TRITON_PREFIXES.get(type(error))
        if prefix and not message.startswith(prefix):
            message = f"{prefix}: {message}"
        return WireStatus(code=code, message=message)
    if not isinstance(error, errors.Overloaded):
        return WireStatus(code=code, message=message)
    return WireStatus(
        code=code,
        message=message,
        trailing_metadata=((STATUS_DETAILS_KEY, _with_retry_info(error)),),
    )


def code_number(code: grpc.StatusCode) -> int:
    """Return the number that google.rpc.Code has for a status code."""
    return int(code.value[0])


def _with_retry_info(error: errors.Overloaded) -> bytes:
    delay = Duration()
    delay.FromMilliseconds(error.retry_after_ms)
    detail = Any()
    detail.Pack(RetryInfo(retry_delay=delay))
    number = code_number(code_of(error))
    status: bytes = Status(code=number, message=str(error), details=[detail]).SerializeToString()
    return status
