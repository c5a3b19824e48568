"""Conditions as they are typed: `price<20`, `brand=Acme`, `title^=Red`, `!colour`.

Owns that short language; several conditions all hold. Must not know servers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from vecserve.v1.search_pb2 import Filter
from vecserve_client import filters
from vecserve_server.cli.exits import UsageProblem

HELP = "FIELD=VALUE, also != < <= > >= ^= (begins with); FIELD or !FIELD (repeatable: all hold)."
_CONDITION = re.compile(r"(?P<field>[^=<>!^]+)(?P<sign>!=|<=|>=|\^=|=|<|>)(?P<value>.*)", re.DOTALL)
_BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def read_conditions(typed: Sequence[str]) -> Filter | None:
    """Read what was typed; None if that is nothing. Raises UsageProblem."""
    read = [_read(text) for text in typed]
    if len(read) > 1:
        return filters.all_of(*read)
    return read[0] if read else None


def _read(text: str) -> Filter:
    match = _CONDITION.fullmatch(text)
    if match is None:
        field = text.removeprefix("!").strip()
        if not field or re.search(r"[=<>!^]", field):
            raise UsageProblem(f"--where {text!r}: is no condition; {HELP}")
        return filters.exists(field, there=not text.startswith("!"))
    field, sign, value = match["field"].strip(), match["sign"], match["value"].strip()
    if sign == "^=":
        return filters.prefix(field, value)
    if sign in _BOUNDS:
        return filters.between(field, **{_BOUNDS[sign]: value})
    equal = filters.equals(field, _value(value))
    return filters.negate(equal) if sign == "!=" else equal


def _value(text: str) -> Any:
    """Read a JSON scalar; what is none is a string."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, dict | list) else value
