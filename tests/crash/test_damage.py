"""Flipped bits in every kind of file of a store that is not open.

Whatever the bit: the store says so and names the file or the row, or its answers are right; what
only shows where nobody looks, `verify` finds. A damaged segment is set aside and built anew while
the answers stay exact.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.crash.conftest import run_child

pytestmark = pytest.mark.slow
FLIPS = 15
SEED = int(os.environ.get("VECSERVE_CRASH_SEED", "0"))
KINDS = {
    "FORMAT": {"refused to open"},
    "ALIASES": {"refused to open"},
    "MANIFEST": {"refused to open"},
    "rows.sqlite": {"refused to open", "told when read", "found by verify", "right"},
    "rows.sqlite-wal": {"refused to open", "last write taken for torn", "right"},
    "rows.sqlite-shm": {"right"},
    "segments: MANIFEST": {"right"},
    "segments: RECORD": {"right"},
    "segments: graph.usearch": {"right"},
    "segments: vectors.f16": {"right"},
    "segments: seqs.i64": {"right"},
    "segments: quantiser.npz": {"right"},
    "snapshot: SNAPSHOT": {"refused to restore"},
    "snapshot: rows.sqlite": {"refused to restore"},
}


def test_no_flipped_bit_makes_an_answer_wrong_in_silence(tmp_path: Path) -> None:
    outcomes = run_child("damage", str(tmp_path), str(FLIPS), str(SEED), library=None)
    print(f"VECSERVE_CRASH_SEED={SEED} {outcomes}")
    assert outcomes.keys() == KINDS.keys()
    for kind, seen in outcomes.items():
        assert seen.keys() <= KINDS[kind], (kind, seen)
