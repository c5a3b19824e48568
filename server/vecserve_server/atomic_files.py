"""Files and folders that appear and vanish whole, or not at all.

Owns the order of write, fsync and rename. Must not know what the bytes mean.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vecserve_server.errors import AlreadyExists, Overloaded, StorageError

_UNFINISHED = ".unfinished"
_REMOVED = ".removed"


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file `path` with `data`, durably: afterwards it holds all of it or is unchanged.

    Raises StorageError; no temporary file stays behind.
    """
    with io_errors(path, "cannot be written"):
        descriptor, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED
        )
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)


@contextmanager
def new_folder_atomically(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it takes the name `folder` when the block ends well.

    Raises AlreadyExists if `folder` holds anything by then, StorageError if the disk fails.
    """
    with io_errors(folder, "cannot be created"):
        unfinished = Path(
            tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=_UNFINISHED)
        )
        try:
            yield unfinished
            if folder.exists():
                raise AlreadyExists(f"{folder.name}: the folder exists already")
            unfinished.rename(folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        fsync_folder(folder.parent)


def remove_folder_atomically(folder: Path) -> None:
    """Make `folder` vanish in one step, then delete what it held.

    Raises StorageError, in which case the folder is still there, whole.
    """
    with io_errors(folder, "cannot be removed"):
        removed = Path(
            tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=_REMOVED)
        )
        try:
            folder.rename(removed)
        except BaseException:
            removed.rmdir()
            raise
        fsync_folder(folder.parent)
        # The folder is gone for every reader; what cannot be deleted now is swept at the next open.
        shutil.rmtree(removed, ignore_errors=True)


def sweep_leftovers(folder: Path) -> None:
    """Delete what interrupted calls of this module left directly inside `folder`.

    Only the one process that owns the folder may call it, while no other call is in progress.
    Raises StorageError.
    """
    with io_errors(folder, "cannot be swept"):
        for entry in folder.iterdir():
            if not (entry.name.startswith(".") and entry.name.endswith((_UNFINISHED, _REMOVED))):
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def fsync_folder(folder: Path) -> None:
    """Make the names inside `folder` durable. Raises StorageError."""
    with io_errors(folder, "cannot be made durable"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def descriptors_used_up() -> Overloaded | None:
    """Return what to say if this process can open no more files, or None if it can."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            return Overloaded(
                f"the server has as many open files and connections as it may, {limit}; raise the "
                "limit (ulimit -n, LimitNOFILE of systemd), or close connections",
                retry_after_ms=1000,
            )
    return None


@contextmanager
def io_errors(path: Path, problem: str) -> Iterator[None]:
    """Turn OSError into StorageError, or into Overloaded where no more files can be opened."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE) and (used_up := descriptors_used_up()):
            raise used_up from error
        raise StorageError(f"{path}: {problem}: {error.strerror}") from error
