"""Our API over use cases that a test chooses, on a free port of this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from grpc import aio

from tests.gateway.echo_model import echo_doors, echo_scope
from vecserve.v1 import (
    admin_pb2_grpc,
    collection_pb2_grpc,
    embedding_pb2_grpc,
    index_pb2_grpc,
    search_pb2_grpc,
)
from vecserve_server.gateway.common.call import CallScope
from vecserve_server.gateway.common.interceptor import CallInterceptor
from vecserve_server.gateway.vecserve.admin_servicer import AdminServicer
from vecserve_server.gateway.vecserve.answering import Answering
from vecserve_server.gateway.vecserve.collection_servicer import CollectionServicer
from vecserve_server.gateway.vecserve.embedding_servicer import EmbeddingServicer
from vecserve_server.gateway.vecserve.index_servicer import IndexServicer
from vecserve_server.gateway.vecserve.search_servicer import SearchServicer

MAX_ITEMS = 8


@dataclass(frozen=True, kw_only=True)
class Api:
    """A channel to the server, and what stands at its door."""

    channel: aio.Channel
    scope: CallScope


def servicers(core: Any, answering: Answering) -> list[tuple[Callable[..., None], object]]:
    return [
        (
            embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server,
            EmbeddingServicer(service=core.embedding, answering=answering),
        ),
        (
            collection_pb2_grpc.add_CollectionServiceServicer_to_server,
            CollectionServicer(service=core.declaring, answering=answering),
        ),
        (
            index_pb2_grpc.add_IndexServiceServicer_to_server,
            IndexServicer(indexing=core.indexing, reading=core.reading, answering=answering),
        ),
        (
            search_pb2_grpc.add_SearchServiceServicer_to_server,
            SearchServicer(
                service=core.searching, classifying=core.classifying, answering=answering
            ),
        ),
        (
            admin_pb2_grpc.add_AdminServiceServicer_to_server,
            AdminServicer(
                reporting=core.reporting,
                reindexing=core.reindexing,
                upkeep=core.upkeep,
                answering=answering,
            ),
        ),
    ]


@asynccontextmanager
async def api_server(core: Any) -> AsyncIterator[Api]:
    """Serve the use cases that `core` has under the names of `gateway.front.Core`."""
    scope = echo_scope(asyncio.Event())
    interceptor = CallInterceptor(
        metrics=scope.metrics,
        failures=scope.failures,
        clock_ns=scope.clock_ns,
        doors=echo_doors(scope),
    )
    server: Any = aio.server(interceptors=[interceptor])
    port = server.add_insecure_port("127.0.0.1:0")
    for add, servicer in servicers(core, Answering(scope=scope, max_items_per_call=MAX_ITEMS)):
        add(servicer, server)
    interceptor.open()
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Api(channel=channel, scope=scope)
    finally:
        await server.stop(0)
