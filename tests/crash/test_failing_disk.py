"""Calls that fail: the disk is full, or broken, or takes half of what it was given."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.conftest import Sweep
from tests.crash.faults import Kind
from tests.crash.scenarios import SCENARIOS

pytestmark = pytest.mark.slow
EVERY = {Kind.IO_ERROR: 5, Kind.NO_SPACE: 7, Kind.SHORT_WRITE: 5, Kind.READ_ERROR: 5}


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.name)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_failing_call_is_told_and_loses_nothing(
    scenario: str, kind: Kind, sweep: Sweep, library: Path
) -> None:
    """Afterwards the store goes on, in the same process and after a restart."""
    outcomes = sweep(scenario, kind, stride=EVERY[kind], library=library)
    assert outcomes["went on"] >= 1, "the end was not reached"
    if kind is not Kind.SHORT_WRITE:  # which is written again
        assert outcomes["failed and went on"] + outcomes["refused to open"] >= 1
