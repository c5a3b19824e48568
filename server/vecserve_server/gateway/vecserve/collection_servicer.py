"""vecserve.v1.CollectionService over gRPC."""

from __future__ import annotations

from vecserve.v1 import collection_pb2
from vecserve_server.domain.collections import CollectionState
from vecserve_server.gateway.common.callers import CallContext as Context
from vecserve_server.gateway.common.page_tokens import cut_page
from vecserve_server.gateway.vecserve.answering import Answering
from vecserve_server.gateway.vecserve.converters import write_model_info
from vecserve_server.gateway.vecserve.declarations import read_declaration, write_declaration
from vecserve_server.services.declaring import DeclaringService, Description

STATES = {
    CollectionState.SERVING: collection_pb2.COLLECTION_STATE_SERVING,
    CollectionState.DEGRADED: collection_pb2.COLLECTION_STATE_DEGRADED,
    CollectionState.DOWN: collection_pb2.COLLECTION_STATE_DOWN,
}


class CollectionServicer:
    """Create, describe, list and drop collections, and name them."""

    def __init__(self, *, service: DeclaringService, answering: Answering) -> None:
        self._service = service
        self._answering = answering

    async def CreateCollection(
        self, request: collection_pb2.CreateCollectionRequest, context: Context
    ) -> collection_pb2.CreateCollectionResponse:
        """Create an empty collection."""
        with self._answering.admit(request) as arrived_ns:
            created = await self._service.create(read_declaration(request), context.caller)
            reply = collection_pb2.CreateCollectionResponse(collection=_write(created))
            return self._answering.complete(reply, request, arrived_ns)

    async def GetCollection(
        self, request: collection_pb2.GetCollectionRequest, context: Context
    ) -> collection_pb2.GetCollectionResponse:
        """Describe one collection."""
        with self._answering.admit(request) as arrived_ns:
            found = await self._service.describe(request.name, context.caller)
            reply = collection_pb2.GetCollectionResponse(collection=_write(found))
            return self._answering.complete(reply, request, arrived_ns)

    async def ListCollections(
        self, request: collection_pb2.ListCollectionsRequest, context: Context
    ) -> collection_pb2.ListCollectionsResponse:
        """List collections, a page at a time."""
        with self._answering.admit(request) as arrived_ns:
            page, token = cut_page(
                "collections",
                self._service.names(context.caller),
                page_size=request.page_size,
                page_token=request.page_token,
            )
            found = await self._service.describe_all(page, context.caller)
            reply = collection_pb2.ListCollectionsResponse(
                collections=map(_write, found), next_page_token=token
            )
            return self._answering.complete(reply, request, arrived_ns)

    async def DropCollection(
        self, request: collection_pb2.DropCollectionRequest, context: Context
    ) -> collection_pb2.DropCollectionResponse:
        """Delete a collection and its rows."""
        with self._answering.admit(request) as arrived_ns:
            rows = await self._service.drop(request.name, context.caller)
            reply = collection_pb2.DropCollectionResponse(row_count=rows)
            return self._answering.complete(reply, request, arrived_ns)

    async def SetAlias(
        self, request: collection_pb2.SetAliasRequest, context: Context
    ) -> collection_pb2.SetAliasResponse:
        """Make or move an alias."""
        with self._answering.admit(request):
            alias = request.alias
            previous = await self._service.set_alias(alias.name, alias.collection, context.caller)
            return collection_pb2.SetAliasResponse(previous_collection=previous)

    async def ListAliases(
        self, request: collection_pb2.ListAliasesRequest, context: Context
    ) -> collection_pb2.ListAliasesResponse:
        """List aliases, a page at a time."""
        with self._answering.admit(request):
            targets = self._service.aliases(context.caller)
            page, token = cut_page(
                "aliases", targets, page_size=request.page_size, page_token=request.page_token
            )
            return collection_pb2.ListAliasesResponse(
                aliases=[
                    collection_pb2.Alias(name=name, collection=targets[name]) for name in page
                ],
                next_page_token=token,
            )

    async def DeleteAlias(
        self, request: collection_pb2.DeleteAliasRequest, context: Context
    ) -> collection_pb2.DeleteAliasResponse:
        """Remove an alias."""
        with self._answering.admit(request):
            await self._service.delete_alias(request.name, context.caller)
            return collection_pb2.DeleteAliasResponse()


def _write(found: Description) -> collection_pb2.Collection:
    spec = found.spec
    message = collection_pb2.Collection(
        name=spec.name,
        model=write_model_info(spec.model),
        dim=spec.dim,
        row_count=found.row_count,
        last_seq=found.last_seq,
        created_unix_ms=spec.created_unix_ms,
        disk_bytes=found.disk_bytes,
        memory_bytes=found.memory_bytes,
        discards_text=not spec.keep_text,
        generation=found.generation,
        reindex_id=found.reindex_id,
        state=STATES[found.state],
        state_reason=found.state_reason,
    )
    write_declaration(spec, message)
    return message
