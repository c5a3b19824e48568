"""vecserve.v1.CollectionService over gRPC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from grpc import aio

from vecserve.v1 import collection_pb2, collection_pb2_grpc
from vecserve_server.collections.collection import Collection
from vecserve_server.collections.collections import Collections
from vecserve_server.collections.standing import State
from vecserve_server.domain.collections import CollectionSpec
from vecserve_server.domain.validation import check_name
from vecserve_server.errors import InvalidArgument, NotFound
from vecserve_server.gateway.common.call import CallScope
from vecserve_server.gateway.common.page_tokens import cut_page
from vecserve_server.gateway.vecserve.converters import write_model_info
from vecserve_server.gateway.vecserve.declarations import (
    read_fields,
    read_text_analysis,
    write_declaration,
)
from vecserve_server.serving.catalog import Catalog

Context = aio.ServicerContext[Any, Any]
STATES = {
    State.SERVING: collection_pb2.COLLECTION_STATE_SERVING,
    State.DEGRADED: collection_pb2.COLLECTION_STATE_DEGRADED,
    State.DOWN: collection_pb2.COLLECTION_STATE_DOWN,
}


class CollectionServicer(collection_pb2_grpc.CollectionServiceServicer):
    """Create, describe, list and drop collections, and name them."""

    def __init__(
        self,
        *,
        collections: Collections,
        catalog: Catalog,
        scope: CallScope,
        wall_clock_ms: Callable[[], int],
    ) -> None:
        self._collections = collections
        self._catalog = catalog
        self._scope = scope
        self._wall_clock_ms = wall_clock_ms

    async def CreateCollection(
        self, request: collection_pb2.CreateCollectionRequest, context: Context
    ) -> collection_pb2.CreateCollectionResponse:
        """Create an empty collection."""
        with self._scope.admit(request) as arrived_ns:
            check_name("name", request.name)
            collection = await self._collections.create(self._spec(request))
            reply = collection_pb2.CreateCollectionResponse(
                collection=await self._describe(collection)
            )
            return self._scope.complete(reply, request, arrived_ns)

    async def GetCollection(
        self, request: collection_pb2.GetCollectionRequest, context: Context
    ) -> collection_pb2.GetCollectionResponse:
        """Describe one collection."""
        with self._scope.admit(request) as arrived_ns:
            collection = self._collections.get(request.name, field="name")
            reply = collection_pb2.GetCollectionResponse(
                collection=await self._describe(collection)
            )
            return self._scope.complete(reply, request, arrived_ns)

    async def ListCollections(
        self, request: collection_pb2.ListCollectionsRequest, context: Context
    ) -> collection_pb2.ListCollectionsResponse:
        """List collections, a page at a time."""
        with self._scope.admit(request) as arrived_ns:
            page, token = cut_page(
                "collections",
                (collection.spec.name for collection in self._collections.all()),
                page_size=request.page_size,
                page_token=request.page_token,
            )
            reply = collection_pb2.ListCollectionsResponse(
                collections=await self._describe_all(page), next_page_token=token
            )
            return self._scope.complete(reply, request, arrived_ns)

    async def DropCollection(
        self, request: collection_pb2.DropCollectionRequest, context: Context
    ) -> collection_pb2.DropCollectionResponse:
        """Delete a collection and its rows."""
        with self._scope.admit(request) as arrived_ns:
            rows = await self._collections.drop(request.name)
            reply = collection_pb2.DropCollectionResponse(row_count=rows)
            return self._scope.complete(reply, request, arrived_ns)

    async def SetAlias(
        self, request: collection_pb2.SetAliasRequest, context: Context
    ) -> collection_pb2.SetAliasResponse:
        """Make or move an alias."""
        with self._scope.admit(request):
            alias = check_name("alias.name", request.alias.name)
            previous = await self._collections.set_alias(alias, request.alias.collection)
            return collection_pb2.SetAliasResponse(previous_collection=previous)

    async def ListAliases(
        self, request: collection_pb2.ListAliasesRequest, context: Context
    ) -> collection_pb2.ListAliasesResponse:
        """List aliases, a page at a time."""
        with self._scope.admit(request):
            targets = dict(self._collections.aliases())
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
        with self._scope.admit(request):
            await self._collections.delete_alias(request.name)
            return collection_pb2.DeleteAliasResponse()

    def _spec(self, request: collection_pb2.CreateCollectionRequest) -> CollectionSpec:
        text_model = self._catalog.get(request.model).text
        model_dim = text_model.config.dim
        if request.dim > model_dim:
            raise InvalidArgument("dim", f"is {request.dim}; the model has {model_dim}")
        return CollectionSpec(
            name=request.name,
            model=text_model.ref,
            dim=request.dim or model_dim,
            created_unix_ms=self._wall_clock_ms(),
            fields=read_fields(request.fields),
            text_analysis=read_text_analysis(request),
            keep_text=not request.discard_text,
        )

    async def _describe_all(self, names: Sequence[str]) -> list[collection_pb2.Collection]:
        described = []
        for name in names:
            with suppress(NotFound):  # dropped while another was described
                described.append(await self._describe(self._collections.get(name)))
        return described

    async def _describe(self, collection: Collection) -> collection_pb2.Collection:
        spec = collection.spec
        manifest = self._collections.manifest(spec.name)
        described = collection_pb2.Collection(
            name=spec.name,
            model=write_model_info(spec.model),
            dim=spec.dim,
            row_count=collection.live_rows,
            last_seq=collection.last_seq(),
            created_unix_ms=spec.created_unix_ms,
            disk_bytes=await collection.disk_bytes(),
            memory_bytes=collection.memory_bytes,
            discards_text=not spec.keep_text,
            generation=manifest.generation,
            reindex_id=manifest.reindex.id if manifest.reindex else "",
            state=STATES[collection.standing.state],
            state_reason=collection.standing.reason,
        )
        write_declaration(spec, described)
        return described
