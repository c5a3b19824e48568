"""A few bits flipped where nothing but a comparison with the rows can tell; more: test-crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.conftest import run_child

PARTS = ("rows_field_0", "rows_field_2", "words_data", "words_docsize")


@pytest.mark.slow
def test_no_wrong_answer_of_a_damaged_index_stays_unnoticed(tmp_path: Path) -> None:
    outcomes = run_child("bit_flips", str(tmp_path), "4", "2", *PARTS, library=None)
    assert any("repaired" in outcome for seen in outcomes.values() for outcome in seen)
