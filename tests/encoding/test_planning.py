"""Planning: every sequence once, in a shape that holds it, at the least cost."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vecserve.inference import model_config_pb2
from vecserve_server.domain.shapes import (
    MAX_SHAPES,
    Shape,
    count_shapes,
    prepared_shapes,
    row_widths,
    run_shapes,
)
from vecserve_server.encoding.cost_model import CostModel, measured_shapes
from vecserve_server.encoding.planning import Run, RunPlanner
from vecserve_server.engines.registry import shipped_engines
from vecserve_server.errors import ModelError
from vecserve_server.model_files.encoder_config import encoder_config

LENGTHS = st.lists(st.integers(1, 256), min_size=1, max_size=50)
COST = CostModel(fixed_s=1.5e-3, token_s=65e-6, pair_s=1e-7)
SHAPES = run_shapes(run_tokens=256, max_tokens=256)
PLANNER = RunPlanner(shapes=SHAPES, cost=COST.predict, row_tokens=128)


def seconds(runs: list[Run]) -> float:
    return sum(COST.predict(run.shape) for run in runs)


def text_encoder(**parameters: object) -> model_config_pb2.ModelConfig:
    proto = model_config_pb2.ModelConfig(name="m", backend="vecserve", max_batch_size=8)
    proto.input.add(name="text", data_type=model_config_pb2.TYPE_STRING, dims=[1])
    proto.output.add(name="embedding", data_type=model_config_pb2.TYPE_FP32, dims=[4])
    for key, value in parameters.items():
        proto.parameters[key].string_value = str(value)
    return proto


def check(
    runs: list[Run], lengths: list[int], shapes: Collection[Shape] = frozenset(SHAPES)
) -> None:
    placed = [index for run in runs for row in run.rows for index in row]
    assert sorted(placed) == list(range(len(lengths)))
    for run in runs:
        assert run.shape in shapes
        assert len(run.rows) <= run.shape.rows
        for row in run.rows:
            assert sum(lengths[index] for index in row) <= run.shape.width


SIZES = st.integers(8, 8192)


@given(
    max_tokens=SIZES,
    row_tokens=SIZES,
    run_tokens=SIZES,
    shared=st.booleans(),
    parts=st.lists(st.floats(0, 1), min_size=1, max_size=60),
)
@settings(max_examples=60, deadline=None)
def test_every_configuration_that_is_accepted_can_be_planned(
    max_tokens: int, row_tokens: int, run_tokens: int, shared: bool, parts: list[float]
) -> None:
    lengths = [max(1, round(part * max_tokens)) for part in parts]
    sizes = {"max_tokens": max_tokens, "row_tokens": row_tokens, "run_tokens": run_tokens}
    proto = text_encoder(**{**sizes, "layout": "packed" if shared else "padded"})
    if count_shapes(run_tokens=run_tokens, max_tokens=max_tokens, shared=shared) > MAX_SHAPES:
        with pytest.raises(ModelError, match=r'"run_tokens" .* with max_tokens'):
            encoder_config(proto, shipped_engines().encoder_names)
        return
    encoder_config(proto, shipped_engines().encoder_names)
    shapes = run_shapes(run_tokens=run_tokens, max_tokens=max_tokens, shared=shared)
    planner = RunPlanner(shapes=shapes, cost=COST.predict, row_tokens=row_tokens)
    runs = planner.packed(lengths) if shared else planner.padded(lengths)
    check(runs, lengths, frozenset(shapes))
    assert measured_shapes(shapes, run_tokens)


def test_sizes_with_too_many_shapes_are_refused_by_name() -> None:
    proto = text_encoder(max_tokens=16, run_tokens=1_000_000)
    with pytest.raises(ModelError, match=r'"run_tokens" "1000000" with max_tokens "16" makes'):
        encoder_config(proto, shipped_engines().encoder_names)


@given(run_tokens=SIZES, max_tokens=SIZES, shared=st.booleans())
def test_shapes_are_counted_without_making_them(
    run_tokens: int, max_tokens: int, shared: bool
) -> None:
    made = run_shapes(run_tokens=run_tokens, max_tokens=max_tokens, shared=shared)
    counted = count_shapes(run_tokens=run_tokens, max_tokens=max_tokens, shared=shared)
    assert counted == len(made)


def test_what_most_models_run_is_prepared_for() -> None:
    assert prepared_shapes(SHAPES, run_tokens=256) == [s for s in SHAPES if s.tokens <= 512]
    many = run_shapes(run_tokens=8192, max_tokens=8192)
    assert sum(shape.tokens for shape in prepared_shapes(many, run_tokens=8192)) <= 1 << 19


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
