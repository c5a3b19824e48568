"""How much a thread yields to the others of its process.

Owns the one call to the system. Must not know what the threads do.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Final

_NICEST: Final = 19


def yield_to_others(niceness: int) -> None:
    """Make this thread nicer by 0 to 19, and with it all threads that it will start.

    Only on Linux has each thread a niceness of its own (sched(7)); elsewhere nothing happens.
    """
    if sys.platform == "linux" and niceness:
        thread = threading.get_native_id()
        now = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(now + niceness, _NICEST))
