"""Every kind of failure has a status, in both dialects."""

from __future__ import annotations

import inspect

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from vecserve_server import errors
from vecserve_server.gateway.common.status_table import (
    CODES,
    STATUS_DETAILS_KEY,
    TRITON_CODES,
    Dialect,
    code_number,
    code_of,
    wire_status,
)

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.VecserveError)
]


def test_the_table_is_total() -> None:
    assert set(CODES) == set(KINDS)
    assert set(TRITON_CODES) == set(KINDS)


def test_subclasses_that_the_table_does_not_know_take_the_code_of_their_parent() -> None:
    class Peculiar(errors.NotFound):
        pass

    assert code_of(Peculiar("x")) is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_client_mistakes_never_look_like_server_faults(kind: type[errors.VecserveError]) -> None:
    server_faults = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
    if issubclass(kind, errors.RequestError):
        assert CODES[kind] not in server_faults
        assert TRITON_CODES[kind] not in server_faults


def test_an_overload_says_when_to_come_back() -> None:
    status = wire_status(errors.Overloaded("full", retry_after_ms=250), Dialect.VECSERVE)
    ((key, value),) = status.trailing_metadata
    rich = Status.FromString(value)
    hint = RetryInfo()
    assert key == STATUS_DETAILS_KEY
    assert rich.code == code_number(status.code)
    assert rich.details[0].Unpack(hint)
    assert hint.retry_delay.ToMilliseconds() == 250


def test_triton_clients_see_a_full_queue_as_triton_says_it() -> None:
    status = wire_status(errors.Overloaded("full", retry_after_ms=250), Dialect.TRITON)
    assert status.code is grpc.StatusCode.UNAVAILABLE
    assert status.message.startswith("Exceeds maximum queue size")
    assert status.trailing_metadata == ()


def test_triton_clients_see_only_what_triton_sends() -> None:
    assert set(TRITON_CODES.values()) <= {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.INTERNAL,
        # Only to a client whose own deadline has passed.
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
    late = wire_status(errors.QueueTimeout("Request timeout expired"), Dialect.TRITON)
    assert (late.code, late.message) == (grpc.StatusCode.UNAVAILABLE, "Request timeout expired")


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (errors.Overloaded("2 wait", retry_after_ms=1), "Exceeds maximum queue size: 2 wait"),
        (errors.QueueTimeout("it waited"), "Request timeout expired: it waited"),
        (errors.Draining("bye"), "bye"),
    ],
)
def test_tritons_words_stand_before_ours_for_its_clients_alone(
    failure: errors.VecserveError, told: str
) -> None:
    assert wire_status(failure, Dialect.TRITON).message == told
    assert wire_status(failure, Dialect.VECSERVE).message == str(failure)


def test_tritons_words_are_not_said_twice() -> None:
    full = errors.Overloaded("Exceeds maximum queue size", retry_after_ms=1)
    assert wire_status(full, Dialect.TRITON).message == "Exceeds maximum queue size"
