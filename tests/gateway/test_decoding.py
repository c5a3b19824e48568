"""Bytes that are no message are answered with the name of the field that is to blame."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve.v1 import embedding_pb2, index_pb2
from vecserve_server.gateway.decoding import Undecodable, tolerant

MARK = "MARKER"
BROKEN = b"\xff\xfeRKER"  # as long as the marker, and not UTF-8


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
    decoded = tolerant(type(message).FromString)(broken(message.SerializeToString()))
    assert isinstance(decoded, Undecodable)
    assert str(decoded.error) == f"{field}: is not valid UTF-8"


def test_garbage_is_named_after_the_message_it_should_have_been() -> None:
    decoded = tolerant(embedding_pb2.EmbedRequest.FromString)(b"\x0a\xff\xff\xff")
    assert isinstance(decoded, Undecodable)
    assert str(decoded.error) == "request: is not a valid vecserve.v1.EmbedRequest message"


@given(st.binary(max_size=200))
def test_no_bytes_make_decoding_raise(data: bytes) -> None:
    decoded = tolerant(index_pb2.UpsertRequest.FromString)(data)
    assert isinstance(decoded, index_pb2.UpsertRequest | Undecodable)


@given(st.text(max_size=50))
def test_valid_messages_pass_unchanged(text: str) -> None:
    try:
        message = embedding_pb2.EmbedRequest(inputs=[embedding_pb2.EmbedInput(text=text)])
    except UnicodeEncodeError:
        return
    assert tolerant(embedding_pb2.EmbedRequest.FromString)(message.SerializeToString()) == message
