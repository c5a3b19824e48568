"""What searches ask the server for, and how their answers are read.

Owns the requests of SearchService. Must not know channels, time or retries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from vecserve.v1 import search_pb2
from vecserve_client import batching, vectors, wire
from vecserve_client.arguments import as_list, check_k, check_known, fitted
from vecserve_client.calls import Call, message_bytes, unary
from vecserve_client.conditions import as_filter
from vecserve_client.errors import InvalidArgument
from vecserve_client.searches import (
    AnyQuery,
    Mode,
    Query,
    ReciprocalRank,
    SearchOptions,
    WeightedSum,
)
from vecserve_client.types import EmbedOptions, SearchResult

MODES: Final[Mapping[Mode, search_pb2.SearchMode.ValueType]] = MappingProxyType(
    {
        "dense": search_pb2.SEARCH_MODE_DENSE,
        "lexical": search_pb2.SEARCH_MODE_LEXICAL,
        "hybrid": search_pb2.SEARCH_MODE_HYBRID,
    }
)


def search(
    collection: str,
    query: AnyQuery,
    *,
    options: SearchOptions,
    embed_options: EmbedOptions | None,
) -> Call[SearchResult]:
    """Answer one query."""
    message = query_to_proto(query)
    batching.check_size("query", message.ByteSize())
    return unary(
        "SearchService/Search",
        search_pb2.SearchRequest(
            collection=collection,
            query=message,
            options=options_to_proto(options),
            embed_options=wire.options_to_proto(embed_options),
        ),
        search_pb2.SearchResponse,
        _read_search,
    )


def search_batch(
    collection: str,
    queries: Sequence[AnyQuery],
    *,
    options: SearchOptions,
    embed_options: EmbedOptions | None,
) -> list[Call[list[SearchResult]]]:
    """Answer many queries, in as many calls as the limits of one ask for."""
    cut = batching.batches(
        map(query_to_proto, _listed(queries)),
        name="queries",
        max_items=batching.REQUEST_ITEMS,
        size_bytes=message_bytes,
    )
    return [
        unary(
            "SearchService/SearchBatch",
            search_pb2.SearchBatchRequest(
                collection=collection,
                queries=batch,
                options=options_to_proto(options),
                embed_options=wire.options_to_proto(embed_options),
            ),
            search_pb2.SearchBatchResponse,
            _read_search_batch,
        )
        for batch in cut
    ]


def query_to_proto(query: AnyQuery) -> search_pb2.Query:
    """Convert a query; raise InvalidArgument unless it holds exactly one content."""
    if isinstance(query, str):
        query = Query(text=query)
    elif not isinstance(query, Query):
        query = Query(vector=query)
    if (query.text is not None) + (query.vector is not None) + bool(query.row_ids) != 1:
        raise InvalidArgument("query: set one of text, vector and row_ids")
    for text in (query.text or "", query.words, *query.row_ids):
        wire.check_text("query", text)
    message = search_pb2.Query(lexical_text=query.words)
    if query.text is not None:
        message.text = query.text
    elif query.vector is not None:
        message.vector.CopyFrom(vectors.to_proto(query.vector))
    else:
        message.row_ids.ids.extend(query.row_ids)
    return message


def options_to_proto(options: SearchOptions) -> search_pb2.SearchOptions:
    """Convert search options; raise InvalidArgument for one that there is not."""
    check_known("search", options, SearchOptions.__annotations__)
    mode = options.get("mode", "dense")
    if mode not in MODES:
        raise InvalidArgument(f"mode: {mode!r}, must be one of {', '.join(MODES)}")
    check_k(options.get("k", 10))
    return fitted(
        search_pb2.SearchOptions,
        k=options.get("k", 10),
        mode=MODES[mode],
        min_score=options.get("min_score"),
        filter=as_filter(options.get("where")),
        group_by=options.get("group_by", ""),
        fusion=_fusion_to_proto(options.get("fusion")),
        exact=options.get("exact", False),
        exclude_payload=not options.get("include_payload", True),
        explain=options.get("explain", False),
        with_text=options.get("with_text", False),
    )


def _listed(queries: Sequence[AnyQuery]) -> Sequence[AnyQuery]:
    if isinstance(queries, Query):
        raise InvalidArgument("queries: is a single Query; a list of them is asked for")
    return as_list("queries", queries)


def _fusion_to_proto(fusion: ReciprocalRank | WeightedSum | None) -> search_pb2.Fusion | None:
    if fusion is None:
        return None
    if isinstance(fusion, ReciprocalRank):
        by_rank = fitted(
            search_pb2.ReciprocalRank,
            "fusion.",
            rank_constant=fusion.rank_constant,
            dense_weight=fusion.dense,
            lexical_weight=fusion.lexical,
        )
        return search_pb2.Fusion(reciprocal_rank=by_rank)
    if not isinstance(fusion, WeightedSum):
        form = "write ReciprocalRank(lexical=2.0) or WeightedSum(dense=1.0, lexical=1.0)"
        raise InvalidArgument(f"fusion: is a {type(fusion).__name__}; {form}")
    weights = fitted(
        search_pb2.WeightedSum,
        "fusion.",
        dense_weight=fusion.dense,
        lexical_weight=fusion.lexical,
    )
    return search_pb2.Fusion(weighted_sum=weights)


def _read_search(reply: search_pb2.SearchResponse) -> SearchResult:
    return SearchResult(
        hits=wire.hits_from_proto(reply.hits),
        timings=wire.timings_from_proto(reply.timings),
        explain=wire.explain_from_proto(reply.explain_json),
    )


def _read_search_batch(reply: search_pb2.SearchBatchResponse) -> list[SearchResult]:
    timings = wire.timings_from_proto(reply.timings)
    return [
        SearchResult(
            hits=wire.hits_from_proto(result.hits),
            timings=timings,
            explain=wire.explain_from_proto(result.explain_json),
            error=wire.query_error_from_proto(result, method="SearchBatch"),
        )
        for result in reply.results
    ]
