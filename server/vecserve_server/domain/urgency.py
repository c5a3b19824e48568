"""How soon a request wants to be served.

Owns what a caller may say about it. Must not know queues.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NEVER_NS: Final = 1 << 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Urgency:
    """Times are monotonic nanoseconds."""

    priority: int = 0
    """1 is the highest; 0: the model's default."""
    deadline_ns: int | None = None
    """When the caller stops waiting."""
    start_by_ns: int | None = None
    """When its run must have begun; None: as the model is configured."""

    @property
    def expires_ns(self) -> int:
        """When it has waited for too long for its run to begin; `NEVER_NS`: it never has."""
        deadline_ns = NEVER_NS if self.deadline_ns is None else self.deadline_ns
        return deadline_ns if self.start_by_ns is None else min(deadline_ns, self.start_by_ns)
