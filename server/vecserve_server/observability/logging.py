"""Log records as `event=… key=value` lines or JSON objects on standard error.

Owns the format. Must not know who logs. Records never hold texts, payloads or vectors.
"""

from __future__ import annotations

import json
import logging
import sys
import time

from vecserve_server.observability.printable import one_word, printable

LOGGER_NAME = "vecserve"


def get_logger(part: str) -> logging.Logger:
    """Return the logger of one part of the server."""
    return logging.getLogger(f"{LOGGER_NAME}.{part}")


def log_event(logger: logging.Logger, level: int, event: str, **fields: object) -> None:
    """Log one event with its fields."""
    logger.log(level, event, extra={"fields": fields})


def configure(*, level: str, as_json: bool) -> None:
    """Send the server's records to standard error, and the warnings of its libraries."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(JsonFormatter() if as_json else TextFormatter())
    ours, libraries = logging.getLogger(LOGGER_NAME), logging.getLogger()
    ours.handlers[:] = libraries.handlers[:] = [stream]
    ours.setLevel(level.upper())
    ours.propagate = False
    libraries.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def record_fields(record: logging.LogRecord) -> dict[str, object]:
    """Collect what a line says, in its order."""
    seconds, millis = divmod(int(record.created * 1000), 1000)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    head: dict[str, object] = {
        "time": f"{stamp}.{millis:03d}Z",
        "level": record.levelname.lower(),
        "part": record.name.removeprefix(f"{LOGGER_NAME}."),
        "event": record.getMessage(),
    }
    return head | getattr(record, "fields", {})


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Render a record, with its traceback if it has one."""
        fields = record_fields(record)
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


class TextFormatter(logging.Formatter):
    """`time level part event key=value …`."""

    def format(self, record: logging.LogRecord) -> str:
        """Render a record, with its traceback if it has one."""
        fields = record_fields(record)
        head = f"{fields.pop('time')} {fields.pop('level')!s:7} {fields.pop('part')}: "
        event = printable(f"{fields.pop('event')}")
        line = head + " ".join([event, *(f"{k}={one_word(str(v))}" for k, v in fields.items())])
        if not record.exc_info:
            return line
        # Set in, so that no line of a traceback, which may quote a client, looks like a record.
        trace = self.formatException(record.exc_info).splitlines()
        return "\n".join([line, *(f"  {printable(each)}" for each in trace)])
