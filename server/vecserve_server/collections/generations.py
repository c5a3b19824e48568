"""Open generations of collections that do not serve: those that are built, and those before.

Owns them until they are closed. Must not know which generation serves. Loop only.
"""

from __future__ import annotations

from vecserve_server.collections.collection import Collection

CLOSE_TIMEOUT_S = 30.0


class Generations:
    """Generations by collection and number."""

    def __init__(self) -> None:
        self._open: dict[str, dict[int, Collection]] = {}

    def put(self, generation: Collection, number: int) -> None:
        """Keep a generation that is open."""
        self._open.setdefault(generation.spec.name, {})[number] = generation

    def numbers(self, name: str) -> list[int]:
        """Number the open generations of a collection, ascending."""
        return sorted(self._open.get(name, {}))

    def take(self, name: str, number: int) -> None:
        """Keep a generation no longer: it serves."""
        del self._open[name][number]

    def take_all(self, name: str) -> list[Collection]:
        """Keep no generation of a collection any longer; return those that were kept."""
        return list(self._open.pop(name, {}).values())

    def all(self) -> list[Collection]:
        """Return all of them."""
        return [one for generations in self._open.values() for one in generations.values()]

    async def release(self, generation: Collection) -> None:
        """Close a generation, and keep it no longer if that ends in time."""
        await generation.close(CLOSE_TIMEOUT_S)
        kept = self._open.get(generation.spec.name, {})
        for number in [number for number, other in kept.items() if other is generation]:
            await self.closed(generation.spec.name, number)

    async def closed(self, name: str, number: int) -> bool:
        """Close a generation, if it is open; return whether it is closed."""
        found = self._open.get(name, {}).get(number)
        if found is None:
            return True
        closed = await found.close(CLOSE_TIMEOUT_S)
        kept = self._open.get(name, {})
        if closed and kept.get(number) is found:
            del kept[number]
        return closed
