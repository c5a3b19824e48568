"""Bytes that are no message are answered with the name of the field that is to blame."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.service_pb2 import ModelInferRequest

from vecserve.v1 import embedding_pb2, index_pb2
from vecserve_server.gateway.common.decoding import Deserialise, Undecodable, tolerant

MARK = "MARKER"
BROKEN = b"\xff\xfeRKER"  # as long as the marker, and not UTF-8


def decoder(kind: type[Message], max_fields: int = 1 << 20) -> Deserialise:
    return tolerant(kind.FromString, max_fields=max_fields)


def broken(message: bytes) -> bytes:
    return message.replace(MARK.encode(), BROKEN)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (embedding_pb2.EmbedRequest(model=MARK), "model"),
        (
            embedding_pb2.EmbedRequest(
                inputs=[
                    embedding_pb2.EmbedInput(text="fine"),
                    embedding_pb2.EmbedInput(text=MARK),
                ]
            ),
            "inputs[1].text",
        ),
        (
            embedding_pb2.EmbedRequest(options=embedding_pb2.EmbedOptions(prompt_name=MARK)),
            "options.prompt_name",
        ),
        (
            index_pb2.UpsertRequest(rows=[index_pb2.UpsertRow(id="a", payload_json=MARK)]),
            "rows[0].payload_json",
        ),
        (index_pb2.DeleteRequest(ids=["a", "b", MARK]), "ids[2]"),
    ],
)
def test_a_string_that_is_not_utf8_is_named(
    message: embedding_pb2.EmbedRequest, field: str
) -> None:
    decoded = decoder(type(message))(broken(message.SerializeToString()))
    assert isinstance(decoded, Undecodable)
    assert str(decoded.error) == f"{field}: is not valid UTF-8"


def test_garbage_is_named_after_the_message_it_should_have_been() -> None:
    decoded = decoder(embedding_pb2.EmbedRequest)(b"\x0a\xff\xff\xff")
    assert isinstance(decoded, Undecodable)
    assert str(decoded.error) == "request: is not a valid vecserve.v1.EmbedRequest message"


@pytest.mark.parametrize("depth", [50, 150, 5000])
def test_deep_nesting_is_refused_without_harm(depth: int) -> None:
    body = b"\x22\x04\x0a\x02\xff\xfe"  # Filter.field.field, which is not UTF-8
    for _ in range(depth):
        body = b"\x1a" + _varint(len(body)) + body  # Filter.not
    message = b"\x22" + _varint(len(body)) + body  # DeleteRequest.filter
    decoded = decoder(index_pb2.DeleteRequest)(message)
    assert isinstance(decoded, index_pb2.DeleteRequest | Undecodable)


def test_long_messages_are_not_searched_for_the_culprit() -> None:
    request = index_pb2.DeleteRequest(ids=[""] * 600_000 + [MARK])
    decoded = decoder(index_pb2.DeleteRequest)(broken(request.SerializeToString()))
    assert isinstance(decoded, Undecodable)
    assert str(decoded.error) == "request: is not a valid vecserve.v1.DeleteRequest message"


def _varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


@given(st.binary(max_size=200))
def test_no_bytes_make_decoding_raise(data: bytes) -> None:
    decoded = decoder(index_pb2.UpsertRequest)(data)
    assert isinstance(decoded, index_pb2.UpsertRequest | Undecodable)


@given(st.text(max_size=50))
def test_valid_messages_pass_unchanged(text: str) -> None:
    try:
        message = embedding_pb2.EmbedRequest(inputs=[embedding_pb2.EmbedInput(text=text)])
    except UnicodeEncodeError:
        return
    assert decoder(embedding_pb2.EmbedRequest)(message.SerializeToString()) == message


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_large_messages_of_too_many_fields_are_refused_unparsed(depth: int) -> None:
    bomb = b"\x1a\x00" * (1 << 20)  # empty messages, each the third field
    wrapped = ModelInferRequest(model_name="a").SerializeToString()
    for _ in range(depth):
        # inputs { contents { … } }
        bomb = b"\x2a" + varint(len(bomb)) + bomb
    decoded = decoder(ModelInferRequest, 10_000)(wrapped + bomb)
    assert isinstance(decoded, Undecodable)
    assert str(decoded.error).startswith("request: has more than 10000 fields")


def test_large_messages_of_few_fields_are_parsed() -> None:
    message = ModelInferRequest(
        id="x" * (1 << 20),
        inputs=[ModelInferRequest.InferInputTensor(name="a", shape=[1, 1 << 40])] * 1000,
        raw_input_contents=[b"\x80" * 4096] * 1000,
    )
    decoded = decoder(ModelInferRequest, 10_000)(message.SerializeToString())
    assert decoded == message


def varint(value: int) -> bytes:
    parts = [value >> shift & 0x7F for shift in range(0, 35, 7)]
    return bytes([part | 0x80 for part in parts[:-1]] + parts[-1:])
