"""Whether the files that are open still lie where they were opened.

A file that was removed can be written to for as long as somebody has it open, and is gone
afterwards. Owns the comparison. Must not know what the files hold.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vecserve_server.errors import StoreGone


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which file lay under a name. While it is open, nothing else has its device and inode."""

    device: int
    inode: int
    size_bytes: int
    modified_ns: int

    def is_same_open(self, other: Stamp) -> bool:
        """Compare with what lies there while the file is open, and changes."""
        return (self.device, self.inode) == (other.device, other.inode)


def stamp(path: Path) -> Stamp:
    """Look at a file. Raises StoreGone where there is none, or the disk does not say."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise StoreGone(f"{path}: is gone") from None
    except OSError as error:
        raise StoreGone(f"{path}: cannot be looked at: {error.strerror}") from error
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def check_open(path: Path, seen: Stamp) -> None:
    """Raise StoreGone unless the file that was opened still lies there."""
    if not stamp(path).is_same_open(seen):
        raise StoreGone(f"{path}: is another file than the one that was opened", replaced=True)


def check_closed(path: Path, seen: Stamp) -> None:
    """Raise StoreGone unless the file lies there as it was closed: inodes are used again."""
    if stamp(path) != seen:
        raise StoreGone(f"{path}: is another file than the one that was closed", replaced=True)


def check_descriptor(path: Path, descriptor: int) -> None:
    """Raise StoreGone unless `path` names the file that a descriptor is open on."""
    found = os.fstat(descriptor)
    check_open(path, Stamp(found.st_dev, found.st_ino, 0, 0))
