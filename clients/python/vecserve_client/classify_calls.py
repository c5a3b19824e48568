"""What Classify asks for, and how its answer is read.

Owns the request, shared by both clients. Must not know channels, time or retries.
"""

from __future__ import annotations

from vecserve.v1 import search_pb2
from vecserve_client import batching, search_calls, wire
from vecserve_client.arguments import check_k, fitted
from vecserve_client.calls import Call, unary
from vecserve_client.searches import AnyQuery
from vecserve_client.types import Classification, EmbedOptions, LabelScore


def classify(
    collection: str,
    query: AnyQuery,
    *,
    label_field: str,
    k: int,
    min_confidence: float | None,
    embed_options: EmbedOptions | None,
    with_text: bool,
) -> Call[Classification]:
    """Label one query."""
    check_k(k)
    message = search_calls.query_to_proto(query)
    batching.check_size("query", message.ByteSize())
    return unary(
        "SearchService/Classify",
        fitted(
            search_pb2.ClassifyRequest,
            collection=collection,
            query=message,
            label_field=label_field,
            k=k,
            min_confidence=min_confidence,
            embed_options=wire.options_to_proto(embed_options),
            with_text=with_text,
        ),
        search_pb2.ClassifyResponse,
        _read,
    )


def _read(reply: search_pb2.ClassifyResponse) -> Classification:
    return Classification(
        label=None if reply.out_of_scope else reply.label,
        scores=tuple(
            LabelScore(label=score.label, confidence=score.confidence) for score in reply.scores
        ),
        neighbours=wire.hits_from_proto(reply.neighbours),
        timings=wire.timings_from_proto(reply.timings),
    )
