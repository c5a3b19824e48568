"""vecserve.v1.SearchService over gRPC."""

from __future__ import annotations

from collections.abc import Sequence

from vecserve.v1 import search_pb2
from vecserve_server.domain.caller import Caller
from vecserve_server.domain.searching import Searched
from vecserve_server.gateway.common.callers import CallContext as Context
from vecserve_server.gateway.vecserve.answering import Answering, Reply
from vecserve_server.gateway.vecserve.classification import classify, write_classified
from vecserve_server.gateway.vecserve.converters import (
    read_embed_options,
    read_query,
    write_explanation,
    write_hit,
    write_item_error,
)
from vecserve_server.gateway.vecserve.search_options import read_search_options
from vecserve_server.services.classifying import ClassifyingService
from vecserve_server.services.searching import QueryInput, SearchingService


class SearchServicer:
    """Answer queries, one or many in a call, with rows or with a label."""

    def __init__(
        self, *, service: SearchingService, classifying: ClassifyingService, answering: Answering
    ) -> None:
        self._service = service
        self._classifying = classifying
        self._answering = answering

    async def Search(
        self, request: search_pb2.SearchRequest, context: Context
    ) -> search_pb2.SearchResponse:
        """Answer one query."""
        with self._answering.admit(request) as arrived_ns:
            query = read_query(("query",), request.query)
            searched = await self._search(request, [query], context.caller)
            if searched.errors:
                raise searched.errors[0]
            answer = searched.answers[0]
            reply = search_pb2.SearchResponse(
                hits=[write_hit(hit) for hit in answer.hits],
                explain_json=write_explanation(answer),
            )
            return self._complete(reply, request, arrived_ns, searched)

    async def SearchBatch(
        self, request: search_pb2.SearchBatchRequest, context: Context
    ) -> search_pb2.SearchBatchResponse:
        """Answer many queries."""
        with self._answering.admit(
            request, items=len(request.queries), field="queries"
        ) as arrived_ns:
            queries = [read_query(("queries", i), q) for i, q in enumerate(request.queries)]
            searched = await self._search(request, queries, context.caller)
            reply = search_pb2.SearchBatchResponse(
                results=[_result(searched, index) for index in range(len(request.queries))]
            )
            return self._complete(reply, request, arrived_ns, searched)

    async def Classify(
        self, request: search_pb2.ClassifyRequest, context: Context
    ) -> search_pb2.ClassifyResponse:
        """Label one query."""
        with self._answering.admit(request) as arrived_ns:
            classified = await classify(self._classifying, request, context.caller)
            reply = write_classified(classified)
            return self._complete(reply, request, arrived_ns, classified.searched)

    async def _search(
        self,
        request: search_pb2.SearchRequest | search_pb2.SearchBatchRequest,
        queries: Sequence[QueryInput],
        caller: Caller,
    ) -> Searched:
        return await self._service.search(
            request.collection,
            queries,
            read_search_options(request.options, self._answering.filter_limits),
            read_embed_options(request.embed_options, field="embed_options"),
            caller,
        )

    def _complete(
        self, reply: Reply, request: object, arrived_ns: int, searched: Searched
    ) -> Reply:
        return self._answering.complete(reply, request, arrived_ns, searched.timings)


def _result(searched: Searched, index: int) -> search_pb2.SearchBatchResult:
    error = searched.errors.get(index)
    if error is not None:
        return search_pb2.SearchBatchResult(error=write_item_error(error))
    answer = searched.answers[index]
    return search_pb2.SearchBatchResult(
        hits=[write_hit(hit) for hit in answer.hits], explain_json=write_explanation(answer)
    )
