"""Run a piece of work in a process that is killed just before its n-th change of a folder.

`python killed.py STEP MODULE FUNCTION ARGUMENT…` calls the function with the arguments as strings.
Nothing in the product knows of it: Python itself announces each open, rename, mkdir and removal.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

EVENTS = frozenset(
    {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "sqlite3.connect"}
)
KILLED = 97
ROOT = Path(__file__).parents[2]


def killed_at(step: int, module: str, function: str, *arguments: str | Path) -> bool:
    """Run the work in a child; returns whether it was killed before it came to its end."""
    command = [sys.executable, __file__, str(step), module, function, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | _path()
    )
    assert done.returncode in (0, KILLED), done.stderr
    return done.returncode == KILLED


def _path() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "PYTHONDONTWRITEBYTECODE": "1"}


def _main() -> None:
    step, module, function, *arguments = sys.argv[1:]
    work = getattr(importlib.import_module(module), function)
    left = int(step)

    def on_event(event: str, details: tuple[object, ...]) -> None:
        nonlocal left
        if event not in EVENTS or (event == "open" and not _writes(details)):
            return
        left -= 1
        if left < 0:
            os._exit(KILLED)

    sys.addaudithook(on_event)
    work(*arguments)


def _writes(details: tuple[object, ...]) -> bool:
    _, mode, flags = details
    changing = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    return bool(changing) or (isinstance(mode, str) and any(letter in mode for letter in "wax+"))


if __name__ == "__main__":
    _main()
