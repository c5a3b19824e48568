"""What goes over the wire comes back the same, as far as its layout can hold it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from vecserve.v1 import common_pb2, embedding_pb2, index_pb2
from vecserve_client import batching, calls, channel, filters, search_calls, vectors, wire
from vecserve_client.errors import InvalidArgument, ServerError
from vecserve_client.types import EmbedOptions, Encoding, Record

finite = hnp.arrays(
    np.float32,
    st.integers(1, 70),
    elements=st.floats(-1e4, 1e4, width=32),
)
encodings = st.sampled_from(["f32", "f16", "int8", "binary"])
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(finite, encodings)
def test_a_vector_survives_within_its_layouts_error(
    vector: NDArray[np.float32], encoding: Encoding
) -> None:
    message = vectors.to_proto(vector, encoding)
    back = vectors.from_proto(common_pb2.Vector.FromString(message.SerializeToString()))
    assert back.dtype == np.float32
    assert message.dim == vector.size
    if encoding == "f32":
        np.testing.assert_array_equal(back, vector)
    elif encoding == "f16":
        np.testing.assert_array_equal(back, vector.astype(np.float16).astype(np.float32))
    elif encoding == "int8":
        assert message.scale > 0
        assert np.abs(back - vector).max() <= message.scale * 0.5001 + 1e-30
    else:
        np.testing.assert_array_equal(back > 0, vector > 0)


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("f32", b"\x00\x00\x80?\x00\x00\x00\xc0"),
        ("f16", b"\x00<\x00\xc0"),
        ("binary", b"\x80"),
    ],
)
def test_the_bytes_are_what_the_contract_says(encoding: Encoding, data: bytes) -> None:
    assert vectors.to_proto(np.array([1, -2], np.float32), encoding).data == data


def test_numbers_may_come_in_place_of_bytes() -> None:
    back = vectors.from_proto(common_pb2.Vector(dim=2, values=[1.5, -2]))
    np.testing.assert_array_equal(back, [1.5, -2])


@pytest.mark.parametrize(
    "vector", [[], [math.nan], [math.inf, 0], [[1.0, 2.0]]], ids=["empty", "nan", "inf", "matrix"]
)
def test_a_bad_vector_is_refused_before_it_is_sent(vector: list[float]) -> None:
    with pytest.raises(InvalidArgument, match="vector"):
        vectors.to_proto(np.array(vector, np.float32))


@given(encodings, st.integers(1, 64), st.integers(-3, 3).filter(bool))
def test_bytes_that_contradict_the_dim_are_noticed(encoding: Encoding, dim: int, off: int) -> None:
    message = vectors.to_proto(np.ones(dim, np.float32), encoding)
    message.data = message.data + b"\x00" * off if off > 0 else message.data[:off]
    with pytest.raises(ServerError, match="bytes do not hold"):
        vectors.from_proto(message)


@given(st.text(min_size=1), st.text(), st.dictionaries(st.text(), json_values, max_size=4))
def test_a_payload_survives(id_: str, text: str, payload: dict[str, object]) -> None:
    row = wire.record_to_proto(Record(id=id_, text=text, payload=payload))
    back = wire.row_from_proto(index_pb2.Row(id=row.id, payload_json=row.payload_json))
    assert back.id == id_
    assert (back.payload or {}) == json.loads(json.dumps(payload))


def test_a_record_holds_exactly_one_content() -> None:
    with pytest.raises(InvalidArgument, match="record 'a'"):
        wire.record_to_proto(Record(id="a"))
    with pytest.raises(InvalidArgument, match="record 'a'"):
        wire.record_to_proto(Record(id="a", text="x", image=b"y"))


def test_a_payload_that_is_not_json_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="payload"):
        wire.record_to_proto(Record(id="a", text="x", payload={"n": math.nan}))
    with pytest.raises(InvalidArgument, match="payload"):
        wire.record_to_proto(Record(id="a", text="x", payload={"n": object()}))


def test_a_text_that_utf8_cannot_carry_is_refused_before_it_is_sent() -> None:
    broken = "half \ud83d"
    for record in (
        Record(id=broken, text="x"),
        Record(id="a", text=broken),
        Record(id="a", text="x", payload={"n": broken}),
    ):
        with pytest.raises(InvalidArgument, match="lone surrogate"):
            wire.record_to_proto(record)
    with pytest.raises(InvalidArgument, match="query: lone surrogate at character 6"):
        search_calls.query_to_proto(broken)
    with pytest.raises(InvalidArgument, match=r"texts\[1\]: lone surrogate"):
        list(calls.embed_requests(["fine", broken], model="", options=None))


def test_prompts_exclude_each_other() -> None:
    with pytest.raises(InvalidArgument, match="exclude"):
        wire.options_to_proto(EmbedOptions(prompt_name="query", prompt_text="find: "))
    message = wire.options_to_proto(EmbedOptions(prompt_text="", truncation="left"))
    assert message is not None
    assert message.WhichOneof("prompt") == "prompt_text"
    assert message.truncation == embedding_pb2.TRUNCATION_LEFT


def test_a_reply_that_misses_items_is_the_servers_fault() -> None:
    with pytest.raises(ServerError, match="0 results for 1 items"):
        wire.embed_result_from_proto([embedding_pb2.EmbedResponse()], text_count=1, method="Embed")
    with pytest.raises(ServerError, match="0 results for 2 items"):
        wire.upsert_result_from_proto(index_pb2.UpsertResponse(), row_count=2, method="Upsert")


def test_filters_read_as_they_are_written() -> None:
    condition = filters.all_of(
        filters.equals("colour", "red"),
        filters.negate(filters.between("price", gte=10, lt=20.5)),
        filters.any_of(filters.one_of("n", 1, True, None), filters.exists("x", there=False)),
        filters.prefix("sku", "A-"),
    )
    red, outside, either, sku = condition.all_of.filters
    assert red.field.equals_json == '"red"'
    inner = getattr(outside, "not").field
    assert (inner.range.gte, inner.range.lt) == ("10", "20.5")
    assert not inner.range.HasField("gt")
    assert list(either.any_of.filters[0].field.one_of.values_json) == ["1", "true", "null"]
    assert either.any_of.filters[1].field.WhichOneof("test") == "exists"
    assert sku.field.prefix == "A-"


@given(
    sizes=st.lists(st.integers(0, 2 * batching.REQUEST_BYTES), max_size=60),
    max_items=st.integers(1, 10),
)
def test_a_cut_keeps_all_items_in_order_within_the_limits(sizes: list[int], max_items: int) -> None:
    cut = list(
        batching.batches(sizes, name="sizes", max_items=max_items, size_bytes=lambda size: size)
    )
    assert [size for batch in cut for size in batch] == sizes
    for batch in cut:
        assert 1 <= len(batch) <= max_items
        assert len(batch) == 1 or sum(batch) <= batching.REQUEST_BYTES


@given(before=st.lists(st.integers(0, 10), max_size=5), start=st.integers(0, 100))
def test_an_item_that_no_message_holds_is_named(before: list[int], start: int) -> None:
    sizes = [*before, batching.MESSAGE_BYTES, batching.MESSAGE_BYTES + 1]
    cut = batching.batches(
        sizes, name="rows", max_items=9, size_bytes=lambda size: size, start=start
    )
    with pytest.raises(InvalidArgument, match=rf"rows\[{start + len(before) + 1}\]: has "):
        list(cut)


@given(st.text(), st.integers(-2, 2))
def test_a_request_is_serialised_up_to_its_limit(collection: str, spare: int) -> None:
    message = index_pb2.CountRequest(collection=collection)
    limit_bytes = message.ByteSize() + spare
    if spare >= 0:
        data = channel.serialise(message, limit_bytes=limit_bytes)
        assert index_pb2.CountRequest.FromString(data) == message
    else:
        with pytest.raises(InvalidArgument, match=f"the limit of one message is {limit_bytes}"):
            channel.serialise(message, limit_bytes=limit_bytes)


@given(st.integers(0, 50), st.integers(1, 20), st.integers(0, 1000))
def test_upsert_requests_carry_the_position_of_their_first_row(
    count: int, batch_rows: int, start: int
) -> None:
    records = [Record(id=str(start + i), text="x") for i in range(count)]
    requests = calls.upsert_requests(
        "docs", records, options=None, batch_rows=batch_rows, start=start
    )
    for request in requests:
        assert request.rows[0].id == request.request_id


def test_a_seq_is_expected_only_of_an_id_that_is_deleted() -> None:
    (call,) = calls.delete("docs", ids=["a", "b"], expected_seqs={"b": 7})
    assert call.request == index_pb2.DeleteRequest(
        collection="docs", ids=["a", "b"], expected_seqs=[index_pb2.ExpectedSeq(id="b", seq=7)]
    )
    with pytest.raises(InvalidArgument, match="'c' is not among ids"):
        calls.delete("docs", ids=["a"], expected_seqs={"c": 7})


@pytest.mark.parametrize(
    ("target", "direct"),
    [
        ("127.0.0.1:8001", True),
        ("127.1.2.3:8001", True),
        ("localhost:8001", True),
        ("LOCALHOST", True),
        ("dns:///localhost:8001", True),
        ("ipv4:127.0.0.1:8001", True),
        ("[::1]:8001", True),
        ("ipv6:[::1]:8001", True),
        ("127.0.0.1.example.org:8001", False),
        ("localhost.example.org:8001", False),
        ("10.0.0.7:8001", False),
        ("vectors.internal:8001", False),
    ],
)
def test_what_is_meant_for_this_machine_takes_no_proxy(target: str, direct: bool) -> None:
    assert (("grpc.enable_http_proxy", 0) in channel.options_for(target)) is direct
