"""No value, whoever gave it, can forge a line of the log or steer a terminal."""

from __future__ import annotations

import json
import logging
import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vecserve_server.observability.logging import JsonFormatter, TextFormatter
from vecserve_server.observability.printable import one_word, printable

FORGED = "x\n2026-01-01T00:00:00.000Z info    app: ready"
FORMATTERS = [TextFormatter(), JsonFormatter()]


def record(event: str, failure: Exception | None = None, **fields: object) -> logging.LogRecord:
    info = None
    if failure is not None:
        try:
            raise failure
        except type(failure):
            info = sys.exc_info()
    made = logging.LogRecord("vecserve.trace", logging.INFO, "", 0, event, (), info)
    made.fields = fields
    return made


def is_harmless(text: str) -> bool:
    return all(unicodedata.category(c)[0] != "C" and c.isprintable() for c in text)


@pytest.mark.parametrize("formatter", FORMATTERS)
@given(st.text())
@example(FORGED)
@example("\x1b[31mred\x9b1m\r\x00\x7f")
@example("\u202eabc\u2028\u2066\ufeff\u200b\U000e0041")
@example('a" other=forged')
@example("")
def test_a_value_stays_one_printable_word_of_its_line(
    formatter: logging.Formatter, value: str
) -> None:
    line = formatter.format(record("trace", request_id=value, last=1))
    assert is_harmless(line)
    if isinstance(formatter, JsonFormatter):
        assert json.loads(line)["request_id"] == value
        return
    assert line.endswith(f" info    trace: trace request_id={one_word(value)} last=1")
    quoted = one_word(value)
    assert (json.loads(quoted) if quoted.startswith('"') else quoted) == value


@given(st.text())
@example(FORGED)
def test_no_line_of_a_traceback_looks_like_a_record(words: str) -> None:
    text = TextFormatter().format(record("call_failed", ValueError(words)))
    first, *others = text.split("\n")
    assert "Traceback" in others[0]
    assert is_harmless(first)
    assert all(line.startswith("  ") and is_harmless(line) for line in others)


@given(st.text())
@example(FORGED)
def test_an_event_of_a_library_stays_on_its_line(event: str) -> None:
    assert is_harmless(TextFormatter().format(record(event.replace("%", ""))))


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_what_prints_is_left_as_it_is(text: str) -> None:
    assert printable(text + " ") == text + " "
