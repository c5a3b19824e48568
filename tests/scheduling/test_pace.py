"""How long a queue is expected to take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.scheduling.pace import Pace


def test_nothing_is_predicted_before_anything_is_known() -> None:
    pace = Pace()
    assert pace.predict_ns(1000) == 0
    pace.ran(100, ended_ns=10**9, more_waits=True)
    assert pace.predict_ns(1000) == 0


@given(
    runs=st.lists(st.integers(1, 256), min_size=1, max_size=50),
    token_ns=st.integers(1, 10**6),
    asked=st.integers(0, 10**6),
)
def test_a_steady_pace_is_predicted_as_it_is(runs: list[int], token_ns: int, asked: int) -> None:
    pace, now_ns = Pace(), 0
    pace.ran(1, ended_ns=now_ns, more_waits=True)
    for tokens in runs:
        now_ns += tokens * token_ns
        pace.ran(tokens, ended_ns=now_ns, more_waits=True)
    assert pace.predict_ns(asked) == pytest.approx(asked * token_ns, rel=1e-9, abs=1)


def test_a_change_of_pace_is_seen_within_some_runs() -> None:
    pace, now_ns = Pace(), 0
    for token_ns in [10] * 100 + [30] * 30:
        now_ns += 100 * token_ns
        pace.ran(100, ended_ns=now_ns, more_waits=True)
    assert 28 < pace.predict_ns(1) <= 30


def test_time_in_which_nothing_waited_does_not_count() -> None:
    pace = Pace()
    pace.ran(100, ended_ns=0, more_waits=True)
    pace.ran(100, ended_ns=1000, more_waits=False)
    pace.ran(100, ended_ns=10**12, more_waits=True)
    assert pace.predict_ns(100) == 1000


def test_runs_may_be_told_of_out_of_order() -> None:
    pace = Pace()
    for ended_ns in (0, 2000, 1000, 3000):
        pace.ran(100, ended_ns=ended_ns, more_waits=True)
    assert pace.predict_ns(100) > 0
