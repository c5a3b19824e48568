"""Where this process, its libraries and its children put temporary files.

Owns the process's settings for that: such files may hold the texts and models of others, so they
belong below a folder that the operator has named, never below `/tmp`. Must not know their content.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

_VARIABLES = ("TMPDIR", "SQLITE_TMPDIR")


@contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Have temporary files made in a folder that exists, until the block ends.

    Nothing else may make any at the moment when the block begins or ends: it is of the process.
    """
    place = str(folder.absolute())
    before = {name: os.environ.get(name) for name in _VARIABLES}
    tempdir = tempfile.tempdir
    os.environ.update(dict.fromkeys(_VARIABLES, place))
    tempfile.tempdir = place
    _tell_sqlite(place)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        tempfile.tempdir = tempdir
        _tell_sqlite("")


def _tell_sqlite(place: str) -> None:
    # It has read the environment already, when Python's module was imported.
    quoted = place.replace("'", "''")
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"PRAGMA temp_store_directory = '{quoted}'")
