"""Rows out: by id, one after the other, and how many there are.

Owns the get, scan and count use cases, and how large their answers may be. Must not know protocols.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vecserve_server.collections.collections import Collections
from vecserve_server.domain.caller import Caller
from vecserve_server.domain.conditions import Condition
from vecserve_server.domain.rows import Row
from vecserve_server.storage.rows.sources import PAGE_TEXT_BYTES, REPLY_TEXT_BYTES, text_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Rows in the order they were written."""

    rows: Sequence[Row]
    next_after_seq: int
    """Where the next page goes on; 0 if this is the last."""


class ReadingService:
    """Read the rows of collections. Loop only."""

    def __init__(self, *, collections: Collections) -> None:
        self._collections = collections

    def name_of(self, collection: str, caller: Caller) -> str:
        """Return the name of the collection that a name or an alias stands for; raises NotFound."""
        return self._collections.get(collection).spec.name

    async def get(
        self,
        collection: str,
        ids: Sequence[str],
        caller: Caller,
        *,
        with_vectors: bool = False,
        with_text: bool = False,
    ) -> Mapping[str, Row]:
        """Read rows by id; unknown ids are left out.

        Raises NotFound for the collection, InvalidArgument if the texts take too much.
        """
        return await self._collections.get(collection).get(
            ids,
            with_vectors=with_vectors,
            source_bytes=REPLY_TEXT_BYTES if with_text else 0,
        )

    async def scan(
        self,
        collection: str,
        caller: Caller,
        *,
        after_seq: int,
        size: int,
        condition: Condition | None = None,
        with_vectors: bool = False,
        with_text: bool = False,
    ) -> Page:
        """Read a page of at most `size` rows that match, beginning after a seq.

        It ends earlier where the texts fill it. Raises NotFound, DeadlineExceeded.
        """
        rows = await self._collections.get(collection).scan(
            after_seq,
            size + 1,
            with_vectors=with_vectors,
            source_bytes=PAGE_TEXT_BYTES if with_text else 0,
            condition=condition,
            deadline_ns=caller.deadline_ns,
        )
        page = rows[:size]
        goes_on = len(rows) > size or _is_full(page)
        return Page(rows=page, next_after_seq=page[-1].seq if goes_on else 0)

    async def count(self, collection: str, condition: Condition | None, caller: Caller) -> int:
        """Count the rows, all or those that match. Raises NotFound, DeadlineExceeded."""
        found = self._collections.get(collection)
        if condition is None:
            return found.live_rows
        return await found.count(condition, deadline_ns=caller.deadline_ns)


def _is_full(page: Sequence[Row]) -> bool:
    return sum(text_bytes(row.source) for row in page) > PAGE_TEXT_BYTES
