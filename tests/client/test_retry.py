"""When a failed call is tried again, and when not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve.v1 import admin_pb2, collection_pb2, embedding_pb2, index_pb2, search_pb2
from vecserve_client.errors import (
    KINDS,
    InvalidArgument,
    Overloaded,
    Unavailable,
    VecserveError,
)
from vecserve_client.retry import IDEMPOTENT, NOT_IDEMPOTENT, Attempts, RetryPolicy

PROTOS = (admin_pb2, collection_pb2, embedding_pb2, index_pb2, search_pb2)
FINAL_KINDS = [kind for kind in KINDS.values() if kind not in {Unavailable, Overloaded}]

jitters = st.floats(0, 1, exclude_max=True)


def test_every_method_is_classified_once() -> None:
    methods = {
        method.name
        for module in PROTOS
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert set(IDEMPOTENT) - {"Check"} | set(NOT_IDEMPOTENT) == methods
    assert not IDEMPOTENT & NOT_IDEMPOTENT


@given(attempt=st.integers(1, 200), remaining_s=st.floats(0, 100), jitter=jitters)
def test_the_backoff_grows_within_its_bounds_and_the_deadline(
    attempt: int, remaining_s: float, jitter: float
) -> None:
    policy = RetryPolicy(max_attempts=None, initial_backoff_s=0.05, max_backoff_s=2.0)
    delay_s = policy.delay_s(
        Unavailable("x"),
        attempt=attempt,
        idempotent=True,
        remaining_s=remaining_s,
        jitter=jitter,
    )
    full_s = min(0.05 * 2 ** (attempt - 1), 2.0)
    if delay_s is None:
        assert remaining_s <= full_s
    else:
        assert full_s / 2 <= delay_s <= full_s
        assert delay_s < remaining_s


@given(retry_after_s=st.floats(0, 10), attempt=st.integers(1, 4), jitter=jitters)
def test_an_overloaded_server_is_not_asked_before_it_said(
    retry_after_s: float, attempt: int, jitter: float
) -> None:
    delay_s = RetryPolicy().delay_s(
        Overloaded("x", retry_after_s=retry_after_s),
        attempt=attempt,
        idempotent=False,
        remaining_s=100,
        jitter=jitter,
    )
    assert delay_s is not None
    assert delay_s >= retry_after_s


@pytest.mark.parametrize("kind", FINAL_KINDS)
def test_other_failures_are_final(kind: type[VecserveError]) -> None:
    delay_s = RetryPolicy().delay_s(
        kind("x"), attempt=1, idempotent=True, remaining_s=100, jitter=0
    )
    assert delay_s is None


def test_a_limit_that_the_request_itself_breaks_is_final() -> None:
    too_large = Overloaded("message larger than max")
    assert (
        RetryPolicy().delay_s(too_large, attempt=1, idempotent=True, remaining_s=100, jitter=0)
        is None
    )


def test_attempts_are_counted_and_progress_begins_anew() -> None:
    now = 0.0
    attempts = Attempts(
        policy=RetryPolicy(max_attempts=3),
        idempotent=True,
        timeout_s=10,
        clock=lambda: now,
        jitter=lambda: 0.0,
    )
    failure = Unavailable("x")
    attempts.delay_after(failure)
    attempts.delay_after(failure)
    with pytest.raises(Unavailable):
        attempts.delay_after(failure)
    now = 9.99
    assert attempts.remaining_s() == pytest.approx(0.01)
    attempts.restart()
    assert attempts.remaining_s() == pytest.approx(10)
    assert attempts.delay_after(failure) == pytest.approx(0.025)
    with pytest.raises(InvalidArgument):
        attempts.delay_after(InvalidArgument("mistakes do not mend themselves"))
