"""The door."""

from __future__ import annotations

import pytest

from vecserve_server.errors import Draining, Overloaded
from vecserve_server.gateway.common.admission import SMALL_BYTES, Admission
from vecserve_server.observability.metrics import make_metrics


async def test_items_are_counted_while_their_call_runs() -> None:
    admission = Admission(max_pending_items=10, max_pending_bytes=100, metrics=make_metrics())
    with admission.admit(4), admission.admit(6):
        assert admission.pending_items == 10
        with pytest.raises(Overloaded, match=r"max_pending_items = 10"), admission.admit(1):
            pass
    assert admission.pending_items == 0


async def test_a_failing_call_gives_its_place_back() -> None:
    admission = Admission(max_pending_items=1, max_pending_bytes=100, metrics=make_metrics())
    with pytest.raises(ValueError, match="x"), admission.admit(1):
        raise ValueError("x")
    assert admission.pending_items == 0


async def test_a_closed_door_refuses_and_waits_for_those_inside() -> None:
    admission = Admission(max_pending_items=10, max_pending_bytes=100, metrics=make_metrics())
    with admission.admit(1):
        admission.close()
        with pytest.raises(Draining), admission.admit(1):
            pass
        assert not await admission.drained(timeout_s=0.01)
    assert await admission.drained(timeout_s=1)


async def test_bytes_are_bounded_too() -> None:
    admission = Admission(max_pending_items=10, max_pending_bytes=100, metrics=make_metrics())
    with admission.admit(1, size_bytes=90):
        with pytest.raises(Overloaded, match="max_pending_bytes = 100"):
            admission.admit(1, size_bytes=11).__enter__()
        with admission.admit(1, size_bytes=10):
            pass
    with admission.admit(1, size_bytes=100):
        pass


async def test_large_calls_leave_room_for_small_ones() -> None:
    limit = 16 * SMALL_BYTES
    admission = Admission(max_pending_items=99, max_pending_bytes=limit, metrics=make_metrics())
    with admission.admit(1, size_bytes=limit):
        pass
    with admission.admit(1, size_bytes=limit - 3 * SMALL_BYTES):
        with pytest.raises(Overloaded, match="max_pending_bytes"):
            admission.admit(1, size_bytes=SMALL_BYTES + 1).__enter__()
        with admission.admit(1, size_bytes=SMALL_BYTES), admission.admit(1, size_bytes=SMALL_BYTES):
            pass
