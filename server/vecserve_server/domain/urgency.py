"""How soon a request wants to be served.

Owns what a caller may say about it. Must not know queues.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Urgency:
    """Times are monotonic nanoseconds."""

    priority: int = 0
    """1 is the highest; 0: the model's default."""
    deadline_ns: int | None = None
    """When the caller stops waiting."""
    start_by_ns: int | None = None
    """When its run must have begun; None: as the model is configured."""
