"""Snapshots: a collection's rows in one file, with a manifest that holds its checksum.

Owns the layout of a snapshot's folder and the way back from it. Must not know what serves.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vecserve_server.atomic_files import fsync_folder, new_folder_atomically
from vecserve_server.checked_json import find_checked_json, write_checked_json
from vecserve_server.domain import CollectionSpec
from vecserve_server.errors import ConfigError, CorruptData, NotFound, StorageError
from vecserve_server.storage.generations import ROWS_FILE, make_generation
from vecserve_server.storage.manifest import Manifest, read_spec, write_manifest

_FILE_NAME = "SNAPSHOT"
_VERSION = 1
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a snapshot's manifest says."""

    spec: CollectionSpec
    last_seq: int
    size_bytes: int
    sha256: str
    """Of the file of rows."""


def write_snapshot(
    folder: Path, spec: CollectionSpec, copy_rows: Callable[[Path], int]
) -> Snapshot:
    """Make a snapshot's folder, in one step, durably.

    `copy_rows` writes the rows into a file and returns the highest seq given out in it. Raises
    AlreadyExists, StorageError.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder.parent}: cannot be created: {error.strerror}") from error
    with new_folder_atomically(folder) as unfinished:
        path = unfinished / ROWS_FILE
        last_seq = copy_rows(path)
        _fsync(path)
        snapshot = Snapshot(
            spec=spec, last_seq=last_seq, size_bytes=path.stat().st_size, sha256=_sha256(path)
        )
        content = {"version": _VERSION, **dataclasses.asdict(snapshot)}
        write_checked_json(unfinished / _FILE_NAME, content)
    return snapshot


def restore_snapshot(snapshot: Path, collection: Path) -> None:
    """Make a collection's folder out of a snapshot, in one step, durably.

    Raises NotFound, CorruptData for a damaged snapshot, ConfigError for one of a newer vecserve,
    AlreadyExists, StorageError.
    """
    found = _read(snapshot)
    with new_folder_atomically(collection) as unfinished:
        manifest = Manifest(spec=dataclasses.replace(found.spec, name=collection.name))
        path = make_generation(unfinished, manifest.generation) / ROWS_FILE
        shutil.copyfile(snapshot / ROWS_FILE, path)
        _fsync(path)
        if _sha256(path) != found.sha256:
            raise CorruptData(f"snapshot {snapshot.name!r}: the checksum of its rows is wrong")
        fsync_folder(path.parent)
        write_manifest(unfinished, manifest)


def _read(folder: Path) -> Snapshot:
    content = find_checked_json(folder / _FILE_NAME)
    if content is None:
        raise NotFound(f"name: there is no snapshot {folder.name!r}")
    if content.pop("version") != _VERSION:
        raise ConfigError(f"snapshot {folder.name!r}: was written by a newer vecserve")
    return Snapshot(spec=read_spec(content.pop("spec")), **content)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
