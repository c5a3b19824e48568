"""What a collection's file of rows says about all rows: how many there are, and the last seq.

Owns the check that no seq can be given out twice. Must not know single rows.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from vecserve_server.errors import CorruptData


def row_count(writer: sqlite3.Connection) -> int:
    """Count the rows. Raises sqlite3.Error."""
    return int(_single(writer, "SELECT COUNT(*) FROM rows"))


def last_seq(writer: sqlite3.Connection, path: Path) -> int:
    """Read the highest seq ever given out. Raises CorruptData if it is lost, sqlite3.Error."""
    found = writer.execute("SELECT seq FROM sqlite_sequence WHERE name = 'rows'").fetchone()
    used = _single(
        writer,
        "SELECT max(ifnull((SELECT max(seq) FROM rows), 0), "
        "ifnull((SELECT max(seq) FROM removed), 0))",
    )
    # A seq that is given out twice would bring a removed row back.
    if found is None or not isinstance(found[0], int) or found[0] < used:
        raise CorruptData(f"{path}: is damaged: the last seq given out is lost")
    return found[0]


def _single(connection: sqlite3.Connection, statement: str) -> Any:
    return connection.execute(statement).fetchone()[0]
