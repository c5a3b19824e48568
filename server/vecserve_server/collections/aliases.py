"""Second names of collections.

Owns the set of aliases, in memory and on disk. Must not know which collections there are. Loop
only; one change at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from vecserve_server.storage.folders.aliases import read_aliases, write_aliases


class Aliases:
    """Aliases by name; a look-up sees a change whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._targets: Mapping[str, str] = {}

    async def open(self) -> None:
        """Read the file. Raises CorruptData, StorageError, ConfigError."""
        self._targets = await asyncio.to_thread(read_aliases, self._path)

    def resolve(self, name: str) -> str:
        """Return the collection that an alias stands for; any other name as it is."""
        return self._targets.get(name, name)

    def all(self) -> list[tuple[str, str]]:
        """List alias and collection, by alias."""
        return sorted(self._targets.items())

    def of(self, collection: str) -> list[str]:
        """List the aliases of a collection."""
        return [alias for alias, target in self.all() if target == collection]

    async def set(self, alias: str, collection: str) -> str:
        """Make or move an alias, durably; return what it stood for before, or an empty string.

        Raises StorageError, in which case nothing has changed.
        """
        previous = self._targets.get(alias, "")
        await self._replace({**self._targets, alias: collection})
        return previous

    async def delete(self, alias: str) -> bool:
        """Remove an alias, durably; return whether there was one. Raises StorageError."""
        if alias not in self._targets:
            return False
        rest = {name: target for name, target in self._targets.items() if name != alias}
        await self._replace(rest)
        return True

    async def _replace(self, targets: Mapping[str, str]) -> None:
        await asyncio.to_thread(write_aliases, self._path, targets)
        self._targets = targets
