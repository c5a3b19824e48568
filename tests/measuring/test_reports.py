"""Results are told as one JSON object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.measuring.reports import Report, as_json, print_report, tell


@dataclass(frozen=True)
class Part:
    p50_ms: float
    refused_ms: float | None = None


@dataclass(frozen=True)
class Whole:
    name: str
    parts: Mapping[str, Part]
    rounds: tuple[Part, ...]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), plain))
def test_what_is_plain_stays_as_it_is(report: Report) -> None:
    assert as_json(report) == report
    assert json.loads(json.dumps(as_json(report))) == report


def test_results_within_results_are_told_by_their_fields() -> None:
    result = Whole("x", {"a b / c": Part(1.5)}, (Part(2.0, 3.0),))
    assert as_json(result) == {
        "name": "x",
        "parts": {"a b / c": {"p50_ms": 1.5}},
        "rounds": [{"p50_ms": 2.0, "refused_ms": 3.0}],
    }


def test_a_report_is_all_that_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    part = tell("alone", Part(1.0))
    print_report(part)
    out, err = capsys.readouterr()
    assert json.loads(out) == {"p50_ms": 1.0}
    assert err.endswith(' alone {"p50_ms": 1.0}\n')
