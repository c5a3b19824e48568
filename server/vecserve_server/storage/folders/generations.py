"""The folders of a collection's generations, `<collection>/<number>`.

Owns their names, the move from the layout without them, and the removal of those that nobody
needs. Must not know what rows are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from vecserve_server.atomic_files import (
    fsync_folder,
    io_errors,
    remove_folder_atomically,
    sweep_leftovers,
)
from vecserve_server.errors import CorruptData, StorageError
from vecserve_server.storage.files.sqlite_file import open_writable, translated_errors
from vecserve_server.storage.folders.manifest import (
    UNNUMBERED,
    Manifest,
    read_manifest,
    write_manifest,
)

ROWS_FILE = "rows.sqlite"
SEGMENTS_FOLDER = "segments"
_FIRST = 1


def generation_folder(collection: Path, number: int) -> Path:
    """Say where a generation lies, whether or not it exists."""
    return collection / str(number)


def make_generation(collection: Path, number: int) -> Path:
    """Make a generation's folder, durably, unless it is there. Raises StorageError."""
    folder = generation_folder(collection, number)
    with io_errors(folder, "cannot be created"):
        folder.mkdir(exist_ok=True)
    fsync_folder(collection)
    return folder


def open_layout(collection: Path) -> Manifest:
    """Bring the folder of a collection up to date and return its manifest.

    Rows that lie in the collection's own folder move to generation 1; generations that the
    manifest does not need are removed. Killed at any point, it goes on at the next call.

    Raises CorruptData, ConfigError, StorageError.
    """
    manifest = read_manifest(collection)
    if manifest.generation == UNNUMBERED:
        _move_rows(collection)
        manifest = replace(manifest, generation=_FIRST)
        write_manifest(collection, manifest)
    sweep_leftovers(collection)
    remove_generations(collection, keep={needed.number for needed in manifest.needed})
    return manifest


def remove_generations(collection: Path, *, keep: Iterable[int]) -> None:
    """Remove the folders of all other generations; they must be closed. Raises StorageError."""
    names = {str(number) for number in keep}
    for folder in list(collection.iterdir()):
        if folder.name.isdecimal() and folder.is_dir() and folder.name not in names:
            remove_folder_atomically(folder)


def _move_rows(collection: Path) -> None:
    old, new = collection / ROWS_FILE, generation_folder(collection, _FIRST) / ROWS_FILE
    # If it is not there, a run that was killed before it wrote the manifest has moved it.
    moves = old.exists()
    if moves and new.exists():
        raise CorruptData(f"{collection}: holds both {ROWS_FILE} and {_FIRST}/{ROWS_FILE}")
    try:
        if moves:
            _settle(old)
            make_generation(collection, _FIRST)
            old.rename(new)
            fsync_folder(new.parent)
        # SQLite may have failed to remove them when it closed the file.
        for suffix in ("-wal", "-shm"):
            old.with_name(ROWS_FILE + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{old}: cannot be moved: {error.strerror}") from error
    fsync_folder(collection)


def _settle(path: Path) -> None:
    """Bring all of the write-ahead log into the file, so that the file can move alone."""
    with translated_errors(path):
        connection = open_writable(path)
        try:
            (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            connection.close()
    if busy:
        raise StorageError(f"{path}: is in use; its write-ahead log cannot be brought in")
