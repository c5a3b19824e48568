"""Which weights made the rows: their names and versions by digest.

Owns one table of the row log. Must not know what a model is.
"""

from __future__ import annotations

import sqlite3

from vecserve_server.domain.vectors import ModelRef


def name_model(writer: sqlite3.Connection, digest: str, name: str, version: str) -> None:
    """Note a digest's name and version, unless they are known or empty. Raises sqlite3.Error."""
    if name:
        statement = "INSERT OR IGNORE INTO models (digest, name, version) VALUES (?, ?, ?)"
        writer.execute(statement, (digest, name, version))


def read_models(connection: sqlite3.Connection) -> list[ModelRef]:
    """List the weights that made the rows; name and version of old ones may be empty."""
    statement = """
        SELECT DISTINCT rows.model, name, version
        FROM rows LEFT JOIN models ON digest = rows.model
    """
    found = connection.execute(statement).fetchall()
    decoded = [[(part or b"").decode() for part in columns] for columns in found]
    return [ModelRef(digest=d, name=name, version=version) for d, name, version in decoded]
