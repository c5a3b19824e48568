"""Between the messages of Classify and the use case.

Owns the conversion both ways. Must not know how labels are found.
"""

from __future__ import annotations

from vecserve.v1 import search_pb2
from vecserve_server.domain.caller import Caller
from vecserve_server.gateway.vecserve.converters import read_embed_options, read_query, write_hit
from vecserve_server.services.classifying import Classified, ClassifyingService


async def classify(
    service: ClassifyingService, request: search_pb2.ClassifyRequest, caller: Caller
) -> Classified:
    """Ask the service what a request asks."""
    given = request.HasField("min_confidence")
    return await service.classify(
        request.collection,
        read_query(("query",), request.query),
        read_embed_options(request.embed_options, field="embed_options"),
        caller,
        label_field=request.label_field,
        k=request.k,
        min_confidence=request.min_confidence if given else None,
        with_text=request.with_text,
    )


def write_classified(classified: Classified) -> search_pb2.ClassifyResponse:
    """Write the answer, but for its timings."""
    return search_pb2.ClassifyResponse(
        label=classified.label or "",
        out_of_scope=classified.label is None,
        scores=[
            search_pb2.LabelScore(label=score.label, confidence=score.confidence)
            for score in classified.scores
        ],
        neighbours=[write_hit(hit) for hit in classified.neighbours],
    )
