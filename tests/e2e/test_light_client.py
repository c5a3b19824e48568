"""The client of the open loads tells what any other client would be told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from tests.e2e.server_process import ServerProcess
from tests.e2e.stubs import Stubs
from vecserve.v1 import embedding_pb2
from vecserve_server.measuring.load.light_client import DEADLINE_EXCEEDED, OK, LightClient

EMBED = "/vecserve.v1.EmbeddingService/Embed"
PATIENCE_S = 30.0
Connect = Callable[..., LightClient]


def request(text: str) -> embedding_pb2.EmbedRequest:
    return embedding_pb2.EmbedRequest(inputs=[embedding_pb2.EmbedInput(text=text)])


@pytest.fixture
def connect(server: ServerProcess) -> Iterator[Connect]:
    made: list[LightClient] = []

    def one(*messages: bytes, method: str = EMBED) -> LightClient:
        made.append(LightClient(target=server.target, method=method, messages=messages))
        return made[-1]

    yield one
    for each in made:
        each.close()


def test_it_gets_the_reply_that_a_stub_gets(connect: Connect, stubs: Stubs) -> None:
    client = connect(request("a red dress").SerializeToString())
    calls = client.closed(3, 0.2, PATIENCE_S, keep_replies=True)
    assert len(calls) >= 3
    expected = stubs.embedding.Embed(request("a red dress")).items
    for call in calls:
        assert call.code == OK
        assert embedding_pb2.EmbedResponse.FromString(call.reply).items == expected


@pytest.mark.parametrize(
    ("method", "message", "code"),
    [
        ("/vecserve.v1.EmbeddingService/NoSuchCall", b"", grpc.StatusCode.UNIMPLEMENTED),
        (EMBED, b"", grpc.StatusCode.INVALID_ARGUMENT),
        (EMBED, b"\xff", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_it_tells_why_a_call_failed(
    connect: Connect, method: str, message: bytes, code: grpc.StatusCode
) -> None:
    [call] = connect(message, method=method).open([time.perf_counter()], PATIENCE_S)
    assert call.code == code.value[0]


def test_calls_end_at_their_deadline_and_later_ones_are_answered(connect: Connect) -> None:
    long = " ".join(["every word of it is computed"] * 60)
    client = connect(*(request(f"{number} {long}").SerializeToString() for number in range(100)))
    hurried = client.open([time.perf_counter()] * 100, 0.001)
    assert {call.code for call in hurried} <= {OK, DEADLINE_EXCEEDED}
    assert any(call.code == DEADLINE_EXCEEDED for call in hurried)
    [patient] = client.open([time.perf_counter()], PATIENCE_S)
    assert patient.code == OK


def test_calls_count_from_when_they_were_due(connect: Connect) -> None:
    client = connect(request("short").SerializeToString())
    due_s = [time.perf_counter() + 0.01 * number for number in range(20)]
    calls = client.open(due_s, PATIENCE_S)
    assert sorted(call.due_s for call in calls) == due_s
    assert all(call.ended_s >= call.due_s for call in calls)
