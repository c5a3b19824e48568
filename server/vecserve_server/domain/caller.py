"""Who makes a call.

Owns what the server knows of a caller. Must not know how it was found out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The one who waits for an answer; anonymous where nobody said who it is."""

    who: str = ""
    tenant: str = ""
    """Whose data the call may see and whose share of the server it takes."""
    deadline_ns: int | None = None
    """Monotonic time at which it stops waiting; None: it waits for as long as it takes."""


ANONYMOUS = Caller()
"""Nobody said who it is, and it waits for as long as it takes."""
