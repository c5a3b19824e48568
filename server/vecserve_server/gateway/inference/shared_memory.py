"""POSIX shared memory that clients registered for inputs and outputs.

Owns the mappings by name and who uses them. Must not know tensors or messages.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vecserve_server.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound

SHARED_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108
MAX_REGIONS = 1024
MAX_NAME_BYTES = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A registered part of a shared-memory object, mapped."""

    name: str
    key: str
    offset: int
    size_bytes: int
    mapping: mmap.mmap
    """From the page that holds `offset` on."""

    def view(self, field: str, *, offset: int, size_bytes: int) -> memoryview:
        """Return a part without a copy; `field` is named where it does not lie inside."""
        if offset + size_bytes > self.size_bytes:
            raise InvalidArgument(
                field,
                f"takes bytes {offset} to {offset + size_bytes} of the shared memory region "
                f"{self.name!r}, which has {self.size_bytes}",
            )
        # Touching memory behind the end of a file that was cut since would end the process.
        if self.mapping.size() < self.offset + self.size_bytes:
            raise InvalidArgument(field, f"the object behind the region {self.name!r} was cut")
        start = self.offset % mmap.ALLOCATIONGRANULARITY + offset
        return memoryview(self.mapping)[start : start + size_bytes]


class SharedMemoryRegions:
    """The regions by name. Loop only.

    A region that was unregistered stays mapped until the last array on it is gone.
    """

    def __init__(self, *, folder: Path = SHARED_MEMORY_FOLDER) -> None:
        self._folder = folder
        self._regions: dict[str, Region] = {}
        self._uses: Counter[str] = Counter()

    def list(self, name: str) -> list[Region]:
        """Return a region, or all for an empty name. Raises NotFound."""
        return [self._find("name", name)] if name else [*self._regions.values()]

    def register(self, name: str, key: str, *, offset: int, size_bytes: int) -> None:
        """Map a part of the object `key` under a name.

        Raises InvalidArgument for the names or the range, AlreadyExists, and FailedPrecondition
        when there are too many regions.
        """
        if not 1 <= len(name.encode()) <= MAX_NAME_BYTES:
            raise InvalidArgument("name", f"must have 1 to {MAX_NAME_BYTES} bytes")
        if name in self._regions:
            raise AlreadyExists(f"shared memory region {name!r} is registered already")
        if len(self._regions) >= MAX_REGIONS:
            raise FailedPrecondition(f"{MAX_REGIONS} shared memory regions are the limit")
        self._regions[name] = Region(
            name=name,
            key=key,
            offset=offset,
            size_bytes=size_bytes,
            mapping=_map(self._folder / _object_name(key), key, offset, size_bytes),
        )

    def unregister(self, name: str) -> None:
        """Forget a region, or all for an empty name; unknown names are no mistake.

        Raises FailedPrecondition for regions that requests are using; they stay.
        """
        names = [name] if name else list(self._regions)
        in_use = [name for name in names if self._uses[name]]
        for free in set(names).difference(in_use):
            self._regions.pop(free, None)
        if in_use:
            raise FailedPrecondition(
                f"shared memory regions in use cannot be unregistered: {', '.join(in_use)}"
            )

    @contextmanager
    def hold(self, names_by_field: Mapping[str, str]) -> Iterator[Mapping[str, Region]]:
        """Keep the regions that a request's tensors lie in registered while it uses them.

        Yields them by the same fields. Raises NotFound that names the field.
        """
        held = {field: self._find(field, name) for field, name in names_by_field.items()}
        used = {region.name for region in held.values()}
        self._uses.update(used)
        try:
            yield held
        finally:
            self._uses.subtract(used)
            for name in used:
                if not self._uses[name]:
                    del self._uses[name]

    def _find(self, field: str, name: str) -> Region:
        if name not in self._regions:
            raise NotFound(f"{field}: shared memory region {name!r} is not registered")
        return self._regions[name]


def _object_name(key: str) -> str:
    """Return the file name of a POSIX key, which may begin with one slash and has no other."""
    name = key.removeprefix("/")
    good = 1 <= len(name.encode()) <= MAX_NAME_BYTES and not {"/", "\0"} & set(name)
    if not good or name in (".", ".."):
        raise InvalidArgument("key", f"{key[:64]!r} is not the name of a shared memory object")
    return name


def _map(path: Path, key: str, offset: int, size_bytes: int) -> mmap.mmap:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidArgument(
            "key", f"shared memory object {key!r} cannot be opened: {error.strerror}"
        ) from None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise InvalidArgument("key", f"{key!r} is not a shared memory object")
        if size_bytes == 0 or offset + size_bytes > facts.st_size:
            raise InvalidArgument(
                "byte_size",
                f"bytes {offset} to {offset + size_bytes} do not lie in {key!r}, "
                f"which has {facts.st_size}",
            )
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        return mmap.mmap(descriptor, offset + size_bytes - start, offset=start)
    except (OSError, ValueError, OverflowError) as error:
        raise InvalidArgument("key", f"{key!r} cannot be mapped: {error}") from None
    finally:
        os.close(descriptor)
