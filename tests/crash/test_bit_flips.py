"""Bits flipped at random places of a data folder: no wrong answer stays unnoticed.

`VECSERVE_CRASH_FLIPS` says at how many places, 200 unless set.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.crash.conftest import run_child

pytestmark = pytest.mark.slow
FLIPS = int(os.environ.get("VECSERVE_CRASH_FLIPS", "200"))
SEED = int(os.environ.get("VECSERVE_CRASH_SEED", "0"))


def test_every_wrong_answer_is_found_and_mended_or_its_rows_are_named(tmp_path: Path) -> None:
    outcomes = run_child("bit_flips", str(tmp_path), str(FLIPS), str(SEED), library=None)
    print(f"VECSERVE_CRASH_SEED={SEED} {outcomes}")
    assert sum(sum(seen.values()) for seen in outcomes.values()) == FLIPS
