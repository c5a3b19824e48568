"""CPU time of the servers, with all that they started.

Owns reading /proc. Where other work shares the machine, texts per CPU second compare better than
texts per second. Must not know what the processes do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PARENT, _USER, _SYSTEM = 1, 11, 12
"""Fields of /proc/PID/stat after the name, which is in parentheses."""


def descendants(pid: int) -> set[int]:
    """Return the processes that a process started, and those that they started."""
    parents = {
        int(folder.name): int(fields[_PARENT])
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit() and (fields := _stat(int(folder.name)))
    }
    found: set[int] = set()
    new = {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds that processes have used; those that ended count as none."""
    ticks = (int(f[_USER]) + int(f[_SYSTEM]) for pid in pids if (f := _stat(pid)))
    return sum(ticks) / _TICKS_PER_S


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
