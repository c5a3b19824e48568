"""What gRPC reflection can describe.

Owns the pool that gathers the files of several others. Must not know which services there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool


def gathered(files: Iterable[FileDescriptor]) -> DescriptorPool:
    """Return a pool with these files and all that they import, from whichever pools they are."""
    pool = DescriptorPool()
    register: Any = pool.AddSerializedFile  # its stubs leave out the types
    added: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name in added:
            return
        added.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        register(file.serialized_pb)

    for file in files:
        add(file)
    return pool
