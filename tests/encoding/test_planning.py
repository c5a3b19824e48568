"""Planning: every sequence once, in a shape that holds it, at the least cost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.encoding.cost_model import CostModel
from vecserve_server.encoding.planning import Run, RunPlanner
from vecserve_server.encoding.shapes import Shape, row_widths, run_shapes

LENGTHS = st.lists(st.integers(1, 256), min_size=1, max_size=50)
COST = CostModel(fixed_s=1.5e-3, token_s=65e-6, pair_s=1e-7)
SHAPES = run_shapes(run_tokens=256, max_tokens=256)
PLANNER = RunPlanner(shapes=SHAPES, cost=COST.predict, row_tokens=128)


def seconds(runs: list[Run]) -> float:
    return sum(COST.predict(run.shape) for run in runs)


def check(runs: list[Run], lengths: list[int], shapes: Sequence[Shape] = SHAPES) -> None:
    placed = [index for run in runs for row in run.rows for index in row]
    assert sorted(placed) == list(range(len(lengths)))
    for run in runs:
        assert run.shape in shapes
        assert len(run.rows) <= run.shape.rows
        for row in run.rows:
            assert sum(lengths[index] for index in row) <= run.shape.width


@given(lengths=LENGTHS)
def test_packed_runs_hold_every_sequence_once(lengths: list[int]) -> None:
    check(PLANNER.packed(lengths), lengths)


@given(data=st.data(), max_tokens=st.integers(3, 256), row_tokens=st.integers(1, 256))
def test_no_row_is_wider_than_a_model_for_short_texts_allows(
    data: st.DataObject, max_tokens: int, row_tokens: int
) -> None:
    shapes = run_shapes(run_tokens=256, max_tokens=max_tokens)
    planner = RunPlanner(shapes=shapes, cost=COST.predict, row_tokens=row_tokens)
    lengths = data.draw(st.lists(st.integers(1, max_tokens), min_size=1, max_size=50))

    check(planner.packed(lengths), lengths, shapes)


@given(lengths=LENGTHS)
def test_padded_runs_have_one_sequence_in_a_row(lengths: list[int]) -> None:
    runs = PLANNER.padded(lengths)

    check(runs, lengths)
    assert all(len(row) == 1 for run in runs for row in run.rows)


@given(lengths=LENGTHS)
def test_a_plan_costs_no_more_than_texts_one_by_one(lengths: list[int]) -> None:
    alone = sum(seconds(PLANNER.packed([length])) for length in lengths)

    # Of plans within a hundredth the one with the least padding is taken.
    assert seconds(PLANNER.packed(lengths)) <= alone * 1.011
    assert seconds(PLANNER.padded(lengths)) <= alone * (1 + 1e-9)


@given(lengths=st.lists(st.integers(1, 60), min_size=30, max_size=60))
def test_many_texts_leave_little_padding(lengths: list[int]) -> None:
    runs = PLANNER.packed(lengths)
    computed = sum(run.shape.tokens for run in runs)

    # A run of the largest shape may be half empty at the end, and a row a little.
    assert computed <= 1.25 * sum(lengths) + 64


def test_dear_runs_are_merged_and_dear_tokens_are_not_padded() -> None:
    rows_of = [100, 80, 80, 80]
    dear_run = RunPlanner(
        shapes=SHAPES,
        cost=CostModel(fixed_s=1.0, token_s=1e-6, pair_s=0.0).predict,
        row_tokens=128,
    )
    dear_token = RunPlanner(
        shapes=SHAPES,
        cost=CostModel(fixed_s=1e-9, token_s=1.0, pair_s=0.0).predict,
        row_tokens=128,
    )

    assert len(dear_run.padded(rows_of)) < len(dear_token.padded(rows_of))
    assert sum(run.shape.tokens for run in dear_token.padded(rows_of)) == 112 + 3 * 80


@given(max_tokens=st.integers(1, 9000), run_tokens=st.integers(1, 4096))
def test_shapes_cover_every_length_and_stay_few(max_tokens: int, run_tokens: int) -> None:
    shapes = run_shapes(run_tokens=run_tokens, max_tokens=max_tokens)

    assert len(set(shapes)) == len(shapes)
    assert max(shape.width for shape in shapes) >= max_tokens
    assert all(shape.rows == 1 or shape.tokens <= run_tokens for shape in shapes)
    assert len(row_widths(max_tokens)) <= 64


@given(max_tokens=st.integers(129, 9000))
def test_widths_step_by_a_quarter_at_most(max_tokens: int) -> None:
    widths = row_widths(max_tokens)

    for low, high in pairwise(widths):
        assert high - low <= max(16, low / 4)


def test_no_sequences_need_no_runs() -> None:
    assert PLANNER.packed([]) == []
    assert PLANNER.padded([]) == []


def test_a_shape_counts_its_tokens() -> None:
    assert Shape(3, 32).tokens == 96
