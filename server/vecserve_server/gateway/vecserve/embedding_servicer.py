"""vecserve.v1.EmbeddingService over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from grpc import aio

from vecserve.v1 import embedding_pb2, embedding_pb2_grpc
from vecserve_server.errors import InvalidArgument, RequestError, Unsupported
from vecserve_server.gateway.common.call import CallScope
from vecserve_server.gateway.vecserve.converters import (
    WriteVector,
    read_embed_options,
    vector_writer,
    write_item_error,
    write_model_info,
)
from vecserve_server.serving.embedding import Embedded, EmbeddingService

Context = aio.ServicerContext[Any, Any]


class EmbeddingServicer(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Embed batches, one call or one stream at a time."""

    def __init__(self, *, service: EmbeddingService, scope: CallScope) -> None:
        self._service = service
        self._scope = scope

    async def Embed(
        self, request: embedding_pb2.EmbedRequest, context: Context
    ) -> embedding_pb2.EmbedResponse:
        """Embed one batch."""
        return await self._embed(request, self._scope.deadline_ns(context))

    async def EmbedStream(
        self, request_iterator: AsyncIterator[embedding_pb2.EmbedStreamRequest], context: Context
    ) -> AsyncIterator[embedding_pb2.EmbedStreamResponse]:
        """Embed batches as they come."""
        answer = partial(self._embed, deadline_ns=self._scope.deadline_ns(context))
        async for reply in self._scope.answer_each(
            "EmbedStream", request_iterator, answer, embedding_pb2.EmbedStreamResponse
        ):
            yield reply

    async def _embed(
        self, request: embedding_pb2.EmbedRequest, deadline_ns: int | None
    ) -> embedding_pb2.EmbedResponse:
        with self._scope.admit(request, items=len(request.inputs), field="inputs") as arrived_ns:
            options = read_embed_options(request.options)
            write = vector_writer(request.options.encoding, float_list=request.options.float_list)
            texts = [_text_of(index, item) for index, item in enumerate(request.inputs)]
            embedded = await self._service.embed(
                request.model, texts, options, deadline_ns=deadline_ns
            )
            reply = embedding_pb2.EmbedResponse(
                model=write_model_info(embedded.model.text.ref), items=_items(embedded, write)
            )
            return self._scope.complete(
                reply,
                request,
                arrived_ns,
                queue_us=embedded.queue_us,
                tokenise_us=embedded.tokenise_us,
                encode_us=embedded.encode_us,
            )


def _text_of(index: int, item: embedding_pb2.EmbedInput) -> str | RequestError:
    kind = item.WhichOneof("content")
    if kind == "text":
        return item.text
    if kind is None:
        return InvalidArgument(f"inputs[{index}]", "has no content; text must be set")
    return Unsupported(f"inputs[{index}].{kind}: the model takes text only")


def _items(embedded: Embedded, write: WriteVector) -> list[embedding_pb2.EmbedItem]:
    items = []
    for index, vector in enumerate(embedded.vectors):
        item = embedding_pb2.EmbedItem(
            tokens=embedded.tokens[index], total_tokens=embedded.total_tokens[index]
        )
        error = embedded.errors.get(index)
        if error is None:
            item.vector.CopyFrom(write(vector))
        else:
            item.error.CopyFrom(write_item_error(error))
        items.append(item)
    return items
