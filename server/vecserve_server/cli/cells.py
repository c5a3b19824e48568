"""What the text of a CSV cell means where its column has a type.

Owns the spelling of each type. Pure. Must not know files or records.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from vecserve_client.types import FieldType
from vecserve_server.domain.instants import parse_instant

NOTHING: Final = object()
"""Stands for an empty cell: the row does not have the field."""

SHOWN_CHARACTERS: Final = 40
_INTEGER = re.compile(r"[+-]?[0-9]{1,400}")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,6})?")
_NUMBER_CHARACTERS = 400
_BOOLEANS: Mapping[str, bool] = {
    **dict.fromkeys(("true", "yes", "1"), True),
    **dict.fromkeys(("false", "no", "0"), False),
}


def read_cell(text: str, kind: FieldType) -> Any:
    """Read a cell as a value of its type; raise ValueError that says what was expected.

    Text and keywords are the cell itself. Of the other types white space around the value does not
    count, and an empty cell is NOTHING.
    """
    if kind in ("keyword", "text"):
        return text
    spelt = text.strip()
    if not spelt:
        return NOTHING
    read, expected = _READERS[kind]
    value = read(spelt)
    if value is None:
        shown = spelt if len(spelt) <= SHOWN_CHARACTERS else f"{spelt[:SHOWN_CHARACTERS]}…"
        raise ValueError(f"{shown!r} is not {expected}")
    return value


def _integer(text: str) -> int | None:
    if not _INTEGER.fullmatch(text):
        return None
    value = int(text)
    return value if -(2**63) <= value < 2**63 else None


def _number(text: str) -> float | int | None:
    whole = _integer(text)
    if whole is not None:
        return whole
    if len(text) > _NUMBER_CHARACTERS or not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _boolean(text: str) -> bool | None:
    return _BOOLEANS.get(text.lower())


def _datetime(text: str) -> str | None:
    return text if parse_instant(text) is not None else None


_READERS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "integer": (_integer, "an integer of 64 bits"),
    "number": (_number, "a number, such as 12.5"),
    "boolean": (_boolean, "a boolean: true or false, yes or no, 1 or 0"),
    "datetime": (
        _datetime,
        "an RFC 3339 date or date-time, such as 2024-03-10 or 2024-03-10T02:30:00Z",
    ),
}
