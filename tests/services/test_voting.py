"""The vote of neighbours: shares, order, and what distance does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.services.classifying import label_of
from vecserve_server.services.voting import Ballot, vote

BALLOT = Ballot(temperature=0.05, scope_cosine=0.8)
NEIGHBOURS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.floats(-1, 1, width=32)), max_size=20
)


@given(NEIGHBOURS)
def test_confidences_are_shares_of_one_whole(neighbours: list[tuple[str, float]]) -> None:
    scores = vote(neighbours, BALLOT)
    assert {score.label for score in scores} == {label for label, _ in neighbours}
    assert all(0 <= score.confidence < 1 for score in scores)
    assert sum(score.confidence for score in scores) < 1
    assert [s.confidence for s in scores] == sorted((s.confidence for s in scores), reverse=True)


@given(NEIGHBOURS.filter(bool))
def test_the_order_of_neighbours_does_not_matter(
    neighbours: list[tuple[str, float]],
) -> None:
    shuffled = sorted(neighbours)
    first, second = vote(neighbours, BALLOT), vote(shuffled, BALLOT)
    assert {s.label: pytest.approx(s.confidence) for s in first} == {
        s.label: s.confidence for s in second
    }


@given(NEIGHBOURS.filter(bool), st.floats(0.01, 0.5))
def test_the_farther_all_neighbours_are_the_less_is_sure(
    neighbours: list[tuple[str, float]], farther: float
) -> None:
    near = sum(score.confidence for score in vote(neighbours, BALLOT))
    moved = [(label, cosine - farther) for label, cosine in neighbours]
    assert sum(score.confidence for score in vote(moved, BALLOT)) < near


def test_one_row_that_is_the_query_itself_decides() -> None:
    (best, *_) = vote([("a", 1.0), ("b", 0.7), ("b", 0.7)], BALLOT)
    assert best.label == "a"
    assert best.confidence > 0.95


@pytest.mark.parametrize(
    ("payload", "label"),
    [
        ('{"x": "red"}', "red"),
        ('{"x": 3}', "3"),
        ('{"x": true}', "true"),
        ('{"x": ""}', ""),
        ('{"x": null}', None),
        ('{"x": ["red"]}', None),
        ("{}", None),
        ("", None),
    ],
)
def test_a_label_is_a_scalar(payload: str, label: str | None) -> None:
    assert label_of(payload, "x") == label


def test_dots_reach_into_objects_unless_a_key_has_them() -> None:
    assert label_of('{"a": {"b": "in"}}', "a.b") == "in"
    assert label_of('{"a": {"b": "in"}, "a.b": "out"}', "a.b") == "out"
    assert label_of('{"a": "in"}', "a.b") is None
