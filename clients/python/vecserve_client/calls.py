"""What each method of the client asks for, and how it reads the answer.

Owns the requests, shared by the synchronous and the asynchronous client. Must not know channels,
time or retries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from vecserve.v1 import admin_pb2, collection_pb2, embedding_pb2, index_pb2
from vecserve_client import batching, declarations, wire
from vecserve_client.arguments import AnyRecord, as_fields, as_list, fitted
from vecserve_client.conditions import Where, as_filter
from vecserve_client.errors import InvalidArgument
from vecserve_client.retry import IDEMPOTENT
from vecserve_client.types import (
    Collection,
    EmbedOptions,
    EmbedResult,
    Fields,
    FieldTypes,
    GetResult,
    Model,
    Record,
    Row,
    UpsertResult,
)

T = TypeVar("T")

NO_SEQS: Final[Mapping[str, int]] = MappingProxyType({})
_HEALTH_STATES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One unary call: where it goes, what it says, how its reply is read."""

    path: str
    """Full method name: /package.Service/Method."""
    request: Message
    reply_type: type[Message]
    read: Callable[[Any], T]
    idempotent: bool

    @property
    def method(self) -> str:
        """The method's short name, for messages."""
        return self.path.rpartition("/")[2]


def embed(request: embedding_pb2.EmbedRequest) -> Call[EmbedResult]:
    """Embed one batch."""
    return unary(
        "EmbeddingService/Embed",
        request,
        embedding_pb2.EmbedResponse,
        lambda reply: wire.embed_result_from_proto(
            [reply], text_count=len(request.inputs), method="Embed"
        ),
    )


def embed_requests(
    texts: Sequence[str], *, model: str, options: EmbedOptions | None
) -> Iterator[embedding_pb2.EmbedRequest]:
    """Cut a list of texts into requests, numbered from 0."""
    texts = as_list("texts", texts)
    for position, text in enumerate(texts):
        wire.check_text(f"texts[{position}]", text)
    cut = batching.batches(
        texts, name="texts", max_items=batching.EMBED_ITEMS, size_bytes=_text_bytes
    )
    for number, batch in enumerate(cut):
        yield fitted(
            embedding_pb2.EmbedRequest,
            request_id=str(number),
            model=model,
            inputs=[embedding_pb2.EmbedInput(text=text) for text in batch],
            options=wire.options_to_proto(options),
        )


def upsert(request: index_pb2.UpsertRequest) -> Call[UpsertResult]:
    """Write one batch of rows."""
    return unary(
        "IndexService/Upsert",
        request,
        index_pb2.UpsertResponse,
        lambda reply: wire.upsert_result_from_proto(
            reply, row_count=len(request.rows), method="Upsert"
        ),
        idempotent=may_resend(request),
    )


def upsert_requests(
    collection: str,
    records: Iterable[AnyRecord],
    *,
    options: EmbedOptions | None,
    batch_rows: int,
    skip_unchanged: bool = False,
    start: int = 0,
) -> Iterator[index_pb2.UpsertRequest]:
    """Cut records into requests, each named by the position of its first row, from `start`."""
    if not 1 <= batch_rows <= batching.REQUEST_ITEMS:
        raise InvalidArgument(f"batch_rows: {batch_rows}, must be 1 to {batching.REQUEST_ITEMS}")
    if isinstance(records, Record | Mapping | str):
        raise InvalidArgument("rows: is a single row; a list of them is asked for")
    rows = map(wire.record_to_proto, records)
    position = start
    cut = batching.batches(
        rows, name="rows", max_items=batch_rows, size_bytes=message_bytes, start=start
    )
    for batch in cut:
        yield fitted(
            index_pb2.UpsertRequest,
            request_id=str(position),
            collection=collection,
            rows=batch,
            options=wire.options_to_proto(options),
            skip_unchanged=skip_unchanged,
        )
        position += len(batch)


def may_resend(request: object) -> bool:
    """Tell whether a request may run twice: not if it is on condition of a row's seq."""
    if isinstance(request, index_pb2.DeleteRequest):
        return not request.expected_seqs
    if not isinstance(request, index_pb2.UpsertRequest):
        return True
    return not any(row.HasField("expected_seq") for row in request.rows)


def delete(
    collection: str,
    *,
    ids: Sequence[str] = (),
    where: Where | None = None,
    expected_seqs: Mapping[str, int] = NO_SEQS,
) -> list[Call[int]]:
    """Delete rows by id, in as many calls as the limits of one ask for, or all rows that match.

    Raises InvalidArgument for an id in `expected_seqs` that is not among `ids`.
    """
    if unknown := expected_seqs.keys() - set(ids):
        raise InvalidArgument(f"expected_seqs: {min(unknown)!r} is not among ids")
    requests = [
        fitted(
            index_pb2.DeleteRequest,
            collection=collection,
            ids=batch,
            filter=as_filter(where),
            expected_seqs=[
                index_pb2.ExpectedSeq(id=id_, seq=expected_seqs[id_])
                for id_ in batch
                if id_ in expected_seqs
            ],
        )
        for batch in _id_batches(ids)
    ]
    return [
        unary(
            "IndexService/Delete",
            request,
            index_pb2.DeleteResponse,
            wire.deleted_from_proto,
            idempotent=may_resend(request),
        )
        for request in requests
    ]


def get(
    collection: str,
    ids: Sequence[str],
    *,
    include_vector: bool,
    include_payload: bool,
    with_text: bool,
) -> list[Call[GetResult]]:
    """Read rows by id, in as many calls as the limits of one ask for."""
    return [
        unary(
            "IndexService/Get",
            fitted(
                index_pb2.GetRequest,
                collection=collection,
                ids=batch,
                include_vector=include_vector,
                exclude_payload=not include_payload,
                with_text=with_text,
            ),
            index_pb2.GetResponse,
            wire.get_result_from_proto,
        )
        for batch in _id_batches(ids)
    ]


def scan_page(
    collection: str,
    *,
    page_size: int,
    page_token: str,
    where: Where | None,
    include_vector: bool,
    include_payload: bool,
    with_text: bool,
) -> Call[tuple[list[Row], str]]:
    """Read one page of rows, and the token of the next page ("" on the last)."""
    return unary(
        "IndexService/Scan",
        fitted(
            index_pb2.ScanRequest,
            collection=collection,
            page_size=page_size,
            page_token=page_token,
            filter=as_filter(where),
            include_vector=include_vector,
            exclude_payload=not include_payload,
            with_text=with_text,
        ),
        index_pb2.ScanResponse,
        lambda reply: (list(map(wire.row_from_proto, reply.rows)), reply.next_page_token),
    )


def count(collection: str, *, where: Where | None) -> Call[int]:
    """Count rows."""
    return unary(
        "IndexService/Count",
        fitted(index_pb2.CountRequest, collection=collection, filter=as_filter(where)),
        index_pb2.CountResponse,
        lambda reply: int(reply.row_count),
    )


def create_collection(
    name: str, *, model: str, dim: int, fields: Fields | FieldTypes, keep_text: bool
) -> Call[Collection]:
    """Create an empty collection."""
    request = fitted(
        collection_pb2.CreateCollectionRequest,
        name=name,
        model=model,
        dim=dim,
        discard_text=not keep_text,
    )
    declarations.declare(request, as_fields(fields))
    return unary(
        "CollectionService/CreateCollection",
        request,
        collection_pb2.CreateCollectionResponse,
        lambda reply: wire.collection_from_proto(reply.collection),
    )


def get_collection(name: str) -> Call[Collection]:
    """Describe a collection."""
    return unary(
        "CollectionService/GetCollection",
        fitted(collection_pb2.GetCollectionRequest, name=name),
        collection_pb2.GetCollectionResponse,
        lambda reply: wire.collection_from_proto(reply.collection),
    )


def list_collections_page(*, page_token: str) -> Call[tuple[list[Collection], str]]:
    """List one page of collections, and the token of the next page ("" on the last)."""
    return unary(
        "CollectionService/ListCollections",
        fitted(collection_pb2.ListCollectionsRequest, page_size=1000, page_token=page_token),
        collection_pb2.ListCollectionsResponse,
        lambda reply: (
            list(map(wire.collection_from_proto, reply.collections)),
            reply.next_page_token,
        ),
    )


def drop_collection(name: str) -> Call[int]:
    """Delete a collection; its row count."""
    return unary(
        "CollectionService/DropCollection",
        fitted(collection_pb2.DropCollectionRequest, name=name),
        collection_pb2.DropCollectionResponse,
        lambda reply: int(reply.row_count),
    )


def list_models() -> Call[list[Model]]:
    """List the loaded models."""
    return unary(
        "AdminService/ListModels",
        admin_pb2.ListModelsRequest(),
        admin_pb2.ListModelsResponse,
        lambda reply: list(map(wire.model_from_proto, reply.models)),
    )


def health(service: str) -> Call[str]:
    """Ask for the health of the server, or of one service.

    The messages of grpc.health.v1 hold one string and one enum: on the wire they are the same as
    the well-known wrappers, which spares the client a dependency.
    """
    return Call(
        path="/grpc.health.v1.Health/Check",
        request=StringValue(value=service),
        reply_type=Int32Value,
        read=lambda reply: _HEALTH_STATES[reply.value if 0 <= reply.value < 4 else 0],
        idempotent=True,
    )


def unary(
    path: str,
    request: Message,
    reply_type: type[Message],
    read: Callable[[Any], T],
    *,
    idempotent: bool = True,
) -> Call[T]:
    """Describe a call of `vecserve.v1`; `path` is Service/Method."""
    return Call(
        path=f"/vecserve.v1.{path}",
        request=request,
        reply_type=reply_type,
        read=read,
        idempotent=idempotent and path.rpartition("/")[2] in IDEMPOTENT,
    )


def message_bytes(message: Message) -> int:
    """Measure a message."""
    return message.ByteSize()


def _text_bytes(text: str) -> int:
    return len(text.encode())


def _id_batches(ids: Sequence[str]) -> list[list[str]]:
    ids = as_list("ids", ids)
    for position, id_ in enumerate(ids):
        wire.check_text(f"ids[{position}]", id_)
    cut = batching.batches(
        ids, name="ids", max_items=batching.REQUEST_ITEMS, size_bytes=_text_bytes
    )
    # No ids are one request too: with a filter they mean something, without the server objects.
    return list(cut) or [[]]
