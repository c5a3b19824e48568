"""vecserve.v1.IndexService over gRPC."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial

from vecserve.v1 import index_pb2
from vecserve_server.domain.caller import Caller
from vecserve_server.domain.conditions import Condition
from vecserve_server.domain.inputs import Input
from vecserve_server.domain.validation import check_page_size
from vecserve_server.errors import InvalidArgument, RequestError
from vecserve_server.gateway.common.callers import CallContext as Context
from vecserve_server.gateway.common.page_tokens import read_page_token, read_seq, write_page_token
from vecserve_server.gateway.vecserve.answering import Answering
from vecserve_server.gateway.vecserve.converters import (
    read_content,
    read_embed_options,
    write_item_error,
    write_row,
)
from vecserve_server.gateway.vecserve.filters import read_filter
from vecserve_server.services.indexing import IndexingService, Upserted
from vecserve_server.services.reading import ReadingService
from vecserve_server.services.row_preparation import RowInput


class IndexServicer:
    """Write and read rows."""

    def __init__(
        self,
        *,
        indexing: IndexingService,
        reading: ReadingService,
        answering: Answering,
    ) -> None:
        self._indexing = indexing
        self._reading = reading
        self._answering = answering

    async def Upsert(
        self, request: index_pb2.UpsertRequest, context: Context
    ) -> index_pb2.UpsertResponse:
        """Write one batch."""
        return await self._upsert(request, context.caller)

    async def UpsertStream(
        self, request_iterator: AsyncIterator[index_pb2.UpsertStreamRequest], context: Context
    ) -> AsyncIterator[index_pb2.UpsertStreamResponse]:
        """Write batches as they come."""
        answer = partial(self._upsert, caller=context.caller)
        async for reply in self._answering.answer_each(
            "UpsertStream", request_iterator, answer, index_pb2.UpsertStreamResponse
        ):
            yield reply

    async def Delete(
        self, request: index_pb2.DeleteRequest, context: Context
    ) -> index_pb2.DeleteResponse:
        """Delete rows by id, or all that match."""
        if request.HasField("filter"):
            return await self._delete_matching(request, context.caller)
        with self._answering.admit(request, items=len(request.ids), field="ids") as arrived_ns:
            expected = _read_expected_seqs(request.expected_seqs)
            deleted = await self._indexing.delete(
                request.collection, request.ids, expected, context.caller
            )
            reply = index_pb2.DeleteResponse(
                deleted_count=deleted.count,
                errors=[
                    index_pb2.DeleteError(id=row_id, error=write_item_error(error))
                    for row_id, error in deleted.errors.items()
                ],
            )
            return self._answering.complete(reply, request, arrived_ns)

    async def Get(self, request: index_pb2.GetRequest, context: Context) -> index_pb2.GetResponse:
        """Read rows by id."""
        with self._answering.admit(request, items=len(request.ids), field="ids") as arrived_ns:
            found = await self._reading.get(
                request.collection,
                request.ids,
                context.caller,
                with_vectors=request.include_vector,
                with_text=request.with_text,
            )
            reply = index_pb2.GetResponse(
                rows=[
                    write_row(found[row_id], exclude_payload=request.exclude_payload)
                    for row_id in request.ids
                    if row_id in found
                ],
                missing_ids=[row_id for row_id in request.ids if row_id not in found],
            )
            return self._answering.complete(reply, request, arrived_ns)

    async def Scan(
        self, request: index_pb2.ScanRequest, context: Context
    ) -> index_pb2.ScanResponse:
        """Read all rows, a page at a time."""
        with self._answering.admit(request) as arrived_ns:
            name = self._reading.name_of(request.collection, context.caller)
            condition = self._condition(request)
            size = check_page_size(request.page_size)
            listing = _listing(name, request)
            page = await self._reading.scan(
                name,
                context.caller,
                after_seq=read_seq(read_page_token(listing, request.page_token)),
                size=size,
                condition=condition,
                with_vectors=request.include_vector,
                with_text=request.with_text,
            )
            after = str(page.next_after_seq or "")
            reply = index_pb2.ScanResponse(
                rows=[write_row(row, exclude_payload=request.exclude_payload) for row in page.rows],
                next_page_token=write_page_token(listing, after),
            )
            return self._answering.complete(reply, request, arrived_ns)

    async def Count(
        self, request: index_pb2.CountRequest, context: Context
    ) -> index_pb2.CountResponse:
        """Count live rows, all or those that match."""
        with self._answering.admit(request) as arrived_ns:
            condition = self._condition(request)
            rows = await self._reading.count(request.collection, condition, context.caller)
            reply = index_pb2.CountResponse(row_count=rows)
            return self._answering.complete(reply, request, arrived_ns)

    def _condition(
        self, request: index_pb2.ScanRequest | index_pb2.CountRequest
    ) -> Condition | None:
        if not request.HasField("filter"):
            return None
        return read_filter("filter", request.filter, self._answering.filter_limits)

    async def _delete_matching(
        self, request: index_pb2.DeleteRequest, caller: Caller
    ) -> index_pb2.DeleteResponse:
        with self._answering.admit(request) as arrived_ns:
            if request.ids or request.expected_seqs:
                raise InvalidArgument("filter", "does not go with ids or expected_seqs")
            condition = read_filter("filter", request.filter, self._answering.filter_limits)
            count = await self._indexing.delete_matching(request.collection, condition, caller)
            reply = index_pb2.DeleteResponse(deleted_count=count)
            return self._answering.complete(reply, request, arrived_ns)

    async def _upsert(
        self, request: index_pb2.UpsertRequest, caller: Caller
    ) -> index_pb2.UpsertResponse:
        with self._answering.admit(request, items=len(request.rows), field="rows") as arrived_ns:
            rows = [_read_row(index, row) for index, row in enumerate(request.rows)]
            options = read_embed_options(request.options)
            upserted = await self._indexing.upsert(
                request.collection,
                rows,
                options,
                caller,
                skip_unchanged=request.skip_unchanged,
            )
            reply = index_pb2.UpsertResponse(
                results=[_result(upserted, index) for index in range(len(rows))]
            )
            return self._answering.complete(reply, request, arrived_ns, upserted.timings)


def _read_row(index: int, row: index_pb2.UpsertRow) -> RowInput:
    content: Input | None = None
    problem: RequestError | None = None
    try:
        content = read_content(("rows", index), row)
    except RequestError as error:
        problem = error
    return RowInput(
        id=row.id,
        content=content,
        payload_json=row.payload_json,
        expected_seq=row.expected_seq if row.HasField("expected_seq") else None,
        problem=problem,
    )


def _read_expected_seqs(messages: Iterable[index_pb2.ExpectedSeq]) -> Mapping[str, int]:
    expected: dict[str, int] = {}
    for index, message in enumerate(messages):
        if not message.seq:
            raise InvalidArgument(("expected_seqs", index, "seq"), "is 0; it must be above 0")
        if expected.setdefault(message.id, message.seq) != message.seq:
            raise InvalidArgument(("expected_seqs", index, "id"), "comes with two different seqs")
    return expected


def _listing(collection: str, request: index_pb2.ScanRequest) -> str:
    # A token goes on only with the scan that it came from.
    if not request.HasField("filter"):
        return f"scan:{collection}"
    digest = hashlib.sha256(request.filter.SerializeToString(deterministic=True)).hexdigest()
    return f"scan:{collection}:{digest[:16]}"


def _result(upserted: Upserted, index: int) -> index_pb2.UpsertResult:
    error = upserted.errors.get(index)
    if error is not None:
        return index_pb2.UpsertResult(error=write_item_error(error))
    return index_pb2.UpsertResult(seq=upserted.seqs[index], unchanged=index in upserted.unchanged)
