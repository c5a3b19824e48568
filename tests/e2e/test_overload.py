"""More than the server can do: it refuses at once what it would answer too late."""

from __future__ import annotations

from collections import Counter

import grpc

from tests.e2e.stubs import Stubs
from vecserve.v1 import embedding_pb2

LONG = " ".join(["every text is another one and fills most of a run"] * 20)
DEADLINE_S, PATIENCE_S = 1.0, 60.0


def request(number: int) -> embedding_pb2.EmbedRequest:
    return embedding_pb2.EmbedRequest(inputs=[embedding_pb2.EmbedInput(text=f"{number} {LONG}")])


def test_calls_that_would_be_answered_too_late_are_refused(stubs: Stubs) -> None:
    embed = stubs.embedding.Embed
    # How long things take shows while others wait.
    for call in [embed.future(request(number), timeout=PATIENCE_S) for number in range(40)]:
        call.result()

    flood = [embed.future(request(number), timeout=DEADLINE_S) for number in range(100, 700)]
    codes = Counter(call.code() for call in flood)

    assert codes[grpc.StatusCode.OK]
    refused = [call for call in flood if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert refused
    assert all("longer than the request may" in (call.details() or "") for call in refused)
    assert set(codes) <= {
        grpc.StatusCode.OK,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
    assert embed(request(1000), timeout=PATIENCE_S).items[0].vector.dim
