"""Copying one generation of a collection into another that keeps up with the writes.

Owns the order of copying, so that the copy misses nothing: rows in the order of their seqs, then
what was removed meanwhile. A row keeps its seq. Must not know why a generation is built.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Protocol

import numpy as np

from vecserve_server.collections.collection import Collection
from vecserve_server.collections.collections import Collections, ManifestChange
from vecserve_server.domain.rows import NewRow, Row, Source
from vecserve_server.errors import FailedPrecondition, StorageError

PAGE_ROWS = 64
SMALL_ROWS = 32
"""So little to copy takes a moment, in which writers can be held back."""
SWITCH_TIMEOUT_S = 30.0


class MakeRows(Protocol):
    """Make the rows of the new generation from those of the old one."""

    async def __call__(
        self, rows: Sequence[Row], sources: Mapping[int, Source]
    ) -> Mapping[int, NewRow]:
        """Return a row for each seq, ascending. Raises VecserveError if that is impossible."""
        ...


class Rebuild:
    """One copy in progress. Loop only; call `begin`, then the others in any order."""

    def __init__(self, *, source: Collection, target: Collection, make_rows: MakeRows) -> None:
        self._source = source
        self._target = target
        self._make_rows = make_rows

    async def begin(self) -> None:
        """Begin to note removals, and drop from the target what was removed before."""
        self._source.removals.watch()
        await drop_removed(source=self._source, target=self._target)

    async def follow(self) -> None:
        """Copy until little is missing; slow the writers down if they are faster than that."""
        before: int | None = None
        while (copied := await self.catch_up()) > SMALL_ROWS:
            if before is not None and copied > before / 2:
                self._source.slow_writers()
            before = copied

    async def catch_up(self) -> int:
        """Copy what was written and drop what was removed until now; return how many rows came."""
        copied, last_seq = 0, self._source.last_seq()
        while self._target.last_seq() < last_seq:
            after_seq = self._target.last_seq()
            rows, sources = await self._source.scan_sources(after_seq, PAGE_ROWS)
            if not rows:
                break
            made = await self._make_rows(rows, sources)
            await self._target.replicate(made, (), last_seq=rows[-1].seq)
            copied += len(rows)
        await self._target.replicate({}, self._source.removals.take(), last_seq=0)
        return copied

    async def finish(self) -> None:
        """Copy the rest while the writers are held back. Raises FailedPrecondition."""
        await self.catch_up()
        await self._target.replicate({}, (), last_seq=self._source.last_seq())
        if self._target.live_rows != self._source.live_rows:
            raise FailedPrecondition(
                f"the new generation has {self._target.live_rows} rows, "
                f"the old one {self._source.live_rows}"
            )

    def end(self) -> None:
        """Leave the source as it was."""
        self._source.removals.ignore()
        self._source.let_writers_run()


async def switch(
    collections: Collections,
    *,
    live: Collection,
    target: Collection,
    rebuild: Rebuild,
    change: ManifestChange,
) -> None:
    """Hold the writers back, copy the rest, flip. Once begun it comes to its end.

    Raises StorageError if that takes too long, and what the copying raises.
    """

    async def work() -> None:
        async with AsyncExitStack() as holding:
            try:
                async with asyncio.timeout(SWITCH_TIMEOUT_S):
                    await holding.enter_async_context(live.writers_held())
                    await rebuild.finish()
            except TimeoutError:
                raise StorageError(f"the flip takes longer than {SWITCH_TIMEOUT_S:g} s") from None
            await collections.flip(live, target, change)

    await collections.held(work())


async def drop_removed(*, source: Collection, target: Collection) -> None:
    """Drop from a generation that does not serve the rows that another has no more."""
    present, kept = await target.seqs(), await source.seqs()
    gone = await asyncio.to_thread(np.setdiff1d, present, kept, assume_unique=True)
    await target.replicate({}, gone.tolist(), last_seq=0)


def copy_row(row: Row, source: Source | None) -> NewRow:
    """Make the same row again, with the vector that it has."""
    assert row.vector is not None
    vector = row.vector.astype(np.float32)
    return NewRow(id=row.id, vector=vector, payload_json=row.payload_json, source=source)
