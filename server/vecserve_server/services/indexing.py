"""Rows in: embed what is text, check what is a vector, write both.

Owns the upsert use case and which rows fail alone. Must not know protocols.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Executor
from dataclasses import dataclass

from vecserve_server.collections.collection import Collection
from vecserve_server.collections.collections import Collections
from vecserve_server.domain.caller import Caller
from vecserve_server.domain.collections import CollectionSpec
from vecserve_server.domain.conditions import Condition
from vecserve_server.domain.embedding import EmbedOptions
from vecserve_server.domain.rows import NewRow
from vecserve_server.domain.timings import Timings
from vecserve_server.domain.validation import check_count, check_id
from vecserve_server.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    FieldPath,
    InvalidArgument,
    RequestError,
    Superseded,
)
from vecserve_server.services.collection_vectors import CollectionEmbedder, NamedInput
from vecserve_server.services.row_preparation import (
    PreparedRows,
    RowInput,
    by_their_sources,
    prepare,
    source_of,
)
from vecserve_server.settings.settings import LimitSettings
from vecserve_server.storage.rows.operations import Conflict, Delete, Outcome, Upsert

DELETE_ROWS = 1000
"""Rows of one transaction where a filter deletes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upserted:
    """A seq for each row, or the row's error; and where the time went."""

    seqs: Mapping[int, int]
    errors: Mapping[int, RequestError]
    unchanged: Set[int]
    """Rows that were stored so already and were left alone."""
    timings: Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """How many rows are gone, and why some stayed, by id."""

    count: int
    errors: Mapping[str, RequestError]


class IndexingService:
    """Write rows into collections. Loop only."""

    def __init__(
        self,
        *,
        collections: Collections,
        embedder: CollectionEmbedder,
        check_pool: Executor,
        limits: LimitSettings,
        clock_ns: Callable[[], int],
    ) -> None:
        self._collections = collections
        self._embedder = embedder
        self._check_pool = check_pool
        self._limits = limits
        self._clock_ns = clock_ns

    async def upsert(
        self,
        collection_name: str,
        rows: Sequence[RowInput],
        options: EmbedOptions,
        caller: Caller,
        *,
        skip_unchanged: bool = False,
    ) -> Upserted:
        """Embed and write a batch; a bad row fails alone.

        With `skip_unchanged` rows that are stored so already are left alone. Returns after fsync
        and publishing. Raises NotFound, InvalidArgument for the batch, FailedPrecondition if the
        collection's model is not the one that is loaded, and what the batcher and the writer
        raise.
        """
        check_count("rows", len(rows), limit=self._limits.max_items_per_call)
        return await self._collections.using(
            collection_name,
            lambda collection: self._upsert(
                collection, rows, options, caller, skip_unchanged=skip_unchanged
            ),
        )

    async def delete(
        self,
        collection_name: str,
        ids: Sequence[str],
        expected_seqs: Mapping[str, int],
        caller: Caller,
    ) -> Deleted:
        """Delete rows, some only if their seq is the expected one."""
        self._collections.get(collection_name)
        check_count("ids", len(ids), limit=self._limits.max_items_per_call)
        for index, row_id in enumerate(ids):
            check_id(("ids", index), row_id, limit_bytes=self._limits.max_id_bytes)
        if unknown := expected_seqs.keys() - set(ids):
            raise InvalidArgument("expected_seqs", f"{min(unknown)!r} is not among ids")
        deletes = [Delete(row_id, expected_seqs.get(row_id)) for row_id in dict.fromkeys(ids)]
        outcomes = await self._collections.using(
            collection_name, lambda collection: collection.write(deletes)
        )
        return Deleted(
            count=sum(isinstance(outcome, int) for outcome in outcomes),
            errors={
                delete.id: _conflict("expected_seqs", delete.expected_seq, outcome)
                for delete, outcome in zip(deletes, outcomes, strict=True)
                if isinstance(outcome, Conflict)
            },
        )

    async def delete_matching(
        self, collection_name: str, condition: Condition, caller: Caller
    ) -> int:
        """Delete the rows that match now, in several transactions; return how many there were.

        Where one fails, those before it stand. Raises DeadlineExceeded between two of them.
        """
        deadline_ns = caller.deadline_ns
        collection = self._collections.get(collection_name)
        size = min(DELETE_ROWS, self._limits.max_queued_rows)
        after_seq, last_seq, count = 0, collection.last_seq(), 0
        while after_seq < last_seq:
            if deadline_ns is not None and self._clock_ns() > deadline_ns:
                raise DeadlineExceeded(f"filter: {count} rows were deleted in the time there was")
            try:
                keys = await collection.keys(
                    condition, after_seq=after_seq, limit=size, deadline_ns=deadline_ns
                )
                # A row that is written meanwhile is another one; it stays.
                keys = [key for key in keys if key.seq <= last_seq]
                if not keys:
                    break
                outcomes = await collection.write([Delete(key.id, key.seq) for key in keys])
            except Superseded:
                # Rows have the same seqs in the generation that serves now.
                collection = self._collections.get(collection.spec.name)
                continue
            count += sum(isinstance(outcome, int) for outcome in outcomes)
            after_seq = keys[-1].seq
        return count

    async def _upsert(
        self,
        collection: Collection,
        rows: Sequence[RowInput],
        options: EmbedOptions,
        caller: Caller,
        *,
        skip_unchanged: bool,
    ) -> Upserted:
        # Parsing a thousand payloads takes long enough to be felt by every other call.
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(
            self._check_pool, prepare, collection.spec, rows, self._limits
        )
        if skip_unchanged and collection.spec.keep_text:
            await _skip(collection, rows, by_their_sources(rows, options, prepared), prepared)
        if prepared.inputs:
            await self._embed(collection.spec, rows, options, caller, prepared)
        if skip_unchanged:
            by_vector = {i: row for i, row in prepared.rows.items() if row.source is None}
            await _skip(collection, rows, by_vector, prepared)
        started_ns = self._clock_ns()
        order = sorted(prepared.rows)
        outcomes: Sequence[Outcome] = ()
        if order:
            outcomes = await collection.write(
                [Upsert(prepared.rows[index], rows[index].expected_seq) for index in order]
            )
        written = dict(zip(order, outcomes, strict=True))
        refused = {
            index: _conflict(("rows", index, "expected_seq"), rows[index].expected_seq, outcome)
            for index, outcome in written.items()
            if isinstance(outcome, Conflict)
        }
        return Upserted(
            seqs={index: seq for index, seq in written.items() if isinstance(seq, int)}
            | prepared.unchanged,
            errors={**prepared.errors, **refused},
            unchanged=prepared.unchanged.keys(),
            timings=prepared.timings._replace(write_ns=self._clock_ns() - started_ns),
        )

    async def _embed(
        self,
        spec: CollectionSpec,
        rows: Sequence[RowInput],
        options: EmbedOptions,
        caller: Caller,
        prepared: PreparedRows,
    ) -> None:
        inputs = {
            index: NamedInput(name=("rows", index, content.modality.value), content=content)
            for index, content in prepared.inputs.items()
        }
        embedded = await self._embedder.embed(spec, inputs, options, caller)
        prepared.errors |= embedded.errors
        prepared.timings = embedded.timings
        for index, vector in embedded.vectors.items():
            prepared.rows[index] = NewRow(
                id=rows[index].id,
                vector=vector,
                payload_json=prepared.payloads[index],
                source=source_of(rows[index], options) if spec.keep_text else None,
            )


async def _skip(
    collection: Collection,
    rows: Sequence[RowInput],
    candidates: Mapping[int, NewRow],
    prepared: PreparedRows,
) -> None:
    """Take out of what is to be embedded and written the candidates that are stored so."""
    times = Counter(row.id for row in rows)
    # Of rows with one id the last is to win, whatever is stored now.
    lone = {index: row for index, row in candidates.items() if times[row.id] == 1}
    if not lone:
        return
    seqs = await collection.unchanged(list(lone.values()))
    for index, seq in zip(lone, seqs, strict=True):
        if seq and rows[index].expected_seq in (None, seq):
            prepared.unchanged[index] = seq
            prepared.inputs.pop(index, None)
            prepared.rows.pop(index, None)


def _conflict(
    field: str | FieldPath, expected: int | None, conflict: Conflict
) -> FailedPrecondition:
    current = conflict.current_seq
    found = f"the row has seq {current}" if current else "there is no such row"
    return FailedPrecondition(f"is {expected}, but {found}", field=field)
