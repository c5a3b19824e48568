"""The folder of a collection's segments, and the manifest that says which of them are in force.

Owns the folder's layout and the steps by which segments come, go and are set aside. Must not know
what segments hold.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from vecserve_server.atomic_files import fsync_folder, new_folder_atomically, sweep_leftovers
from vecserve_server.checked_json import find_checked_json, write_checked_json
from vecserve_server.errors import ConfigError, StorageError

MANIFEST = "MANIFEST"

_VERSION = 1
_PREFIX, _DAMAGED = "segment-", ".damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentEntry:
    """A segment in force."""

    name: str
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentsManifest:
    """Every living row with a seq up to `sealed_seq` is in one of the segments."""

    sealed_seq: int = 0
    segments: tuple[SegmentEntry, ...] = ()


class SegmentFolder:
    """One collection's segments on disk. One thread at a time changes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> SegmentsManifest:
        """Read the manifest; without one there are no segments.

        Raises CorruptData if it is damaged, ConfigError if a newer vecserve wrote it, StorageError.
        """
        content = find_checked_json(self.path / MANIFEST)
        if content is None:
            return SegmentsManifest()
        if content["version"] != _VERSION:
            raise ConfigError(
                f"{self.path / MANIFEST}: has version {content['version']}, "
                f"this vecserve reads {_VERSION}"
            )
        return SegmentsManifest(
            sealed_seq=content["sealed_seq"],
            segments=tuple(SegmentEntry(**entry) for entry in content["segments"]),
        )

    def write(self, manifest: SegmentsManifest) -> None:
        """Put the manifest in force, in one step, durably. Raises StorageError."""
        write_checked_json(self.path / MANIFEST, {"version": _VERSION, **asdict(manifest)})

    def prepare(self) -> None:
        """Create the folder if need be, durably. Raises StorageError."""
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be created: {error.strerror}") from error
        fsync_folder(self.path.parent)

    @contextmanager
    def new_segment(self) -> Iterator[tuple[str, Path]]:
        """Yield a name and a folder to fill; the folder takes its name when the block ends well.

        The segment is not in force before a manifest names it. Raises StorageError.
        """
        self.prepare()
        name = _PREFIX + uuid.uuid4().hex
        with new_folder_atomically(self.path / name) as unfinished:
            yield name, unfinished

    def folder_of(self, name: str) -> Path:
        """Say where a segment's files are."""
        return self.path / name

    def set_aside(self, name: str) -> None:
        """Rename a damaged segment's folder, so that nobody opens it. Raises StorageError."""
        folder, aside = self.path / name, self.path / (name + _DAMAGED)
        try:
            if aside.exists():
                shutil.rmtree(aside)
            if folder.exists():
                folder.rename(aside)
        except OSError as error:
            raise StorageError(f"{folder}: cannot be set aside: {error.strerror}") from error

    def set_all_aside(self) -> None:
        """Set every segment aside and start without any. Raises StorageError."""
        for folder in self._segments():
            self.set_aside(folder.name)
        try:
            (self.path / MANIFEST).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be emptied: {error.strerror}") from error

    def sweep(self, manifest: SegmentsManifest, *, damaged: bool = False) -> None:
        """Delete what is not in force; with `damaged` also what was set aside.

        Raises StorageError.
        """
        if not self.path.exists():
            return
        sweep_leftovers(self.path)
        in_force = {entry.name for entry in manifest.segments}
        try:
            for folder in self._segments():
                if folder.name not in in_force:
                    shutil.rmtree(folder)
            for folder in self.path.glob(f"{_PREFIX}*{_DAMAGED}") if damaged else ():
                shutil.rmtree(folder)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be swept: {error.strerror}") from error

    def _segments(self) -> list[Path]:
        if not self.path.exists():
            return []
        return [path for path in self.path.glob(f"{_PREFIX}*") if path.suffix != _DAMAGED]
