"""Another client, in a process of its own: short texts, searches and health checks all the time.

Started as a module with the server's target; it prints one JSON object a line for each call, until
its standard input is closed.
"""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from vecserve.v1 import embedding_pb2, embedding_pb2_grpc, search_pb2, search_pb2_grpc

PAUSE_S, PATIENCE_S = 0.05, 20.0
COLLECTION = "probe"


def main(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        calls = [*_calls(channel), ("new connection", lambda: _health_over_a_new_one(target))]
        while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
            for kind, call in calls:
                print(json.dumps(_measured(kind, call)), flush=True)


def _calls(channel: Any) -> Iterator[tuple[str, Callable[[], object]]]:
    embed = embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed
    search = search_pb2_grpc.SearchServiceStub(channel).Search
    health = _check(channel)
    live = service_pb2_grpc.GRPCInferenceServiceStub(channel).ServerLive
    numbers = count()

    def text() -> str:
        return f"a short text, number {next(numbers)}"

    yield (
        "embed",
        lambda: embed(
            embedding_pb2.EmbedRequest(inputs=[embedding_pb2.EmbedInput(text=text())]),
            timeout=PATIENCE_S,
        ),
    )
    yield (
        "search",
        lambda: search(
            search_pb2.SearchRequest(collection=COLLECTION, query=search_pb2.Query(text=text())),
            timeout=PATIENCE_S,
        ),
    )
    yield "health", lambda: health(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
    yield "live", lambda: live(service_pb2.ServerLiveRequest(), timeout=PATIENCE_S)


def _check(channel: Any) -> Callable[..., object]:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    check: Callable[..., object] = stub.Check
    return check


def _health_over_a_new_one(target: str) -> None:
    # A channel of its own would share the connection of an equal one.
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(target, options=options) as channel:
        _check(channel)(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)


def _measured(kind: str, call: Callable[[], object]) -> dict[str, object]:
    began_s = time.monotonic()
    problem = ""
    try:
        call()
    except grpc.RpcError as error:
        problem = f"{error.code().name}: {error.details()}"
    ended_s = time.monotonic()
    return {"kind": kind, "at_s": began_s, "seconds": ended_s - began_s, "problem": problem}


if __name__ == "__main__":
    main(sys.argv[1])
