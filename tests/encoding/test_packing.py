"""Packing: every token once, nothing else, in rows of bounded length."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.encoding.packing import pack, plan_rows, plan_runs

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=60)
ROW_TOKENS = st.integers(1, 256)


@given(lengths=LENGTHS, row_tokens=ROW_TOKENS)
def test_every_sequence_is_in_exactly_one_row(lengths: list[int], row_tokens: int) -> None:
    rows = plan_rows(lengths, row_tokens)

    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))


@given(lengths=LENGTHS, row_tokens=ROW_TOKENS)
def test_a_row_is_over_the_limit_only_for_one_long_sequence(
    lengths: list[int], row_tokens: int
) -> None:
    for row in plan_rows(lengths, row_tokens):
        assert sum(lengths[index] for index in row) <= row_tokens or len(row) == 1


@given(lengths=LENGTHS, row_tokens=ROW_TOKENS)
def test_at_most_one_row_is_half_empty(lengths: list[int], row_tokens: int) -> None:
    filled = [sum(lengths[index] for index in row) for row in plan_rows(lengths, row_tokens)]

    assert sum(2 * tokens <= row_tokens for tokens in filled) <= 1


@given(lengths=LENGTHS, row_tokens=ROW_TOKENS, run_tokens=st.integers(1, 512))
def test_runs_hold_every_row_once_within_their_area(
    lengths: list[int], row_tokens: int, run_tokens: int
) -> None:
    rows = plan_rows(lengths, row_tokens)
    runs = plan_runs(rows, lengths, run_tokens)

    assert sorted(row for run in runs for row in run) == sorted(rows)
    for run in runs:
        width = max(sum(lengths[index] for index in row) for row in run)
        assert len(run) * width <= run_tokens or len(run) == 1


@given(lengths=LENGTHS, row_tokens=ROW_TOKENS)
def test_the_sequences_can_be_read_back_from_the_feeds(lengths: list[int], row_tokens: int) -> None:
    sequences = [np.arange(length) + 1000 * (i + 1) for i, length in enumerate(lengths)]
    rows = plan_rows(lengths, row_tokens)
    feeds = pack(sequences, rows)

    order = [index for row in rows for index in row]
    assert feeds["seqs"].tolist() == list(range(len(sequences)))
    for segment, index in enumerate(order):
        cells = feeds["segment_ids"] == segment
        np.testing.assert_array_equal(feeds["input_ids"][cells], sequences[index])
        np.testing.assert_array_equal(feeds["position_ids"][cells], np.arange(lengths[index]))
        assert np.count_nonzero(cells.any(axis=1)) == 1, "a sequence straddles rows"
    assert np.count_nonzero(feeds["segment_ids"] >= 0) == sum(lengths)


@given(lengths=LENGTHS, row_tokens=ROW_TOKENS)
def test_the_grid_is_as_wide_as_the_longest_row(lengths: list[int], row_tokens: int) -> None:
    rows = plan_rows(lengths, row_tokens)
    feeds = pack([np.zeros(length, np.int64) for length in lengths], rows)

    widest = max(sum(lengths[index] for index in row) for row in rows)
    for name in ("input_ids", "position_ids", "segment_ids"):
        assert feeds[name].shape == (len(rows), widest)
        assert feeds[name].dtype == np.int64


def test_nothing_to_plan_gives_no_rows() -> None:
    assert plan_rows([], 128) == []
    assert plan_runs([], [], 256) == []
