"""When calls are due, and what becomes of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve.v1 import embedding_pb2
from vecserve_server.measuring.load.arrivals import poisson_arrivals_s
from vecserve_server.measuring.load.closed_loop import call_rate
from vecserve_server.measuring.load.light_client import (
    DEADLINE_EXCEEDED,
    OK,
    RESOURCE_EXHAUSTED,
    Call,
)
from vecserve_server.measuring.load.phases import recovery_s, summarise

latencies_ms = st.lists(st.floats(0.01, 1e4), max_size=30)


@given(st.floats(0.5, 2000), st.floats(0.5, 2), st.integers(0, 2**32))
def test_arrivals_follow_each_other_and_are_as_many_as_asked_for(
    rate_per_s: float, seconds: float, seed: int
) -> None:
    times_s = poisson_arrivals_s(rate_per_s, seconds, np.random.default_rng(seed))
    assert len(times_s) == int(rate_per_s * seconds)
    assert all(0 <= a <= b for a, b in pairwise(times_s))
    assert times_s == poisson_arrivals_s(rate_per_s, seconds, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(5))
def test_gaps_between_arrivals_have_the_mean_and_the_spread_of_a_poisson_process(
    seed: int,
) -> None:
    times_s = poisson_arrivals_s(1000, 20, np.random.default_rng(seed))
    gaps_s = np.diff(times_s)
    assert gaps_s.mean() == pytest.approx(1e-3, rel=0.05)
    assert gaps_s.std() == pytest.approx(1e-3, rel=0.05)


def test_a_rate_counts_every_call() -> None:
    found = call_rate([1.0, 2.0, 3.0], 0.5)
    assert (found.calls_per_second, found.p50_ms) == (6.0, 2.0)


def calls(code: int, taken_ms: list[float]) -> list[Call]:
    return [Call(1.0, 1.0 + ms / 1000, code) for ms in taken_ms]


@given(latencies_ms.filter(bool), latencies_ms, latencies_ms)
def test_a_phase_counts_each_call_under_its_status(
    answered: list[float], refused: list[float], late: list[float]
) -> None:
    made = [
        *calls(RESOURCE_EXHAUSTED, refused),
        *calls(OK, answered),
        *calls(DEADLINE_EXCEEDED, late),
    ]
    phase = summarise(made, 2.0)
    counts = {
        "OK": len(answered),
        "RESOURCE_EXHAUSTED": len(refused),
        "DEADLINE_EXCEEDED": len(late),
    }
    assert phase.codes == {code: count for code, count in counts.items() if count}
    assert phase.answered_per_s == round(len(answered) / 2, 1)
    assert phase.p50_ms == pytest.approx(np.median(answered), abs=0.006)
    assert (phase.refused_longest_ms is None) == (not refused)
    assert phase.beyond_encoding_p50_us is None


def test_what_the_server_spends_beside_its_stages_comes_from_the_replies() -> None:
    reply = embedding_pb2.EmbedResponse()
    reply.timings.total_us, reply.timings.tokenise_us, reply.timings.encode_us = 900, 100, 300
    kept = Call(0.0, 0.001, OK, reply.SerializeToString())
    assert summarise([kept], 1.0).beyond_encoding_p50_us == 500


def test_a_server_has_recovered_after_the_last_window_that_is_slow() -> None:
    def due(at_s: float, ms: float) -> Call:
        return Call(at_s, at_s + ms / 1000, OK)

    assert recovery_s([due(10.0, 5), due(10.3, 5)], 10) == 0
    assert recovery_s([due(10.0, 50), due(10.3, 20), due(10.6, 5)], 10) == 0.5
