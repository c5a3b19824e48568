"""kill -9 in the middle of commits."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.endless_writer import DIM, IN_FLIGHT, operation
from vecserve_server.storage.rows.operations import Upsert
from vecserve_server.storage.rows.row_log import RowLog


@pytest.mark.parametrize("round_", range(10))
def test_after_a_kill_the_rows_are_those_of_a_prefix_with_all_that_was_acknowledged(
    tmp_path: Path, round_: int
) -> None:
    path = tmp_path / "rows.sqlite"
    acknowledged = _kill_while_writing(path, after_acks=random.Random(round_).randrange(1, 400))
    recovered = _rows(path)
    possible = itertools.islice(_states(), acknowledged, acknowledged + IN_FLIGHT + 1)
    assert recovered in list(possible)


def _kill_while_writing(path: Path, *, after_acks: int) -> int:
    """Return how many operations the killed process acknowledged."""
    script = Path(__file__).with_name("endless_writer.py")
    with subprocess.Popen(
        [sys.executable, str(script), str(path)], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        seen = sum(1 for _ in itertools.islice(child.stdout, after_acks))
        child.kill()
        seen += child.stdout.read().count(b"\n")
    assert seen >= after_acks
    return seen


def _rows(path: Path) -> dict[str, str]:
    log = RowLog.open(path, dim=DIM, model_digest="0f")
    rows = log.scan(after_seq=0, limit=1000, with_vectors=True)
    found = {row.id: row.payload_json for row in rows}
    assert len(found) == len(rows) == log.count()
    log.close()
    return found


def _states() -> Iterator[dict[str, str]]:
    """What the rows are after 0, 1, 2, … operations."""
    rows: dict[str, str] = {}
    for number in itertools.count():
        yield dict(rows)
        done = operation(number)
        if isinstance(done, Upsert):
            rows[done.id] = done.row.payload_json
        else:
            rows.pop(done.id, None)
