"""Rows in: embed what is text, check what is a vector, write both.

Owns the upsert use case and which rows fail alone. Must not know protocols.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vecserve_server.collections.collection import Collection
from vecserve_server.collections.collections import Collections
from vecserve_server.domain.collections import CollectionSpec
from vecserve_server.domain.conditions import Condition
from vecserve_server.domain.rows import NewRow, Source
from vecserve_server.domain.validation import check_count, check_id, check_payload, check_vector
from vecserve_server.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    RequestError,
    Superseded,
)
from vecserve_server.serving.catalog import Catalog, ServedModel
from vecserve_server.serving.embedding import EmbeddingService, EmbedOptions, shorten
from vecserve_server.settings.settings import LimitSettings
from vecserve_server.storage.rows.operations import Conflict, Delete, Outcome, Upsert

NO_VECTOR = np.empty(0, np.float32)
DELETE_ROWS = 1000
"""Rows of one transaction where a filter deletes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowInput:
    """A row as the caller gives it: with a text or with a ready vector, never both."""

    id: str
    text: str | None
    vector: NDArray[np.generic] | None
    payload_json: str
    expected_seq: int | None = None
    """Write only if the row's seq is this one; 0: only if there is no such row."""
    problem: RequestError | None = None
    """Why the row could not be read; it fails with this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upserted:
    """A seq for each row, or the row's error; and where the time went."""

    seqs: Mapping[int, int]
    errors: Mapping[int, RequestError]
    unchanged: Set[int]
    """Rows that were stored so already and were left alone."""
    queue_us: int
    tokenise_us: int
    encode_us: int
    write_us: int


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
        embedding: EmbeddingService,
        catalog: Catalog,
        check_pool: Executor,
        limits: LimitSettings,
        clock_ns: Callable[[], int],
    ) -> None:
        self._collections = collections
        self._embedding = embedding
        self._catalog = catalog
        self._check_pool = check_pool
        self._limits = limits
        self._clock_ns = clock_ns

    async def upsert(
        self,
        collection_name: str,
        rows: Sequence[RowInput],
        options: EmbedOptions,
        *,
        skip_unchanged: bool = False,
        deadline_ns: int | None = None,
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
                collection, rows, options, skip_unchanged=skip_unchanged, deadline_ns=deadline_ns
            ),
        )

    async def delete(
        self, collection_name: str, ids: Sequence[str], expected_seqs: Mapping[str, int]
    ) -> Deleted:
        """Delete rows, some only if their seq is the expected one."""
        self._collections.get(collection_name)
        check_count("ids", len(ids), limit=self._limits.max_items_per_call)
        for index, row_id in enumerate(ids):
            check_id(f"ids[{index}]", row_id, limit_bytes=self._limits.max_id_bytes)
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
        self, collection_name: str, condition: Condition, *, deadline_ns: int | None = None
    ) -> int:
        """Delete the rows that match now, in several transactions; return how many there were.

        Where one fails, those before it stand. Raises DeadlineExceeded between two of them.
        """
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
        *,
        skip_unchanged: bool,
        deadline_ns: int | None,
    ) -> Upserted:
        # Parsing a thousand payloads takes long enough to be felt by every other call.
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(
            self._check_pool, self._check_all, collection.spec, rows
        )
        if skip_unchanged and collection.spec.keep_text:
            await _skip(collection, rows, _by_their_texts(rows, options, prepared), prepared)
        if prepared.texts:
            served = model_of(collection.spec, self._catalog)
            check_dimensions(options, collection.spec)
            await self._embed(served, collection.spec, rows, options, deadline_ns, prepared)
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
            index: _conflict(f"rows[{index}].expected_seq", rows[index].expected_seq, outcome)
            for index, outcome in written.items()
            if isinstance(outcome, Conflict)
        }
        return Upserted(
            seqs={index: seq for index, seq in written.items() if isinstance(seq, int)}
            | prepared.unchanged,
            errors={**prepared.errors, **refused},
            unchanged=prepared.unchanged.keys(),
            queue_us=prepared.queue_us,
            tokenise_us=prepared.tokenise_us,
            encode_us=prepared.encode_us,
            write_us=(self._clock_ns() - started_ns) // 1000,
        )

    def _check_all(self, spec: CollectionSpec, rows: Sequence[RowInput]) -> _Prepared:
        prepared = _Prepared(rows={}, errors={}, texts={}, payloads={}, unchanged={})
        for index, row in enumerate(rows):
            try:
                payload = self._check(index, row)
                if row.vector is None:
                    prepared.texts[index] = row.text or ""
                    prepared.payloads[index] = payload
                else:
                    unit = check_vector(f"rows[{index}].vector", row.vector, dim=spec.dim)
                    prepared.rows[index] = NewRow(id=row.id, vector=unit, payload_json=payload)
            except RequestError as error:
                prepared.errors[index] = error
        return prepared

    def _check(self, index: int, row: RowInput) -> str:
        if row.problem is not None:
            raise row.problem
        check_id(f"rows[{index}].id", row.id, limit_bytes=self._limits.max_id_bytes)
        if row.text is None and row.vector is None:
            raise InvalidArgument(f"rows[{index}]", "has no content; text or vector must be set")
        return check_payload(
            f"rows[{index}].payload_json",
            row.payload_json,
            limit_bytes=self._limits.max_payload_bytes,
        )

    async def _embed(
        self,
        served: ServedModel,
        spec: CollectionSpec,
        rows: Sequence[RowInput],
        options: EmbedOptions,
        deadline_ns: int | None,
        prepared: _Prepared,
    ) -> None:
        embedded = await self._embedding.embed_with(
            served,
            list(prepared.texts.values()),
            replace(options, normalise=True),  # collections hold unit vectors
            names=[f"rows[{index}].text" for index in prepared.texts],
            deadline_ns=deadline_ns,
        )
        vectors = shorten(embedded.vectors, spec.dim)
        for position, index in enumerate(prepared.texts):
            if position in embedded.errors:
                prepared.errors[index] = embedded.errors[position]
            else:
                prepared.rows[index] = NewRow(
                    id=rows[index].id,
                    vector=vectors[position],
                    payload_json=prepared.payloads[index],
                    source=_source(rows[index].text or "", options) if spec.keep_text else None,
                )
        prepared.queue_us = embedded.queue_us
        prepared.tokenise_us = embedded.tokenise_us
        prepared.encode_us = embedded.encode_us


@dataclass(slots=True, kw_only=True)
class _Prepared:
    rows: dict[int, NewRow]
    errors: dict[int, RequestError]
    texts: dict[int, str]
    payloads: dict[int, str]
    """Of the rows in `texts`."""
    unchanged: dict[int, int]
    """The seq of each row that is left alone."""
    queue_us: int = 0
    tokenise_us: int = 0
    encode_us: int = 0


def _by_their_texts(
    rows: Sequence[RowInput], options: EmbedOptions, prepared: _Prepared
) -> Mapping[int, NewRow]:
    """Make of texts what would be stored, but for the vectors."""
    return {
        index: NewRow(
            id=rows[index].id,
            vector=NO_VECTOR,
            payload_json=prepared.payloads[index],
            source=_source(text, options),
        )
        for index, text in prepared.texts.items()
    }


async def _skip(
    collection: Collection,
    rows: Sequence[RowInput],
    candidates: Mapping[int, NewRow],
    prepared: _Prepared,
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
            prepared.texts.pop(index, None)
            prepared.rows.pop(index, None)


def _conflict(field: str, expected: int | None, conflict: Conflict) -> FailedPrecondition:
    current = conflict.current_seq
    found = f"the row has seq {current}" if current else "there is no such row"
    return FailedPrecondition(f"{field}: is {expected}, but {found}")


def _source(text: str, options: EmbedOptions) -> Source:
    return Source(
        text=text,
        prompt_name=options.prompt_name,
        prompt_text=options.prompt_text,
        truncate=options.truncate if options.truncate in ("left", "right") else "",
    )


def model_of(spec: CollectionSpec, catalog: Catalog) -> ServedModel:
    """Find the version that made a collection's vectors; refuse to mix in those of others."""
    served = catalog.with_weights(spec.model)
    loaded = served.text.ref
    if loaded.digest != spec.model.digest:
        raise FailedPrecondition(
            f"collection: {spec.name!r} was embedded by model {spec.model.name!r} version "
            f"{spec.model.version} ({spec.model.digest[:12]}), but version {loaded.version} "
            f"({loaded.digest[:12]}) is loaded; re-index it, or serve the old weights"
        )
    return served


def check_dimensions(options: EmbedOptions, spec: CollectionSpec) -> None:
    """Refuse another dim than the collection's, which is what its texts are embedded to."""
    if options.dimensions not in (0, spec.dim):
        raise InvalidArgument(
            f"{options.field}.dimensions",
            f"is {options.dimensions}; collection {spec.name!r} has {spec.dim}",
        )
