"""kill -9 before every step of write, seal, publish, compact and what else changes files.

After a power cut only that is on the disk what an fsync covered: a file that was renamed too early
is there, but empty, and a name whose folder was not synced is as before.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.conftest import STRIDE, Sweep
from tests.crash.faults import Kind
from tests.crash.scenarios import SCENARIOS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_kill_before_any_named_step_loses_nothing(scenario: str, sweep: Sweep) -> None:
    """The steps that Python takes: opens for writing, fsyncs, renames, removals."""
    outcomes = sweep(scenario, Kind.KILL, stride=1, library=None)
    assert outcomes["killed"] >= 10 // STRIDE


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_kill_before_any_call_of_any_library_loses_nothing(
    scenario: str, sweep: Sweep, library: Path
) -> None:
    """SQLite's, NumPy's and USearch's own writes, too: a file may end anywhere."""
    outcomes = sweep(scenario, Kind.KILL, stride=3, library=library)
    assert outcomes["killed"] >= 30 // STRIDE


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_power_cut_before_any_call_loses_nothing(
    scenario: str, sweep: Sweep, library: Path
) -> None:
    outcomes = sweep(scenario, Kind.POWER_CUT, stride=3, library=library)
    assert outcomes["killed"] >= 30 // STRIDE
