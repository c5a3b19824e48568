"""RFC 3339 dates and date-times as microseconds since 1970, in Python and in SQL.

Owns what a valid date is; both forms agree on every text. Must not know tables.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_PATTERN = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ](?P<time>[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.(?P<fraction>[0-9]+))?"
    r"(?:[Zz]|(?P<sign>[+-])(?P<hours>[01][0-9]|2[0-3]):(?P<minutes>[0-5][0-9])))?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def parse_instant(text: str) -> int | None:
    """Read an RFC 3339 date (its midnight in UTC) or date-time; None if it is neither.

    Digits after the microseconds are dropped. There is no year 0 and no leap second.
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        return None
    try:
        whole = datetime.fromisoformat(f"{match['date']} {match['time'] or '00:00:00'}+00:00")
    except ValueError:
        return None
    offset = timedelta(hours=int(match["hours"] or 0), minutes=int(match["minutes"] or 0))
    east = -offset if match["sign"] == "-" else offset
    fraction_us = int((match["fraction"] or "")[:6].ljust(6, "0"))
    return (whole - _EPOCH - east) // _MICROSECOND + fraction_us


def instant_sql(text: str) -> str:
    """Write the SQL that computes `parse_instant` of the SQL expression `text`, else NULL."""
    zone = f"(CASE WHEN {text} GLOB '*[Zz]' THEN '+00:00' ELSE substr({text}, -6) END)"
    zone_length = f"(CASE WHEN {text} GLOB '*[Zz]' THEN 1 ELSE 6 END)"
    fraction = f"substr({text}, 20, length({text}) - 19 - {zone_length})"
    date, time = f"substr({text}, 1, 10)", f"substr({text}, 12, 8)"
    return f"""CASE
        WHEN NOT ({_date_sql(date)}) THEN NULL
        WHEN length({text}) = 10 THEN CAST(strftime('%s', {text}) AS INTEGER) * 1000000
        WHEN length({text}) > 19 AND substr({text}, 11, 1) GLOB '[Tt ]'
            AND {time} GLOB '[0-2][0-9]:[0-5][0-9]:[0-5][0-9]' AND {time} < '24'
            AND {zone} GLOB '[-+][0-2][0-9]:[0-5][0-9]' AND substr({zone}, 2, 2) < '24'
            AND ({fraction} = '' OR ({fraction} GLOB '.[0-9]*'
                AND substr({fraction}, 2) NOT GLOB '*[^0-9]*'))
        THEN (CAST(strftime('%s', {date} || ' ' || {time}) AS INTEGER)
            - (CASE substr({zone}, 1, 1) WHEN '-' THEN -60 ELSE 60 END)
            * (60 * CAST(substr({zone}, 2, 2) AS INTEGER)
                + CAST(substr({zone}, 5, 2) AS INTEGER))) * 1000000
            + CAST(substr(substr({fraction}, 2) || '000000', 1, 6) AS INTEGER)
        END"""


def _date_sql(date: str) -> str:
    # Moving a date by no days makes SQLite compute it, and 31 February becomes another text.
    return (
        f"{date} GLOB '[0-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9]' AND {date} >= '0001'"
        f" AND coalesce(date({date}, '+0 days') = {date}, 0)"
    )
