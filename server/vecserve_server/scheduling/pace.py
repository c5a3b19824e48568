"""How fast a queue is worked off, by what was seen of late.

Owns the measure and its forgetting. Sans I/O: times come in.
"""

from __future__ import annotations

from typing import Final

_KEPT: Final = 0.9
"""Part of the old measure that is left after another run: about the last ten count."""


class Pace:
    """The time that a token takes while others wait, all instances of a model together."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._taken_ns = 0.0
        self._busy_since_ns: int | None = None

    def ran(self, tokens: int, *, ended_ns: int, more_waits: bool) -> None:
        """Take note of a run. The time since the one before counts if work has waited since."""
        if self._busy_since_ns is not None:
            elapsed_ns = max(0, ended_ns - self._busy_since_ns)
            self._tokens = _KEPT * self._tokens + tokens
            self._taken_ns = _KEPT * self._taken_ns + elapsed_ns
        self._busy_since_ns = ended_ns if more_waits else None

    def predict_ns(self, tokens: int) -> int:
        """Tell how long so many tokens will take; 0 while nothing is known."""
        return int(tokens * self._taken_ns / self._tokens) if self._tokens else 0
