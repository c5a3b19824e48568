"""Build a folder out of sight, then put it in place in one step.

Owns the order of write, fsync and rename. Must not know what the folder holds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STAGED, RETIRED = ".import-", ".retired-"
"""Names of unfinished and of replaced folders start so; readers of the repository skip them."""


@contextmanager
def staged_folder(parent: Path, prefix: str = STAGED) -> Iterator[Path]:
    """Yield a new folder inside `parent`; whatever is left of it at the end is removed.

    It is locked while in use, so that `sweep` in another process leaves it alone.
    """
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(parent: Path) -> None:
    """Clear away what crashed imports left in a folder; puts a replaced folder back if it must."""
    for folder in [*parent.glob(f"{STAGED}*"), *parent.glob(f"{RETIRED}*")]:
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder.name.startswith(RETIRED):
                _put_back(folder)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


def _put_back(retired: Path) -> None:
    for child in retired.iterdir():
        if not (retired.parent / child.name).exists():
            child.rename(retired.parent / child.name)


def publish(staged: Path, target: Path) -> None:
    """Move a staged file or folder to `target`, durably; a folder that is there gives way.

    `staged` lies on the same filesystem. Replacing a folder takes two renames: a crash between
    them leaves the old one under `.retired-…` and no `target`, which `sweep` mends; an error puts
    the old one back.
    """
    sync_tree(staged)
    if target.is_dir():
        with staged_folder(target.parent, RETIRED) as aside:
            retired = target.rename(aside / target.name)
            try:
                staged.rename(target)
            except OSError:
                retired.rename(target)
                raise
    else:
        staged.rename(target)
    _sync(target.parent)


def sync_tree(path: Path) -> None:
    """Flush a file, or a folder with all that is in it, to the disk."""
    if path.is_dir():
        for child in path.iterdir():
            sync_tree(child)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
