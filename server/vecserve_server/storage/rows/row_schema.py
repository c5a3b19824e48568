"""The tables of a collection's file of rows, and how an older file comes to have them.

Owns the migrations, one for each version of the schema. Must not know what is in the tables.
"""

from __future__ import annotations

from vecserve_server.storage.rows.sources import MIGRATION as KEEP_SOURCES

MIGRATIONS = (
    (
        """
        CREATE TABLE rows (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            vector BLOB NOT NULL,
            payload TEXT NOT NULL,
            model TEXT NOT NULL,
            checksum INTEGER NOT NULL
        ) STRICT
        """,
        "INSERT INTO sqlite_sequence (name, seq) VALUES ('rows', 0)",
    ),
    ("CREATE TABLE removed (seq INTEGER PRIMARY KEY) STRICT",),
    (
        """
        CREATE TABLE models (
            digest TEXT PRIMARY KEY, name TEXT NOT NULL, version TEXT NOT NULL
        ) STRICT
        """,
    ),
    KEEP_SOURCES,
)
