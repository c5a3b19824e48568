"""What request fields may hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from vecserve_server.domain.validation import (
    check_count,
    check_id,
    check_name,
    check_payload,
    check_text,
    check_vector,
)
from vecserve_server.errors import InvalidArgument

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), children, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), json_values, max_size=4))
def test_every_json_object_comes_back_with_the_same_value(payload: dict[str, object]) -> None:
    kept = check_payload("p", json.dumps(payload, indent=1), limit_bytes=1 << 20)
    assert json.loads(kept) == payload


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ("[1]", "must be a JSON object"),
        ("{", "is not valid JSON"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": 1e999}', "a number that is too large"),
        ('{"a": "\\ud800"}', "a lone surrogate"),
        ('{"a": "' + "x" * 100 + '"}', "has 109 bytes; the limit is 64"),
        ('{"a":' * 40 + "1" + "}" * 40, "has 241 bytes; the limit is 64"),
    ],
)
def test_other_payloads_are_refused(payload: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        check_payload("p", payload, limit_bytes=64)


@pytest.mark.parametrize("depth", [40, 100_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    with pytest.raises(InvalidArgument):
        check_payload("p", '{"a":' * depth + "1" + "}" * depth, limit_bytes=1 << 20)


@given(
    npst.arrays(np.float32, 8, elements=st.floats(-1e6, 1e6, width=32)).filter(
        lambda v: np.linalg.norm(v) > 1e-6
    )
)
def test_vectors_come_out_at_length_one(vector: np.ndarray) -> None:
    unit = check_vector("v", vector, dim=8)
    assert unit.dtype == np.float32
    assert abs(np.linalg.norm(unit) - 1) < 1e-5


@pytest.mark.parametrize(
    ("vector", "problem"),
    [
        (np.ones(7), "has 7 components; the collection has 8"),
        (np.array([np.nan] * 8), "NaN or infinity"),
        (np.array([np.inf] + [0] * 7), "NaN or infinity"),
        (np.zeros(8), "has length 0"),
    ],
)
def test_other_vectors_are_refused(vector: np.ndarray, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=f"v: .*{problem}"):
        check_vector("v", vector, dim=8)


@given(st.text(st.characters(codec="utf-8"), max_size=40), st.integers(1, 60))
def test_texts_are_measured_in_utf8_bytes(text: str, limit: int) -> None:
    if len(text.encode()) <= limit:
        assert check_text("t", text, limit_bytes=limit) == text
    else:
        with pytest.raises(InvalidArgument, match=f"the limit is {limit}"):
            check_text("t", text, limit_bytes=limit)


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "..", "x" * 129, "ä"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="1 to 128 characters"):
        check_name("name", name)


@pytest.mark.parametrize("row_id", ["", "a\nb", "a\x00", "x" * 513])
def test_bad_ids_are_refused(row_id: str) -> None:
    with pytest.raises(InvalidArgument):
        check_id("id", row_id, limit_bytes=512)


@pytest.mark.parametrize(("count", "fine"), [(0, False), (1, True), (10, True), (11, False)])
def test_batches_have_one_to_limit_items(count: int, fine: bool) -> None:
    if fine:
        check_count("rows", count, limit=10)
    else:
        with pytest.raises(InvalidArgument, match="10"):
            check_count("rows", count, limit=10)
