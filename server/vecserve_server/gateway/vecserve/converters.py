"""Between messages and domain objects.

Owns the layout of vectors on the wire and the refusal of fields that this server does not offer
yet. Must not know services' work.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vecserve.v1 import common_pb2, embedding_pb2, index_pb2, search_pb2
from vecserve_server.domain.embedding import EmbedOptions, Truncate
from vecserve_server.domain.inputs import Audio, Image, Input, ReadyVector, Text
from vecserve_server.domain.rows import Hit, Row
from vecserve_server.domain.searching import QueryHits
from vecserve_server.domain.vectors import ModelRef, Vectors
from vecserve_server.errors import FieldPath, InvalidArgument, RequestError
from vecserve_server.gateway.common.status_table import code_number, code_of, wire_message
from vecserve_server.services.searching import QueryInput

F32 = common_pb2.VECTOR_ENCODING_F32
F16 = common_pb2.VECTOR_ENCODING_F16
INT8 = common_pb2.VECTOR_ENCODING_INT8
BINARY = common_pb2.VECTOR_ENCODING_BINARY

MAX_DIM = 8192
TRUNCATE: dict[int, Truncate | None] = {
    embedding_pb2.TRUNCATION_UNSPECIFIED: None,
    embedding_pb2.TRUNCATION_RIGHT: "right",
    embedding_pb2.TRUNCATION_LEFT: "left",
    embedding_pb2.TRUNCATION_ERROR: "error",
}

WriteVector = Callable[[Vectors], common_pb2.Vector]


def vector_writer(encoding: int, *, float_list: bool) -> WriteVector:
    """Choose how vectors of a reply are laid out."""
    if float_list and encoding not in (common_pb2.VECTOR_ENCODING_UNSPECIFIED, F32):
        raise InvalidArgument(("options", "float_list"), "goes only with VECTOR_ENCODING_F32")
    if float_list:
        return lambda v: common_pb2.Vector(encoding=F32, dim=v.size, values=v.tolist())
    writers: dict[int, WriteVector] = {
        common_pb2.VECTOR_ENCODING_UNSPECIFIED: _write_f32,
        F32: _write_f32,
        F16: lambda v: common_pb2.Vector(encoding=F16, dim=v.size, data=v.astype("<f2").tobytes()),
        INT8: _write_int8,
        BINARY: lambda v: common_pb2.Vector(
            encoding=BINARY, dim=v.size, data=np.packbits(v > 0).tobytes()
        ),
    }
    if encoding not in writers:
        raise InvalidArgument(("options", "encoding"), f"{encoding} is not a VectorEncoding")
    return writers[encoding]


def _write_f32(vector: Vectors) -> common_pb2.Vector:
    return common_pb2.Vector(encoding=F32, dim=vector.size, data=vector.astype("<f4").tobytes())


def _write_int8(vector: Vectors) -> common_pb2.Vector:
    scale = max(float(np.abs(vector).max()) / 127, 1e-30)
    codes = np.clip(np.rint(vector / scale), -127, 127).astype(np.int8)
    return common_pb2.Vector(encoding=INT8, dim=vector.size, data=codes.tobytes(), scale=scale)


def read_vector(field: FieldPath, message: common_pb2.Vector) -> NDArray[np.generic]:
    """Read a vector [D] of a request; its values are not checked here."""
    # Each takes a Python object, so they are counted before they are read.
    _check_dim(field, len(message.values))
    if message.values:
        vector: NDArray[np.generic] = np.array(message.values, np.float32)
    else:
        vector = _read_data(field, message)
    if message.dim and message.dim != vector.size:
        raise InvalidArgument(
            (*field, "dim"), f"is {message.dim}, but {vector.size} components came"
        )
    _check_dim(field, vector.size)
    return vector


def _check_dim(field: FieldPath, dim: int) -> None:
    if dim > MAX_DIM:
        raise InvalidArgument(field, f"has {dim} components; the limit is {MAX_DIM}")


def _read_data(field: FieldPath, message: common_pb2.Vector) -> NDArray[np.generic]:
    layouts = {common_pb2.VECTOR_ENCODING_UNSPECIFIED: "<f4", F32: "<f4", F16: "<f2", INT8: "i1"}
    layout = layouts.get(message.encoding)
    if layout is None:
        raise InvalidArgument((*field, "encoding"), "must be F32, F16 or INT8 in a request")
    size = np.dtype(layout).itemsize
    if len(message.data) % size:
        raise InvalidArgument(
            (*field, "data"), f"has {len(message.data)} bytes; {size} bytes make a component"
        )
    return np.frombuffer(message.data, layout)


def read_embed_options(
    message: embedding_pb2.EmbedOptions, *, field: str = "options"
) -> EmbedOptions:
    """Read how to embed; `field` is where the request says so."""
    if message.truncation not in TRUNCATE:
        raise InvalidArgument((field, "truncation"), f"{message.truncation} is not a Truncation")
    return EmbedOptions(
        field=field,
        prompt_name=message.prompt_name,
        prompt_text=message.prompt_text,
        dimensions=message.dimensions,
        normalise=False if message.skip_normalise else None,
        truncate=TRUNCATE[message.truncation],
    )


def read_query(name: FieldPath, message: search_pb2.Query) -> QueryInput:
    """Read one query; `name` is its field. What is wrong with it is told in its place."""
    query = QueryInput(name=name, lexical_text=message.lexical_text)
    try:
        return _with_content(query, message)
    except RequestError as error:
        return replace(query, problem=error)


def _with_content(query: QueryInput, message: search_pb2.Query) -> QueryInput:
    kind = message.WhichOneof("content")
    if kind is None:
        raise InvalidArgument(query.name, "has no content")
    if kind == "row_id":
        return replace(query, row_ids=(message.row_id,))
    if kind == "row_ids":
        return replace(query, row_ids=tuple(message.row_ids.ids))
    return replace(query, content=read_content(query.name, message))


def read_content(name: FieldPath, message: search_pb2.Query | index_pb2.UpsertRow) -> Input | None:
    """Read what a query or a row is made of; None: it says nothing."""
    match message.WhichOneof("content"):
        case "text":
            return Text(message.text)
        case "image":
            return Image(message.image)
        case "audio":
            return Audio(message.audio)
        case "vector":
            return ReadyVector(read_vector((*name, "vector"), message.vector))
        case _:
            return None


def write_item_error(error: RequestError) -> common_pb2.ItemError:
    """Write what is wrong with one item."""
    return common_pb2.ItemError(code=code_number(code_of(error)), message=wire_message(error))


def write_model_info(ref: ModelRef) -> common_pb2.ModelInfo:
    """Write which weights a vector is of."""
    return common_pb2.ModelInfo(name=ref.name, version=ref.version, digest=ref.digest)


def write_hit(hit: Hit) -> search_pb2.Hit:
    """Write one hit."""
    return search_pb2.Hit(
        id=hit.id,
        score=hit.score,
        seq=hit.seq,
        payload_json=hit.payload_json or "",
        text=hit.text,
    )


def write_explanation(answer: QueryHits) -> str:
    """Write how an answer came about; empty where that was not asked for."""
    return json.dumps(answer.explanation, ensure_ascii=False) if answer.explanation else ""


def write_row(row: Row, *, exclude_payload: bool) -> index_pb2.Row:
    """Write a stored row; its text if it is there, and its vector as f16."""
    message = index_pb2.Row(
        id=row.id,
        seq=row.seq,
        payload_json="" if exclude_payload else row.payload_json,
        text=row.source.text if row.source is not None and row.source.reference is None else None,
    )
    if row.vector is not None:
        message.vector.encoding = F16
        message.vector.dim = row.vector.size
        message.vector.data = row.vector.astype("<f2").tobytes()
    return message
