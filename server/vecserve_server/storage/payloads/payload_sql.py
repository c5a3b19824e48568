"""The parts of a payload as SQL expressions.

Owns how SQLite's JSON functions are used so that JSON's types stay apart. Payloads are canonical
JSON: every string has one spelling, so strings are compared as they are spelt. That keeps escaped
NULs, at which SQLite's own strings would end.
"""

from __future__ import annotations

import json

from vecserve_server.domain.instants import instant_sql


def payload_path(field: str) -> str:
    """Write a dotted field name as a SQLite JSON path."""
    return "$" + "".join(f'."{key}"' for key in field.split("."))


def literal(text: str) -> str:
    """Quote a text for SQL."""
    return "'" + text.replace("'", "''") + "'"


def spelling(text: str) -> str:
    """Spell a string as payloads do."""
    return json.dumps(text, ensure_ascii=False)


def keyword_sql(path: str) -> str:
    """Write the string at `path`, a SQL expression, as it is spelt; NULL where there is none."""
    return f"CASE json_type(payload, {path}) WHEN 'text' THEN payload -> {path} END"


def number_sql(path: str) -> str:
    """Write the number at `path`, else NULL."""
    return (
        f"CASE WHEN json_type(payload, {path}) IN ('integer', 'real') "
        f"THEN json_extract(payload, {path}) END"
    )


def boolean_sql(path: str) -> str:
    """Write the boolean at `path` as 0 or 1, else NULL."""
    return f"CASE json_type(payload, {path}) WHEN 'true' THEN 1 WHEN 'false' THEN 0 END"


def text_sql(path: str) -> str:
    """Write the string at `path` as a text for people, else NULL."""
    return f"CASE json_type(payload, {path}) WHEN 'text' THEN json_extract(payload, {path}) END"


def instant_of_spelling_sql(spelt: str) -> str:
    """Write the instant that a spelt string names, else NULL; `spelt` is a column's name."""
    return instant_sql(f"trim({spelt}, '\"')")
