"""Replies that nobody reads: how many of them the server keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.errors import Overloaded
from vecserve_server.gateway.common.departures import SHARE, SMALL_BYTES, Departures
from vecserve_server.observability.metrics import make_metrics

MAX_BYTES, MAX_REPLIES = 16 * SMALL_BYTES, 50


class Call:
    """One call of a connection, as gRPC shows it to the server."""

    def __init__(self, connection: str) -> None:
        self._connection = connection
        self._callbacks: list[Callable[[Any], None]] = []

    def peer(self) -> str:
        return self._connection

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def end(self) -> None:
        for callback in self._callbacks:
            callback(self)


def departures() -> Departures:
    return Departures(max_bytes=MAX_BYTES, max_replies=MAX_REPLIES, metrics=make_metrics())


def leave(departing: Departures, connection: str, size_bytes: int) -> Call | None:
    """Make a reply that is not read; None if it is refused."""
    call: Any = Call(connection)
    try:
        departing.hold(call, size_bytes)
    except Overloaded:
        return None
    made: Call = call
    return made


@given(
    replies=st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 8 * SMALL_BYTES), st.booleans()),
        max_size=80,
    )
)
def test_what_is_unread_is_bounded_and_who_reads_is_answered(
    replies: list[tuple[str, int, bool]],
) -> None:
    departing, unread = departures(), list[tuple[str, int, Call]]()
    for connection, size_bytes, is_read in replies:
        here = [size for where, size, _ in unread if where == connection]
        call = leave(departing, connection, size_bytes)
        if call is None:
            assert here or size_bytes > SMALL_BYTES
        elif is_read:
            call.end()
        else:
            unread.append((connection, size_bytes, call))
            assert len(here) <= 1 or sum(here) + size_bytes <= max(here[0], MAX_BYTES // SHARE)
            over = sum(size for _, size, _ in unread) - MAX_BYTES
            assert over <= 8 * SMALL_BYTES
    for _, _, call in unread:
        call.end()
    assert leave(departing, "a", 100 * MAX_BYTES) is not None


def test_one_connection_may_leave_so_many_replies() -> None:
    departing = departures()
    assert all(leave(departing, "a", 1) for _ in range(MAX_REPLIES))
    assert leave(departing, "a", 1) is None
    assert leave(departing, "b", 1) is not None


def test_a_reply_of_a_stream_counts_while_it_is_being_sent() -> None:
    departing = departures()
    call: Any = Call("a")
    with (
        departing.holding(call, MAX_BYTES),
        pytest.raises(Overloaded, match="quarter"),
        departing.holding(call, 1),
    ):
        pass
    with departing.holding(call, 1):
        pass
