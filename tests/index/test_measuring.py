"""Measured costs."""

from __future__ import annotations

import pytest

from vecserve_server.index.building.measuring import MeasuredCosts
from vecserve_server.index.vectors.planning import Costs


def test_costs_are_measured_once_in_another_process() -> None:
    costs = MeasuredCosts()
    found = costs.measure(16)
    assert found != Costs()
    assert min(found.delta_row_us, found.scan_row_us, found.gather_row_us, found.graph_us) > 0
    assert costs.measure(16) is found


def test_what_cannot_be_measured_is_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/no/such/interpreter")
    assert MeasuredCosts().measure(16) == Costs()
