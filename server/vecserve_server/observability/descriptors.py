"""How many files and connections this process may have open (Linux).

Owns the limit. Must not know what is opened.
"""

from __future__ import annotations

import logging
import resource
from contextlib import suppress

from vecserve_server.observability.logging import get_logger, log_event

# More than any server needs; some containers allow a thousand times as many.
_ENOUGH = 1 << 20


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one, which takes no privilege; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    limit = _ENOUGH if soft == resource.RLIM_INFINITY else soft
    if limit < wanted:
        # A sandbox may forbid it; then the limit is as it was.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            limit = wanted
    log_event(get_logger("process"), logging.INFO, "open_files", limit=limit, before=soft)
    return limit
