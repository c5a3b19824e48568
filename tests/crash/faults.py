"""Faults of file-system calls in a child process: it dies before one of them, or they fail.

Owns how faults get into a process: by a preloaded library where there is a C compiler, otherwise
by what Python itself announces. The product knows nothing of it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol

FOR_EVER = 1 << 40
COMPILER = shutil.which("cc")
NO_COMPILER = "there is no C compiler `cc` to build the library that lets file-system calls fail"
_SOURCES = [Path(__file__).with_name(name) for name in ("faults.c", "power_cut.c")]
_PRELOADED = "VECSERVE_TEST_FAULTS"
_ANNOUNCED = frozenset(
    {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "sqlite3.connect"}
)


class Kind(IntEnum):
    """What happens at a step; the numbers are those of faults.c."""

    KILL = 1
    IO_ERROR = 2
    NO_SPACE = 3
    SHORT_WRITE = 4
    READ_ERROR = 5
    POWER_CUT = 6
    """It dies, and the folder is as a disk may be then: nothing is there that no fsync covered."""

    @property
    def is_death(self) -> bool:
        """Whether nobody is left to be told."""
        return self in (Kind.KILL, Kind.POWER_CUT)


class Faults(Protocol):
    """Faults in this process, from `arm` on."""

    def arm(self, root: Path, kind: Kind, step: int, *, steps: int = 1) -> None:
        """Count calls that concern paths below `root`; from the one numbered `step` (0 is the
        first) on, `steps` of them fail."""
        ...

    def disarm(self) -> None:
        """Let everything succeed from now on."""
        ...

    def steps(self) -> int:
        """Tell how many calls counted since `arm`."""
        ...


def build_library(folder: Path) -> Path:
    """Compile the library that is to be preloaded."""
    assert COMPILER is not None
    library = folder / "faults.so"
    command = [COMPILER, "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command += ["-o", str(library), *map(str, _SOURCES), "-ldl", "-lpthread"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def kept_folder(root: Path) -> Path:
    """Say where faults.c keeps what a power cut takes back."""
    return root.with_name(root.name + ".kept")


def environ_with(library: Path | None) -> dict[str, str]:
    """Make the environment of a child into which faults can come."""
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    preload = {"LD_PRELOAD": str(library), _PRELOADED: "1"} if library else {}
    return os.environ | one_thread | {"PYTHONDONTWRITEBYTECODE": "1"} | preload


def faults_here() -> Faults:
    """Return the faults that this process can have."""
    return LibraryFaults() if _PRELOADED in os.environ else PythonFaults()


class LibraryFaults:
    """Every call of every library, by the preloaded faults.c."""

    def __init__(self) -> None:
        self._library: Any = ctypes.CDLL(None)
        self._library.fault_steps.restype = ctypes.c_long

    def arm(self, root: Path, kind: Kind, step: int, *, steps: int = 1) -> None:
        """See `Faults.arm`."""
        below = os.fsencode(root.resolve())
        kept_folder(root).mkdir(exist_ok=True)
        first, count = ctypes.c_long(step), ctypes.c_long(steps)
        self._library.fault_arm(below, int(kind), first, count)

    def disarm(self) -> None:
        """See `Faults.disarm`."""
        self._library.fault_disarm()

    def steps(self) -> int:
        """See `Faults.steps`."""
        return int(self._library.fault_steps())


class PythonFaults:
    """Only kills, and only before what Python's own functions do: the named steps."""

    def __init__(self) -> None:
        self._armed = False
        self._steps = 0

    def arm(self, root: Path, kind: Kind, step: int, *, steps: int = 1) -> None:
        """See `Faults.arm`; once in a process."""
        assert kind is Kind.KILL
        fsync = os.fsync

        def count() -> None:
            if self._armed:
                if self._steps == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                self._steps += 1

        def on_event(event: str, details: tuple[object, ...]) -> None:
            if event in _ANNOUNCED and (event != "open" or _writes(details)):
                count()

        def counted_fsync(descriptor: int) -> None:
            count()
            fsync(descriptor)

        os.fsync = counted_fsync  # type: ignore[assignment]
        self._armed = True
        sys.addaudithook(on_event)

    def disarm(self) -> None:
        """See `Faults.disarm`."""
        self._armed = False

    def steps(self) -> int:
        """See `Faults.steps`."""
        return self._steps


def _writes(details: tuple[object, ...]) -> bool:
    _, mode, flags = details
    changing = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    return bool(changing) or (isinstance(mode, str) and any(letter in mode for letter in "wax+"))
