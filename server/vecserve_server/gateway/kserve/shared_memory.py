"""POSIX shared memory that clients registered for inputs and outputs.

Owns the regions by name, the objects behind them and who uses them. Nothing is mapped: an object
that its owner cuts would take the process away with it, so bytes are copied through a descriptor.
Must not know tensors or messages.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vecserve_server.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unsupported,
)
from vecserve_server.observability.metrics import Metrics
from vecserve_server.settings.server_settings import ServerSettings

SHARED_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108
MAX_NAME_BYTES = 255
Identity = tuple[int, int]
"""Device and inode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A registered part of a shared-memory object."""

    name: str
    key: str
    offset: int
    size_bytes: int
    descriptor: int
    """Of the object; regions of one object share it."""

    def check(self, field: str, *, offset: int, size_bytes: int) -> None:
        """Refuse a part that does not lie inside; `field` is named."""
        if offset + size_bytes > self.size_bytes:
            raise InvalidArgument(
                field,
                f"takes bytes {offset} to {offset + size_bytes} of the shared memory region "
                f"{self.name!r}, which has {self.size_bytes}",
            )
        if os.fstat(self.descriptor).st_size < self.offset + self.size_bytes:
            raise InvalidArgument(field, f"the object behind the region {self.name!r} was cut")

    def read(self, field: str, *, offset: int, size_bytes: int) -> bytes:
        """Copy a part; raises as `check` does."""
        self.check(field, offset=offset, size_bytes=size_bytes)
        try:
            parts = [*_read(self.descriptor, self.offset + offset, size_bytes)]
        except OSError as error:
            raise self._unusable(field, "read", error) from None
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if len(data) < size_bytes:
            raise InvalidArgument(field, f"the object behind the region {self.name!r} was cut")
        return data

    def write(self, field: str, data: bytes, *, offset: int) -> None:
        """Write to a part; raises as `check` does."""
        self.check(field, offset=offset, size_bytes=len(data))
        view = memoryview(data)
        try:
            while view:
                at = self.offset + offset + len(data) - len(view)
                view = view[os.pwrite(self.descriptor, view, at) :]
        except OSError as error:
            raise self._unusable(field, "written", error) from None

    def _unusable(self, field: str, verb: str, error: OSError) -> InvalidArgument:
        problem = f"the region {self.name!r} cannot be {verb}: {error.strerror}"
        return InvalidArgument(field, problem)


class SharedMemoryRegions:
    """The regions by name. Loop only."""

    def __init__(
        self,
        *,
        offered: bool,
        max_regions: int,
        max_bytes: int,
        metrics: Metrics,
        folder: Path = SHARED_MEMORY_FOLDER,
    ) -> None:
        """Begin without regions; where they are not `offered`, it stays so."""
        self._offered = offered
        self._max_regions = max_regions
        self._max_bytes = max_bytes
        self._folder = folder
        self._regions: dict[str, Region] = {}
        self._descriptors: dict[Identity, int] = {}
        self._uses: Counter[str] = Counter()
        metrics.shared_memory_regions.set_function(lambda: len(self._regions))
        metrics.shared_memory_bytes.set_function(self._size_bytes)

    def list(self, name: str) -> list[Region]:
        """Return a region, or all for an empty name. Raises NotFound."""
        return [self._find("name", name)] if name else [*self._regions.values()]

    def register(self, name: str, key: str, *, offset: int, size_bytes: int) -> None:
        """Keep a part of the object `key` under a name.

        Raises Unsupported where it is not offered, InvalidArgument for the names or the range,
        AlreadyExists, and FailedPrecondition when there are too many regions.
        """
        if not self._offered:
            raise Unsupported(
                "shared memory is not offered by this server; "
                "server.client_shared_memory = on turns it on"
            )
        if not 1 <= len(name.encode()) <= MAX_NAME_BYTES:
            raise InvalidArgument("name", f"must have 1 to {MAX_NAME_BYTES} bytes")
        if name in self._regions:
            raise AlreadyExists(f"shared memory region {name!r} is registered already")
        if len(self._regions) >= self._max_regions:
            raise FailedPrecondition(
                f"{self._max_regions} shared memory regions are registered, which is "
                "server.max_shared_memory_regions; unregister some"
            )
        descriptor, facts = _open(self._folder / _object_name(key), key)
        try:
            self._check_range(key, offset, size_bytes, facts.st_size)
            known = self._descriptors.setdefault((facts.st_dev, facts.st_ino), descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if known != descriptor:
            os.close(descriptor)
        self._regions[name] = Region(
            name=name, key=key, offset=offset, size_bytes=size_bytes, descriptor=known
        )

    def unregister(self, name: str) -> None:
        """Forget a region, or all for an empty name; unknown names are no mistake.

        Raises FailedPrecondition for regions that requests are using; they stay.
        """
        names = [name] if name else list(self._regions)
        in_use = [name for name in names if self._uses[name]]
        for free in set(names).difference(in_use):
            self._regions.pop(free, None)
        self._close_unused()
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

    def _check_range(self, key: str, offset: int, size_bytes: int, object_bytes: int) -> None:
        if size_bytes == 0 or offset + size_bytes > object_bytes:
            raise InvalidArgument(
                "byte_size",
                f"bytes {offset} to {offset + size_bytes} do not lie in {key!r}, "
                f"which has {object_bytes}",
            )
        if self._size_bytes() + size_bytes > self._max_bytes:
            raise FailedPrecondition(
                f"{self._size_bytes()} bytes of shared memory are registered; {size_bytes} more "
                f"exceed server.max_shared_memory_bytes = {self._max_bytes}"
            )

    def _size_bytes(self) -> int:
        return sum(region.size_bytes for region in [*self._regions.values()])

    def _close_unused(self) -> None:
        used = {region.descriptor for region in self._regions.values()}
        for identity, descriptor in [*self._descriptors.items()]:
            if descriptor not in used:
                del self._descriptors[identity]
                os.close(descriptor)

    def _find(self, field: str, name: str) -> Region:
        if name not in self._regions:
            raise NotFound(f"{field}: shared memory region {name!r} is not registered")
        return self._regions[name]


def shared_memory_regions(settings: ServerSettings, metrics: Metrics) -> SharedMemoryRegions:
    """Begin without regions, under the bounds of the settings."""
    return SharedMemoryRegions(
        offered=settings.offers_shared_memory,
        max_regions=settings.max_shared_memory_regions,
        max_bytes=settings.max_shared_memory_bytes,
        metrics=metrics,
    )


def _object_name(key: str) -> str:
    """Return the file name of a POSIX key, which may begin with one slash and has no other."""
    name = key.removeprefix("/")
    good = 1 <= len(name.encode()) <= MAX_NAME_BYTES and not {"/", "\0"} & set(name)
    if not good or name in (".", ".."):
        raise InvalidArgument("key", f"{key[:64]!r} is not the name of a shared memory object")
    return name


def _open(path: Path, key: str) -> tuple[int, os.stat_result]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidArgument(
            "key", f"shared memory object {key!r} cannot be opened: {error.strerror}"
        ) from None
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        raise InvalidArgument("key", f"{key!r} is not a shared memory object")
    return descriptor, facts


def _read(descriptor: int, offset: int, size_bytes: int) -> Iterator[bytes]:
    """Read until there is enough or the file ends; one call may give less."""
    while size_bytes:
        part = os.pread(descriptor, size_bytes, offset)
        if not part:
            return
        yield part
        offset, size_bytes = offset + len(part), size_bytes - len(part)
