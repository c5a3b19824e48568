"""vecserve.v1.EmbeddingService over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

from vecserve.v1 import embedding_pb2
from vecserve_server.domain.caller import Caller
from vecserve_server.domain.embedding import Embedded
from vecserve_server.domain.inputs import Audio, Embeddable, Image, Text
from vecserve_server.errors import InvalidArgument, RequestError
from vecserve_server.gateway.common.callers import CallContext as Context
from vecserve_server.gateway.vecserve.answering import Answering
from vecserve_server.gateway.vecserve.converters import (
    WriteVector,
    read_embed_options,
    vector_writer,
    write_item_error,
    write_model_info,
)
from vecserve_server.services.embedding import EmbeddingService


class EmbeddingServicer:
    """Embed batches, one call or one stream at a time."""

    def __init__(self, *, service: EmbeddingService, answering: Answering) -> None:
        self._service = service
        self._answering = answering

    async def Embed(
        self, request: embedding_pb2.EmbedRequest, context: Context
    ) -> embedding_pb2.EmbedResponse:
        """Embed one batch."""
        return await self._embed(request, context.caller)

    async def EmbedStream(
        self, request_iterator: AsyncIterator[embedding_pb2.EmbedStreamRequest], context: Context
    ) -> AsyncIterator[embedding_pb2.EmbedStreamResponse]:
        """Embed batches as they come."""
        answer = partial(self._embed, caller=context.caller)
        async for reply in self._answering.answer_each(
            "EmbedStream", request_iterator, answer, embedding_pb2.EmbedStreamResponse
        ):
            yield reply

    async def _embed(
        self, request: embedding_pb2.EmbedRequest, caller: Caller
    ) -> embedding_pb2.EmbedResponse:
        with self._answering.admit(
            request, items=len(request.inputs), field="inputs"
        ) as arrived_ns:
            options = read_embed_options(request.options)
            write = vector_writer(request.options.encoding, float_list=request.options.float_list)
            inputs = [_input(index, item) for index, item in enumerate(request.inputs)]
            embedded = await self._service.embed(request.model, inputs, options, caller)
            reply = embedding_pb2.EmbedResponse(
                model=write_model_info(embedded.model), items=_items(embedded, write)
            )
            return self._answering.complete(reply, request, arrived_ns, embedded.timings)


def _input(index: int, item: embedding_pb2.EmbedInput) -> Embeddable | RequestError:
    match item.WhichOneof("content"):
        case "text":
            return Text(item.text)
        case "image":
            return Image(item.image)
        case "audio":
            return Audio(item.audio)
        case _:
            return InvalidArgument(("inputs", index), "has no content; text must be set")


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
