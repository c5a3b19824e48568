"""Dates and date-times as microseconds since 1970, in Python and in SQL.

Owns what a valid date is: RFC 3339, and what Python's isoformat writes. Both forms agree on every
text. Must not know tables.
"""

from __future__ import annotations

import re
from datetime import date

_FRACTION = r"(?:\.(?P<{name}>[0-9]+))?"
_PATTERN = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ](?P<hour>[01][0-9]|2[0-3])"
    rf"(?::(?P<minute>[0-5][0-9])(?::(?P<second>[0-5][0-9]|60){_FRACTION.format(name='fraction')})?)?"
    r"(?:[Zz]|(?P<sign>[+-])(?P<hours>[01][0-9]|2[0-3]):(?P<minutes>[0-5][0-9])"
    rf"(?::(?P<seconds>[0-5][0-9]){_FRACTION.format(name='fractions')})?)?)?"
)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_SECOND_US = 1_000_000
_DAY_US = 86_400 * _SECOND_US


def parse_instant(text: str) -> int | None:
    """Read a date (its midnight) or a date-time; None if it is neither.

    Without a zone it is UTC. Minutes, seconds and their fraction may be left out; digits after the
    microseconds are dropped. A leap second, 23:59:60 in UTC, is the second after it. There is no
    year 0.
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        return None
    try:
        days = date.fromisoformat(match["date"]).toordinal() - _EPOCH_DAY
    except ValueError:
        return None
    since_midnight_us = _clock_us(match["hour"], match["minute"], match["second"])
    east_us = _clock_us(match["hours"], match["minutes"], match["seconds"])
    east_us += _fraction_us(match["fractions"])
    if match["sign"] == "-":
        east_us = -east_us
    whole_us = days * _DAY_US + since_midnight_us - east_us
    if match["second"] == "60" and whole_us % _DAY_US:
        return None
    return whole_us + _fraction_us(match["fraction"])


def instant_sql(text: str) -> str:
    """Write the SQL that computes `parse_instant` of the SQL expression `text`, else NULL."""
    # Up to the zone: to its sign, to its Z, or to the T where there is none.
    head = f"length(rtrim({text}, '0123456789:.'))"
    clock = f"substr({text}, 12, CASE {head} WHEN 11 THEN 99 + length({text}) ELSE {head} - 12 END)"
    zone = f"substr({text}, {head})"
    has_offset = f"({head} > 11 AND {zone} NOT GLOB '[Zz]')"
    day = f"substr({text}, 1, 10)"
    whole = (
        f"strftime('%s', {day}) * {_SECOND_US} + {_clock_sql(clock)}"
        f" - CASE WHEN {has_offset} THEN {_offset_sql(zone)} ELSE 0 END"
    )
    return f"""CASE
        WHEN NOT ({_date_sql(day)}) THEN NULL
        WHEN length({text}) = 10 THEN strftime('%s', {text}) * {_SECOND_US}
        WHEN substr({text}, 11, 1) NOT GLOB '[Tt ]' OR NOT ({_is_clock_sql(clock)})
            OR ({has_offset} AND NOT ({_is_offset_sql(zone)})) THEN NULL
        WHEN substr({clock}, 7, 2) = '60' AND ({whole}) % {_DAY_US} != 0 THEN NULL
        ELSE {whole} + {_fraction_sql(clock)}
        END"""


def _clock_us(hours: str | None, minutes: str | None, seconds: str | None) -> int:
    return (3600 * int(hours or 0) + 60 * int(minutes or 0) + int(seconds or 0)) * _SECOND_US


def _fraction_us(digits: str | None) -> int:
    return int((digits or "")[:6].ljust(6, "0"))


def _clock_sql(clock: str) -> str:
    # Texts count as the integers that they spell; what is missing is the empty text, and that is 0.
    return (
        f"(3600 * substr({clock}, 1, 2) + 60 * substr({clock}, 4, 2) + substr({clock}, 7, 2))"
        f" * {_SECOND_US}"
    )


def _fraction_sql(clock: str) -> str:
    return f"(0 + substr(substr({clock}, 10) || '000000', 1, 6))"


def _offset_sql(zone: str) -> str:
    offset = f"substr({zone}, 2)"
    return (
        f"(CASE substr({zone}, 1, 1) WHEN '-' THEN -1 ELSE 1 END)"
        f" * ({_clock_sql(offset)} + {_fraction_sql(offset)})"
    )


def _is_clock_sql(clock: str) -> str:
    return (
        f"({_has_seconds_sql(clock, '[0-6][0-9]')}"
        f" OR {clock} GLOB '[0-2][0-9]:[0-5][0-9]' OR {clock} GLOB '[0-2][0-9]')"
        f" AND {clock} < '24' AND substr({clock}, 7, 2) < '61'"
    )


def _is_offset_sql(zone: str) -> str:
    offset = f"substr({zone}, 2)"
    return (
        f"{zone} GLOB '[-+]*' AND {offset} < '24'"
        f" AND ({offset} GLOB '[0-2][0-9]:[0-5][0-9]' OR {_has_seconds_sql(offset, '[0-5][0-9]')})"
    )


def _has_seconds_sql(clock: str, seconds: str) -> str:
    return (
        f"({clock} GLOB '[0-2][0-9]:[0-5][0-9]:{seconds}*' AND (length({clock}) = 8"
        f" OR (substr({clock}, 9) GLOB '.[0-9]*' AND substr({clock}, 10) NOT GLOB '*[^0-9]*')))"
    )


def _date_sql(date: str) -> str:
    # Moving a date by no days makes SQLite compute it, and 31 February becomes another text.
    return (
        f"{date} GLOB '[0-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9]' AND {date} >= '0001'"
        f" AND coalesce(date({date}, '+0 days') = {date}, 0)"
    )
