"""The logging extension: which levels of the server's log are written.

Owns the settings of the protocol. Must not know who logs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TypeAlias

from vecserve_server.errors import InvalidArgument, Unsupported

Value: TypeAlias = bool | int | str
LEVELS = {
    "log_info": logging.INFO,
    "log_warning": logging.WARNING,
    "log_error": logging.ERROR,
}
VERBOSE = "log_verbose_level"
# Set when the server starts.
FIXED: Mapping[str, Value] = {"log_file": "", "log_format": "ISO8601"}
MAX_VERBOSE = 100


class LogLevels(logging.Filter):
    """The settings, as a filter of one logger's handlers. Loop only."""

    def __init__(self, root: logging.Logger) -> None:
        super().__init__()
        self._root = root
        level = root.getEffectiveLevel()
        self._settings: dict[str, Value] = {
            name: number >= level for name, number in LEVELS.items()
        }
        self._settings[VERBOSE] = int(level <= logging.DEBUG)
        for handler in root.handlers:
            handler.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record's level is switched on; what is worse than an error always is."""
        for name, number in LEVELS.items():
            if record.levelno == number:
                return bool(self._settings[name])
        return record.levelno > logging.ERROR or bool(self._settings[VERBOSE])

    def settings(self) -> dict[str, Value]:
        """Return what is in force."""
        return {**FIXED, **self._settings}

    def update(self, settings: Mapping[str, Value | None]) -> None:
        """Set what is named: all of it or, on an error, nothing.

        Names that are not known here are passed over, as Triton does. Raises InvalidArgument or
        Unsupported that names the setting.
        """
        settings = {name: value for name, value in settings.items() if name in self.settings()}
        for name, value in settings.items():
            _check(name, value)
        self._settings |= {
            name: value
            for name, value in settings.items()
            if name not in FIXED and value is not None
        }
        # Loggers ask their level before any filter is asked.
        lowest = logging.DEBUG if self._settings[VERBOSE] else logging.INFO
        self._root.setLevel(lowest)


def _check(name: str, value: Value | None) -> None:
    if name in FIXED:
        if value != FIXED[name]:
            raise Unsupported(f"settings: {name!r} cannot be changed while the server runs")
        return
    if name in LEVELS:
        if not isinstance(value, bool):
            raise InvalidArgument("settings", f"{name!r} must be true or false")
        return
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_VERBOSE:
        raise InvalidArgument(
            "settings", f"{name!r} must be a whole number from 0 to {MAX_VERBOSE}"
        )
