"""CPU time and memory of processes, with all that they started, and when they have come to rest.

Owns reading /proc. Where other work shares the machine, texts per CPU second compare better than
texts per second. Must not know what the processes do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_WATCHED_S: Final = 2.0
_IDLE_CORES: Final = 0.1
_PARENT, _USER, _SYSTEM = 1, 11, 12
"""Fields of /proc/PID/stat after the name, which is in parentheses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Resident memory of this process."""

    anonymous_bytes: int
    """Only its own."""
    file_bytes: int
    """Pages of files, which the kernel may drop."""


def own_memory() -> Memory:
    """Read the resident memory of this process."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    values = {name: value for name, _, value in (line.partition(":") for line in lines)}
    anonymous, of_files = (int(values[n].split()[0]) * 1024 for n in ("RssAnon", "RssFile"))
    return Memory(anonymous_bytes=anonymous, file_bytes=of_files)


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


def await_idle(pids: Iterable[int], *, timeout_s: float) -> None:
    """Wait until the processes do nothing: a server goes on preparing its models once it is ready.

    Raises TimeoutError.
    """
    pids = frozenset(pids)
    deadline_s = time.monotonic() + timeout_s
    before_s, used_s = cpu_s(pids), _WATCHED_S
    while used_s > _IDLE_CORES * _WATCHED_S:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"the server still works after {timeout_s:g} s")
        time.sleep(_WATCHED_S)
        used_s = cpu_s(pids) - before_s
        before_s += used_s


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
