"""Decisions: which way a search goes, and what is built when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.index.vectors.planning import (
    TUNED_COUNT,
    Costs,
    SegmentShape,
    Thresholds,
    choose_method,
    expansion_for,
    filtered_count,
    measured_thresholds,
    next_build,
)
from vecserve_server.index.vectors.vector_index import Method

COSTS = Costs()
THRESHOLDS = Thresholds(first_rows=20_000, delta_rows=8_000)
SHAPES = st.lists(
    st.builds(
        lambda rows, dead, runs, lean: SegmentShape(
            rows=rows, dead=int(rows * dead), runs=runs, lean=lean
        ),
        st.integers(1, 10**6),
        st.floats(0, 1),
        st.integers(2, 20),
        st.booleans(),
    ),
    max_size=5,
)


def method(
    *, sealed: int = 10**6, allowed: int | None = None, exact: bool = False, expansion: int = 64
) -> Method:
    return choose_method(
        candidates=20,
        sealed_rows=sealed,
        expansion=expansion,
        allowed_rows=allowed,
        exact=exact,
        costs=COSTS,
        exact_rows=10_000,
    )


def test_without_a_filter_graphs_are_searched_unless_the_answer_must_be_exact() -> None:
    assert method() == "graph"
    assert method(exact=True) == "scan"
    assert method(sealed=0) == "scan"


def test_few_allowed_rows_are_looked_at_one_by_one() -> None:
    assert method(allowed=0) == "scan_allowed"
    assert method(allowed=10_000) == "scan_allowed"


def test_many_allowed_rows_are_filtered_out_of_a_deeper_search() -> None:
    assert method(allowed=500_000) == "graph_allowed"
    assert method(allowed=500_000, exact=True) == "scan"


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.booleans())
def test_a_filtered_search_is_never_planned_to_cost_more_than_looking_at_everything(
    sealed: int, allowed: int, exact: bool
) -> None:
    allowed = min(allowed, sealed)
    chosen = method(sealed=sealed, allowed=allowed, exact=exact)
    scan_us = sealed * COSTS.scan_row_us
    if chosen == "scan_allowed":
        assert allowed * COSTS.gather_row_us <= scan_us
    if chosen == "graph_allowed":
        assert not exact
        breadth = expansion_for(filtered_count(20, allowed, sealed), 64)
        assert COSTS.graph_search_us(sealed, breadth) <= scan_us


def test_a_small_collection_gets_no_graph() -> None:
    assert next_build([], delta_rows=19_999, lost=False, thresholds=THRESHOLDS) is None
    plan = next_build([], delta_rows=20_000, lost=False, thresholds=THRESHOLDS)
    assert plan
    assert (plan.segments, plan.extends) == ((), None)


def test_a_large_segment_is_left_alone_by_a_small_delta() -> None:
    large = SegmentShape(rows=100_000, dead=0, runs=2)
    plan = next_build([large], delta_rows=8_000, lost=False, thresholds=THRESHOLDS)
    assert plan
    assert plan.segments == ()
    small = SegmentShape(rows=20_000, dead=100, runs=2)
    plan = next_build([large, small], delta_rows=8_000, lost=False, thresholds=THRESHOLDS)
    assert plan
    assert (plan.segments, plan.extends) == ((1,), 1)


def test_a_fifth_dead_means_one_new_segment() -> None:
    shapes = [
        SegmentShape(rows=100_000, dead=25_000, runs=2),
        SegmentShape(rows=10_000, dead=0, runs=2),
    ]
    plan = next_build(shapes, delta_rows=0, lost=False, thresholds=THRESHOLDS)
    assert plan
    assert (plan.segments, plan.extends) == ((0, 1), None)


def test_what_a_lost_segment_held_is_sealed_again_whatever_its_size() -> None:
    plan = next_build([], delta_rows=5, lost=True, thresholds=THRESHOLDS)
    assert plan
    assert plan.reason == "lost segment"


@given(SHAPES, st.integers(0, 10**6), st.booleans())
def test_a_plan_names_segments_once_and_extends_one_of_them_that_is_fit_for_it(
    shapes: list[SegmentShape], delta_rows: int, lost: bool
) -> None:
    plan = next_build(shapes, delta_rows=delta_rows, lost=lost, thresholds=THRESHOLDS)
    if plan is None:
        assert delta_rows < THRESHOLDS.first_rows
        return
    assert len(set(plan.segments)) == len(plan.segments)
    assert set(plan.segments) <= set(range(len(shapes)))
    if plan.extends is not None:
        assert plan.extends in plan.segments
        extended = shapes[plan.extends]
        assert not extended.lean
        assert extended.dead <= 0.1 * extended.rows
        assert extended.runs < THRESHOLDS.most_runs


@given(st.integers(1, 10**4), st.integers(1, 300))
def test_arriving_rows_end_in_few_segments(delta_rows: int, rounds: int) -> None:
    thresholds = Thresholds(first_rows=1, delta_rows=1)
    shapes: list[SegmentShape] = []
    for _ in range(rounds):
        plan = next_build(shapes, delta_rows=delta_rows, lost=False, thresholds=thresholds)
        assert plan
        rows = delta_rows + sum(shapes[number].rows for number in plan.segments)
        kept = [shape for number, shape in enumerate(shapes) if number not in plan.segments]
        shapes = [*kept, SegmentShape(rows=rows, dead=0, runs=2)]
    assert len(shapes) <= 6


@given(st.floats(0.001, 1), st.floats(0.001, 1), st.floats(0.001, 1), st.floats(1, 10_000))
def test_thresholds_stay_within_reason_whatever_was_measured(
    delta: float, scan: float, gather: float, graph: float
) -> None:
    found = measured_thresholds(
        Costs(delta_row_us=delta, scan_row_us=scan, gather_row_us=gather, graph_us=graph)
    )
    assert 8_192 <= found.first_rows <= 32_768
    assert 6_144 <= found.delta_rows <= 16_384


@given(count=st.integers(1, 10_000), tuned=st.integers(16, 512))
def test_who_asks_for_more_rows_searches_more_broadly(count: int, tuned: int) -> None:
    assert expansion_for(TUNED_COUNT, tuned) == max(TUNED_COUNT, tuned)
    assert expansion_for(count, tuned) >= max(count, tuned)
    assert expansion_for(count, tuned) <= expansion_for(count + 1, tuned)
    assert expansion_for(TUNED_COUNT + count, tuned) > max(count, tuned)


@given(picked=st.integers(1, 10**6), rows=st.integers(1, 10**7))
def test_picking_rows_costs_more_the_more_there_are(picked: int, rows: int) -> None:
    assert COSTS.picking_us(picked, rows) >= picked * COSTS.gather_row_us
    assert COSTS.picking_us(picked, rows) <= COSTS.picking_us(picked, 2 * rows)
