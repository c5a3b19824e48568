"""The cost model: what was measured comes back, and nothing gets cheaper by growing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.domain.shapes import Shape, fixed_shapes, run_shapes
from vecserve_server.encoding.cost_model import (
    CostModel,
    fit,
    measure,
    measure_change_s,
    measured_shapes,
)
from vecserve_server.encoding.loading import planning_cost

SHAPES = run_shapes(run_tokens=256, max_tokens=256)
MEASURED = measured_shapes(SHAPES, 256)
COSTS = st.builds(
    CostModel,
    fixed_s=st.floats(0, 1e-2),
    token_s=st.floats(1e-6, 1e-3),
    pair_s=st.floats(0, 1e-6),
)


@given(cost=COSTS)
def test_exact_measurements_are_fitted_exactly(cost: CostModel) -> None:
    found = fit([(shape, cost.predict(shape)) for shape in MEASURED])

    for shape in SHAPES:
        assert found.predict(shape) == pytest.approx(cost.predict(shape), rel=1e-4)


@given(
    cost=COSTS,
    noise=st.lists(st.floats(0.9, 1.1), min_size=len(MEASURED), max_size=len(MEASURED)),
)
def test_noise_gives_no_negative_cost_and_no_wild_prediction(
    cost: CostModel, noise: list[float]
) -> None:
    pairs = zip(MEASURED, noise, strict=True)
    found = fit([(shape, cost.predict(shape) * factor) for shape, factor in pairs])

    assert min(found.fixed_s, found.token_s, found.pair_s) >= 0
    for shape in MEASURED:
        assert found.predict(shape) == pytest.approx(cost.predict(shape), rel=0.35)


def test_one_measurement_is_enough() -> None:
    shape = Shape(1, 16)

    assert fit([(shape, 0.5)]).predict(shape) == pytest.approx(0.5)


def test_the_first_run_of_a_shape_does_not_count() -> None:
    calls: list[Shape] = []
    ticks = itertools.count()

    def clock_s() -> float:
        return float(next(ticks)) if len(calls) > 1 else -100.0

    found = measure(calls.append, [Shape(1, 16), Shape(2, 32)], clock_s)

    assert [shape for shape, _ in found] == [Shape(1, 16), Shape(2, 32)]
    assert calls.count(Shape(1, 16)) == 4
    assert all(seconds == 1.0 for _, seconds in found)


@pytest.mark.parametrize(("run_tokens", "max_tokens"), [(16, 16), (256, 32), (256, 8192)])
def test_some_shapes_can_always_be_measured(run_tokens: int, max_tokens: int) -> None:
    shapes = run_shapes(run_tokens=run_tokens, max_tokens=max_tokens)

    found = measured_shapes(shapes, run_tokens)
    assert found
    assert set(found) <= set(shapes)
    assert sum(shape.tokens for shape in found) <= 4 * 512


def test_a_change_costs_what_the_first_run_of_another_shape_takes_longer() -> None:
    now = 0.0
    before: list[Shape] = []

    def run(shape: Shape) -> None:
        nonlocal now
        now += shape.tokens * 1e-3 + (0.25 if before[-1:] != [shape] else 0.0)
        before.append(shape)

    found = measure_change_s(run, [Shape(1, 16), Shape(2, 32)], lambda: now)

    assert found == pytest.approx(0.25)
    assert measure_change_s(lambda _: None, [Shape(1, 16)], lambda: now) == 0.0


def test_a_plan_reckons_with_a_change_where_no_graph_is_prepared() -> None:
    cost = CostModel(fixed_s=1.0, token_s=0.0, pair_s=0.0, change_s=0.5)
    planned = planning_cost(cost, [Shape(1, 16)])

    assert (planned(Shape(1, 16)), planned(Shape(1, 32))) == (1.0, 1.5)


@given(run_tokens=st.integers(16, 2048), max_tokens=st.integers(16, 8192), shared=st.booleans())
def test_the_prepared_shapes_are_shapes_that_runs_have(
    run_tokens: int, max_tokens: int, shared: bool
) -> None:
    found = fixed_shapes(run_tokens=run_tokens, max_tokens=max_tokens, shared=shared)

    assert len(found) == len(set(found))
    assert set(found) <= set(
        run_shapes(run_tokens=run_tokens, max_tokens=max_tokens, shared=shared)
    )
    assert all(shape.tokens <= run_tokens for shape in found)


def test_full_runs_come_first() -> None:
    found = fixed_shapes(run_tokens=256, max_tokens=256)

    assert found[:3] == [Shape(8, 32), Shape(4, 64), Shape(2, 128)]
    assert len(found) == 16


@given(max_tokens=st.integers(3, 512), run_tokens=st.integers(1, 512), shared=st.booleans())
def test_some_shape_of_any_model_is_measured(
    max_tokens: int, run_tokens: int, shared: bool
) -> None:
    shapes = run_shapes(run_tokens=run_tokens, max_tokens=max_tokens, shared=shared)

    measured = measured_shapes(shapes, run_tokens)

    assert measured
    assert set(measured) <= set(shapes)
