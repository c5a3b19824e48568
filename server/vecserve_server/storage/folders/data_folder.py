"""The folder that holds everything a server keeps on disk.

Owns the folder's layout, its lock and its format version. Must not know what rows are.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from pathlib import Path
from types import TracebackType

from vecserve_server.atomic_files import (
    fsync_folder,
    new_folder_atomically,
    remove_folder_atomically,
    sweep_leftovers,
    write_atomically,
)
from vecserve_server.domain.collections import CollectionSpec
from vecserve_server.domain.names import NAME_PATTERN
from vecserve_server.errors import ConfigError, InvalidArgument, NotFound, StorageError
from vecserve_server.storage.files.presence import check_descriptor
from vecserve_server.storage.folders.generations import make_generation
from vecserve_server.storage.folders.manifest import Manifest, write_manifest

_LOCK, _FORMAT, _COLLECTIONS, _ALIASES = "LOCK", "FORMAT", "collections", "ALIASES"
_TEMPORARY = "tmp"
_FORMAT_TEXT = b"vecserve data folder, format 1\n"
# A freshly made ext4 volume is not empty.
_IGNORED = {_LOCK, "lost+found"}


class DataFolder:
    """A folder that this process alone uses until `close`. Safe to call from several threads."""

    def __init__(self, *, path: Path, lock_descriptor: int) -> None:
        self._path = path
        self._lock_descriptor: int | None = lock_descriptor

    @classmethod
    def open(cls, path: Path) -> DataFolder:
        """Create the folder if need be, lock it and sweep what a crash left behind.

        Raises ConfigError if another process uses it, if its format is unknown, or if it holds
        other things; StorageError if the disk fails.
        """
        descriptor = _lock(path)
        try:
            _prepare(path)
        except OSError as error:
            os.close(descriptor)
            raise StorageError(f"data folder {path}: {error}") from error
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path=path, lock_descriptor=descriptor)

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self._path

    @property
    def aliases_file(self) -> Path:
        """Where the aliases stand; the file need not exist."""
        return self._path / _ALIASES

    @property
    def temporary_folder(self) -> Path:
        """Where temporary files may lie; empty when the data folder is opened."""
        return self._path / _TEMPORARY

    def collection_names(self) -> list[str]:
        """List the collections, sorted by name."""
        return sorted(
            entry.name
            for entry in (self._path / _COLLECTIONS).iterdir()
            if entry.is_dir() and NAME_PATTERN.fullmatch(entry.name)
        )

    def collection_folder(self, name: str) -> Path:
        """Say where the collection `name` lives, whether or not it exists.

        Raises InvalidArgument if the name is not fit for a folder.
        """
        if not NAME_PATTERN.fullmatch(name):
            raise InvalidArgument(
                "collection",
                f"{name!r} is not 1 to 128 of letters, digits, '.', '_' and '-', "
                "the first a letter or a digit",
            )
        return self._path / _COLLECTIONS / name

    def create_collection(self, spec: CollectionSpec) -> Path:
        """Create the collection's folder with its manifest inside, in one step, durably.

        Raises AlreadyExists, InvalidArgument, StorageError.
        """
        folder = self.collection_folder(spec.name)
        with new_folder_atomically(folder) as unfinished:
            manifest = Manifest(spec=spec)
            make_generation(unfinished, manifest.generation)
            write_manifest(unfinished, manifest)
        return folder

    def remove_collection(self, name: str) -> None:
        """Remove the collection and all its files; they must be closed.

        Raises NotFound, InvalidArgument, StorageError.
        """
        folder = self.collection_folder(name)
        if not folder.is_dir():
            raise NotFound(f"collection {name!r} does not exist")
        remove_folder_atomically(folder)

    def check_in_place(self) -> None:
        """Raise StoreGone unless the folder that is locked still has its name."""
        if self._lock_descriptor is not None:
            check_descriptor(self._path / _LOCK, self._lock_descriptor)

    def close(self) -> None:
        """Let other processes open the folder. A second call does nothing."""
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
            self._lock_descriptor = None

    def __enter__(self) -> DataFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _lock(path: Path) -> int:
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"data folder {path}: cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    except OSError as error:
        owner = os.pread(descriptor, 256, 0).decode(errors="replace").strip()
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise ConfigError(
                f"data folder {path}: is in use by {owner or 'another process'}"
            ) from error
        raise StorageError(f"data folder {path}: cannot be locked: {error.strerror}") from error
    return descriptor


def _prepare(path: Path) -> None:
    sweep_leftovers(path)
    if not (path / _FORMAT).exists():
        _initialise(path)
    found = (path / _FORMAT).read_bytes()
    if found != _FORMAT_TEXT:
        raise ConfigError(
            f"{path / _FORMAT}: says {found[:64]!r}, this vecserve knows {_FORMAT_TEXT!r}"
        )
    (path / _COLLECTIONS).mkdir(exist_ok=True)
    shutil.rmtree(path / _TEMPORARY, ignore_errors=True)
    (path / _TEMPORARY).mkdir(mode=0o700, exist_ok=True)
    fsync_folder(path)
    sweep_leftovers(path / _COLLECTIONS)


def _initialise(path: Path) -> None:
    strangers = sorted(entry.name for entry in path.iterdir() if entry.name not in _IGNORED)
    if strangers:
        raise ConfigError(
            f"data folder {path}: holds {strangers[0]!r} but no {_FORMAT} file; "
            "name an empty folder or a vecserve data folder"
        )
    fsync_folder(path.parent)
    write_atomically(path / _FORMAT, _FORMAT_TEXT)
