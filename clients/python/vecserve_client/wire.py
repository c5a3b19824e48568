"""Between the client's types and the messages of `vecserve.v1`.

Owns every conversion, both ways. Must not know methods, channels or retries.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from vecserve.v1 import (
    admin_pb2,
    collection_pb2,
    common_pb2,
    embedding_pb2,
    index_pb2,
    search_pb2,
)
from vecserve_client import arguments, declarations, vectors
from vecserve_client.errors import InvalidArgument, ServerError, VecserveError, from_number
from vecserve_client.types import (
    Collection,
    CollectionState,
    EmbedOptions,
    EmbedResult,
    GetResult,
    Hit,
    Model,
    ModelRef,
    Record,
    Row,
    Timings,
    UpsertBatch,
    UpsertResult,
    Vectors,
)

_TRUNCATIONS: Final = {
    None: embedding_pb2.TRUNCATION_UNSPECIFIED,
    "right": embedding_pb2.TRUNCATION_RIGHT,
    "left": embedding_pb2.TRUNCATION_LEFT,
    "error": embedding_pb2.TRUNCATION_ERROR,
}


def options_to_proto(options: EmbedOptions | None) -> embedding_pb2.EmbedOptions | None:
    """Convert embedding options; raise InvalidArgument where both kinds of prompt are set."""
    options = arguments.as_embed_options(options)
    if options is None:
        return None
    if options.truncation not in _TRUNCATIONS:
        known = ", ".join(filter(None, _TRUNCATIONS))
        raise InvalidArgument(f"options: truncation is {options.truncation!r}, not one of {known}")
    if options.prompt_name is not None and options.prompt_text is not None:
        raise InvalidArgument("options: prompt_name and prompt_text exclude each other")
    message = embedding_pb2.EmbedOptions(
        dimensions=options.dimensions,
        skip_normalise=options.skip_normalise,
        truncation=_TRUNCATIONS[options.truncation],
        encoding=vectors.encoding_number(options.encoding),
    )
    if options.prompt_name is not None:
        message.prompt_name = options.prompt_name
    if options.prompt_text is not None:
        message.prompt_text = options.prompt_text
    return message


def record_to_proto(record: arguments.AnyRecord) -> index_pb2.UpsertRow:
    """Convert a row to write; raise InvalidArgument unless it holds exactly one content."""
    record = arguments.as_record(record)
    contents = (record.text, record.vector, record.image, record.audio)
    if sum(content is not None for content in contents) != 1:
        raise InvalidArgument(f"record {record.id!r}: set one of text, vector, image and audio")
    check_text(f"record {record.id!r}", record.id)
    check_text(f"record {record.id!r}", record.text or "")
    row = arguments.fitted(
        index_pb2.UpsertRow,
        f"record {record.id!r}: ",
        id=record.id,
        payload_json=_payload_to_json(record),
        expected_seq=record.expected_seq,
    )
    if record.text is not None:
        row.text = record.text
    elif record.vector is not None:
        row.vector.CopyFrom(vectors.to_proto(record.vector))
    elif record.image is not None:
        row.image = record.image
    elif record.audio is not None:
        row.audio = record.audio
    return row


def check_text(name: str, text: str) -> None:
    """Raise InvalidArgument for a text that UTF-8 cannot carry, or that is none."""
    if not isinstance(text, str):
        raise InvalidArgument(f"{name}: is a {type(text).__name__}, must be a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{name}: lone surrogate at character {error.start + 1}") from None


def timings_from_proto(message: common_pb2.Timings) -> Timings:
    """Convert server timings."""
    return Timings(
        queue_us=message.queue_us,
        tokenise_us=message.tokenise_us,
        encode_us=message.encode_us,
        search_us=message.search_us,
        write_us=message.write_us,
        total_us=message.total_us,
    )


def model_ref_from_proto(message: common_pb2.ModelInfo) -> ModelRef:
    """Convert the identity of a model."""
    return ModelRef(name=message.name, version=message.version, digest=message.digest)


def embed_result_from_proto(
    responses: Sequence[embedding_pb2.EmbedResponse], *, text_count: int, method: str
) -> EmbedResult:
    """Join the replies to one list of texts, in the order of the texts.

    Raises ServerError where vectors are missing, or of different models or dimensions.
    """
    models = {model_ref_from_proto(response.model) for response in responses}
    if len(models) > 1:
        raise ServerError("the model changed while the texts were embedded", method=method)
    items = [item for response in responses for item in response.items]
    _check_count(len(items), text_count, method)
    errors = {
        position: _item_error(item.error, method)
        for position, item in enumerate(items)
        if not item.HasField("vector")
    }
    return EmbedResult(
        vectors=_stack(items, method),
        tokens=np.asarray([item.tokens for item in items], dtype=np.int64),
        errors=errors,
        model=models.pop() if models else ModelRef(name="", version="", digest=""),
        timings=tuple(timings_from_proto(response.timings) for response in responses),
    )


def upsert_result_from_proto(
    message: index_pb2.UpsertResponse, *, row_count: int, method: str
) -> UpsertResult:
    """Convert the outcome of one upsert request; raise ServerError where results are missing."""
    _check_count(len(message.results), row_count, method)
    errors = {
        position: _item_error(result.error, method)
        for position, result in enumerate(message.results)
        if not result.seq
    }
    return UpsertResult(
        seqs=tuple(result.seq for result in message.results),
        errors=errors,
        timings=(timings_from_proto(message.timings),),
        unchanged=frozenset(
            position for position, result in enumerate(message.results) if result.unchanged
        ),
    )


def upsert_batch_from_proto(
    request: index_pb2.UpsertRequest, response: index_pb2.UpsertResponse, *, method: str
) -> UpsertBatch:
    """Convert an acknowledged request, whose id is the position of its first row."""
    ids = tuple(row.id for row in request.rows)
    result = upsert_result_from_proto(response, row_count=len(ids), method=method)
    return UpsertBatch(start=int(request.request_id), ids=ids, result=result)


def join_upserts(batches: Iterable[UpsertBatch]) -> UpsertResult:
    """Join acknowledged batches, in the order of their rows."""
    ordered = sorted(batches, key=lambda batch: batch.start)
    return UpsertResult(
        seqs=tuple(seq for batch in ordered for seq in batch.result.seqs),
        errors={
            batch.start + position: error
            for batch in ordered
            for position, error in batch.result.errors.items()
        },
        timings=tuple(timing for batch in ordered for timing in batch.result.timings),
        unchanged=frozenset(
            batch.start + position for batch in ordered for position in batch.result.unchanged
        ),
    )


def deleted_from_proto(message: index_pb2.DeleteResponse) -> int:
    """Read how many rows were deleted; raise FailedPrecondition if some were not as expected."""
    for refused in message.errors:
        error = _item_error(refused.error, "Delete")
        raise type(error)(
            f"id {refused.id!r}: {refused.error.message} "
            f"({len(message.errors)} rows stay, {message.deleted_count} are deleted)",
            method="Delete",
        )
    return message.deleted_count


def get_result_from_proto(message: index_pb2.GetResponse) -> GetResult:
    """Convert rows that were read by id."""
    return GetResult(
        rows=tuple(map(row_from_proto, message.rows)), missing_ids=tuple(message.missing_ids)
    )


def join_gets(results: Sequence[GetResult]) -> GetResult:
    """Join what was read in several requests, in the order of the ids."""
    return GetResult(
        rows=tuple(row for result in results for row in result.rows),
        missing_ids=tuple(id_ for result in results for id_ in result.missing_ids),
    )


def row_from_proto(message: index_pb2.Row) -> Row:
    """Convert a stored row."""
    return Row(
        id=message.id,
        seq=message.seq,
        payload=_json_object(message.payload_json),
        vector=vectors.from_proto(message.vector) if message.HasField("vector") else None,
        text=message.text if message.HasField("text") else None,
    )


def hits_from_proto(messages: Iterable[search_pb2.Hit]) -> tuple[Hit, ...]:
    """Convert hits, best first."""
    return tuple(
        Hit(
            id=message.id,
            score=message.score,
            seq=message.seq,
            payload=_json_object(message.payload_json),
            text=message.text if message.HasField("text") else None,
        )
        for message in messages
    )


def query_error_from_proto(
    message: search_pb2.SearchBatchResult, *, method: str
) -> VecserveError | None:
    """Convert the failure of one query of a batch, if there is one."""
    return _item_error(message.error, method) if message.HasField("error") else None


def explain_from_proto(explain_json: str) -> dict[str, Any] | None:
    """Convert how an answer came about."""
    return _json_object(explain_json)


_STATES: Mapping[int, CollectionState] = {
    collection_pb2.COLLECTION_STATE_SERVING: "serving",
    collection_pb2.COLLECTION_STATE_DEGRADED: "degraded",
    collection_pb2.COLLECTION_STATE_DOWN: "down",
}


def collection_from_proto(message: collection_pb2.Collection) -> Collection:
    """Convert the description of a collection."""
    return Collection(
        name=message.name,
        model=model_ref_from_proto(message.model),
        dim=message.dim,
        row_count=message.row_count,
        last_seq=message.last_seq,
        created_unix_ms=message.created_unix_ms,
        disk_bytes=message.disk_bytes,
        memory_bytes=message.memory_bytes,
        fields=declarations.from_proto(message),
        keeps_text=not message.discards_text,
        generation=message.generation,
        reindex_id=message.reindex_id,
        state=_STATES.get(message.state, "serving"),
        state_reason=message.state_reason,
    )


def model_from_proto(message: admin_pb2.Model) -> Model:
    """Convert the description of a loaded model."""
    return Model(
        ref=model_ref_from_proto(message.info),
        dim=message.dim,
        max_tokens=message.max_tokens,
        precision=message.precision,
        engine=message.engine,
        instance_count=message.instance_count,
        is_default=message.is_default,
        prompt_names=tuple(message.prompt_names),
    )


def _check_count(received: int, expected: int, method: str) -> None:
    if received != expected:
        raise ServerError(f"{received} results for {expected} items", method=method)


def _item_error(error: common_pb2.ItemError, method: str) -> VecserveError:
    return from_number(error.code, error.message or "the item failed", method=method)


def _stack(items: Sequence[embedding_pb2.EmbedItem], method: str) -> Vectors:
    unpacked = {
        position: vectors.from_proto(item.vector)
        for position, item in enumerate(items)
        if item.HasField("vector")
    }
    dims = {vector.size for vector in unpacked.values()}
    if len(dims) > 1:
        raise ServerError(f"vectors of different dimensions: {sorted(dims)}", method=method)
    stacked = np.full((len(items), dims.pop() if dims else 0), np.nan, dtype=np.float32)
    for position, vector in unpacked.items():
        stacked[position] = vector
    return stacked


def _payload_to_json(record: Record) -> str:
    if not record.payload:
        return ""
    try:
        payload_json = json.dumps(dict(record.payload), ensure_ascii=False, allow_nan=False)
        check_text("text", payload_json)
    except (TypeError, ValueError, RecursionError, InvalidArgument) as error:
        raise InvalidArgument(f"record {record.id!r}: payload: {error}") from None
    return payload_json


def _json_object(text: str) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        raise ServerError("the reply holds a payload that is not JSON") from None
    if not isinstance(value, dict):
        raise ServerError("the reply holds a payload that is not a JSON object")
    return value
