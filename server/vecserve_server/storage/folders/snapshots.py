"""Snapshots: a collection's rows in one file, with a manifest that holds its checksum.

Owns the layout of a snapshot's folder and the way back from it. Must not know what serves.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from vecserve_server import __version__
from vecserve_server.atomic_files import (
    fsync_folder,
    new_folder_atomically,
    remove_folder_atomically,
)
from vecserve_server.checked_json import find_checked_json, write_checked_json
from vecserve_server.domain.collections import CollectionSpec
from vecserve_server.domain.names import NAME_PATTERN
from vecserve_server.domain.snapshots import Snapshot, UnreadableSnapshot
from vecserve_server.errors import (
    CorruptData,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    StorageError,
)
from vecserve_server.storage.folders.generations import ROWS_FILE, make_generation
from vecserve_server.storage.folders.manifest import (
    UNKNOWN,
    Manifest,
    made_of,
    read_spec,
    write_manifest,
)

_FILE_NAME = "SNAPSHOT"
_VERSION = 1
_PIECE_BYTES = 1 << 20
GivenUp: TypeAlias = Callable[[], bool]


def _not_given_up() -> bool:
    return False


def write_snapshot(
    folder: Path,
    spec: CollectionSpec,
    copy_rows: Callable[[Path], int],
    *,
    given_up: GivenUp = _not_given_up,
) -> Snapshot:
    """Make a snapshot's folder, in one step, durably.

    `copy_rows` writes the rows into a file and returns the highest seq given out in it. Raises
    AlreadyExists, StorageError, and DeadlineExceeded once it is `given_up`; nothing is left then.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder.parent}: cannot be created: {error.strerror}") from error
    with new_folder_atomically(folder) as unfinished:
        path = unfinished / ROWS_FILE
        last_seq = copy_rows(path)
        _fsync(path)
        sha256 = _sha256(path, given_up)
        snapshot = Snapshot(
            spec=spec, last_seq=last_seq, size_bytes=path.stat().st_size, sha256=sha256
        )
        content = {"version": _VERSION, **dataclasses.asdict(snapshot)}
        write_checked_json(unfinished / _FILE_NAME, content)
        _go_on_unless(given_up)
    return snapshot


def restore_snapshot(
    snapshot: Path, collection: Path, *, given_up: GivenUp = _not_given_up
) -> None:
    """Make a collection's folder out of a snapshot, in one step, durably.

    Raises NotFound, FailedPrecondition for a snapshot that is damaged or of a newer vecserve,
    AlreadyExists, StorageError, and DeadlineExceeded once it is `given_up`; nothing is left then.
    """
    found = read_snapshot(snapshot)
    with new_folder_atomically(collection) as unfinished:
        manifest = Manifest(spec=dataclasses.replace(found.spec, name=collection.name))
        path = make_generation(unfinished, manifest.generation) / ROWS_FILE
        _copy(snapshot / ROWS_FILE, path, given_up)
        if _sha256(path, given_up) != found.sha256:
            raise CorruptData(f"snapshot {snapshot.name!r}: the checksum of its rows is wrong")
        fsync_folder(path.parent)
        write_manifest(unfinished, manifest)
        _go_on_unless(given_up)


def find_snapshots(folder: Path) -> dict[str, Snapshot | UnreadableSnapshot]:
    """Read the snapshots below a folder, by name."""
    found: dict[str, Snapshot | UnreadableSnapshot] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not NAME_PATTERN.fullmatch(path.name) or not path.is_dir():
            continue
        try:
            found[path.name] = read_snapshot(path)
        except FailedPrecondition as error:
            found[path.name] = UnreadableSnapshot(reason=error.problem)
        except NotFound:
            continue  # a folder that is none of ours, or is being deleted
        except StorageError:
            reason = "its manifest cannot be read from the disk"
            found[path.name] = UnreadableSnapshot(reason=reason)
    return found


def delete_snapshot(folder: Path) -> None:
    """Remove a snapshot's folder in one step. Raises NotFound, StorageError."""
    if not (folder / _FILE_NAME).is_file():
        raise _missing(folder)
    remove_folder_atomically(folder)


def read_snapshot(folder: Path) -> Snapshot:
    """Read a snapshot's manifest.

    Raises NotFound, StorageError, and FailedPrecondition that says what is wrong with it and what
    to do.
    """
    name = f"snapshot {folder.name!r}"
    try:
        content = find_checked_json(folder / _FILE_NAME)
    except CorruptData:
        raise FailedPrecondition(
            f"{name}: its manifest is damaged; use another snapshot, or a copy of this one",
            field="name",
        ) from None
    if content is None:
        raise _missing(folder)
    version = content.pop("version", None)
    if version != _VERSION:
        raise FailedPrecondition(
            f"{name}: has format version {version}, this vecserve {__version__} reads version "
            f"{_VERSION}; restore it with the vecserve that wrote it, or a newer one",
            field="name",
        )
    try:
        return made_of(Snapshot, {**content, "spec": read_spec(content["spec"])})
    except UNKNOWN as error:
        what = str(error) if isinstance(error, ValueError) else "other content"
        raise FailedPrecondition(
            f"{name}: its manifest holds {what}, which this vecserve {__version__} does not know; "
            "restore it with the vecserve that wrote it, or a newer one",
            field="name",
        ) from error


def _missing(folder: Path) -> NotFound:
    return NotFound(f"there is no snapshot {folder.name!r}", field="name")


def _copy(source: Path, target: Path, given_up: GivenUp) -> None:
    with source.open("rb") as reading, target.open("wb") as writing:
        while piece := reading.read(_PIECE_BYTES):
            _go_on_unless(given_up)
            writing.write(piece)
        writing.flush()
        os.fsync(writing.fileno())


def _sha256(path: Path, given_up: GivenUp) -> str:
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            _go_on_unless(given_up)
            sha256.update(piece)
    return sha256.hexdigest()


def _go_on_unless(given_up: GivenUp) -> None:
    if given_up():
        raise DeadlineExceeded("nobody waits for this any more")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
