"""Every call of both protocols comes in through the door, and is told who calls."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, get_type_hints

import grpc
import pytest
import pytest_asyncio
from google.protobuf import message_factory
from grpc import aio
from tritonclient.grpc import service_pb2

from tests.gateway.api_server import api_server
from vecserve.v1 import (
    admin_pb2,
    collection_pb2,
    embedding_pb2,
    index_pb2,
    index_pb2_grpc,
    search_pb2,
)
from vecserve_server.domain.caller import ANONYMOUS, Caller
from vecserve_server.errors import InvalidArgument, NotFound, RequestError
from vecserve_server.gateway.common.call import CallScope
from vecserve_server.gateway.common.callers import CallContext
from vecserve_server.gateway.common.status_table import wire_message
from vecserve_server.gateway.kserve.servicer import InferenceServicer
from vecserve_server.gateway.vecserve.admin_servicer import AdminServicer
from vecserve_server.gateway.vecserve.collection_servicer import CollectionServicer
from vecserve_server.gateway.vecserve.embedding_servicer import EmbeddingServicer
from vecserve_server.gateway.vecserve.index_servicer import IndexServicer
from vecserve_server.gateway.vecserve.search_servicer import SearchServicer

SERVICERS = {
    embedding_pb2.DESCRIPTOR.services_by_name["EmbeddingService"]: EmbeddingServicer,
    collection_pb2.DESCRIPTOR.services_by_name["CollectionService"]: CollectionServicer,
    index_pb2.DESCRIPTOR.services_by_name["IndexService"]: IndexServicer,
    search_pb2.DESCRIPTOR.services_by_name["SearchService"]: SearchServicer,
    admin_pb2.DESCRIPTOR.services_by_name["AdminService"]: AdminServicer,
    service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]: InferenceServicer,
}
METHODS = [(method, kind) for service, kind in SERVICERS.items() for method in service.methods]
OURS = [method for method, kind in METHODS if kind is not InferenceServicer]


@dataclass
class Told:
    """A use case that notes its caller, and finds nothing."""

    caller: Caller | None = None

    def __getattr__(self, name: str) -> Any:
        def called(*given: object, **_: object) -> None:
            [self.caller] = [one for one in given if isinstance(one, Caller)]
            raise NotFound("there is none")

        return called


@dataclass(frozen=True, kw_only=True)
class Front:
    """Our API over use cases that are none."""

    channel: aio.Channel
    scope: CallScope
    told: Told

    async def call(self, method: Any, within_s: float | None = None) -> Any:
        """Call a method with the least that it takes; return its error."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        kind = message_factory.GetMessageClass
        request = least(kind(method.input_type)(), in_stream=method.client_streaming)
        made: dict[str, Any] = {
            "request_serializer": kind(method.input_type).SerializeToString,
            "response_deserializer": kind(method.output_type).FromString,
        }
        if method.client_streaming:
            [reply] = [
                reply
                async for reply in self.channel.stream_stream(path, **made)(
                    iter([request]), timeout=within_s
                )
            ]
            return reply.error.code, reply.error.message
        with pytest.raises(aio.AioRpcError) as failed:
            await self.channel.unary_unary(path, **made)(request, timeout=within_s)
        return failed.value.code().value[0], failed.value.details()


def least(request: Any, *, in_stream: bool) -> Any:
    if in_stream:
        least(request.request, in_stream=False)
        request.request.request_id = "1"
    elif hasattr(request, "rows"):
        request.rows.add(id="a", text="a")
    elif hasattr(request, "inputs"):
        request.inputs.add(text="a")
    elif hasattr(request, "queries"):
        request.queries.add(text="a")
    elif hasattr(request, "ids"):
        request.ids.append("a")
    return request


@pytest_asyncio.fixture
async def front() -> AsyncIterator[Front]:
    told = Told()
    faces = (
        "embedding",
        "declaring",
        "indexing",
        "reading",
        "searching",
        "classifying",
        "reporting",
        "reindexing",
        "upkeep",
    )
    async with api_server(SimpleNamespace(**dict.fromkeys(faces, told))) as api:
        yield Front(channel=api.channel, scope=api.scope, told=told)


@pytest.mark.parametrize(("method", "servicer"), METHODS, ids=lambda one: getattr(one, "name", ""))
def test_every_method_of_each_service_is_given_its_caller(method: Any, servicer: Any) -> None:
    behaviour = vars(servicer)[method.name]
    answers_a_stream = inspect.isasyncgenfunction(behaviour)
    assert answers_a_stream == method.client_streaming == method.server_streaming
    hints = get_type_hints(inspect.unwrap(behaviour))
    assert hints["context"] is CallContext
    [given] = [hint for name, hint in hints.items() if name not in ("context", "return")]
    assert method.input_type.name in str(given)


@pytest.mark.parametrize("method", OURS, ids=lambda method: method.name)
async def test_a_closed_door_is_told_before_anything_else(front: Front, method: Any) -> None:
    front.scope.admission.close()
    code, message = await front.call(method)
    assert (code, message) == (
        grpc.StatusCode.UNAVAILABLE.value[0],
        "the server is shutting down",
    )
    assert front.told.caller is None


@pytest.mark.parametrize("method", OURS, ids=lambda method: method.name)
async def test_every_use_case_is_told_who_calls(front: Front, method: Any) -> None:
    before_ns = time.perf_counter_ns()
    code, message = await front.call(method, within_s=60)
    assert (code, message) == (grpc.StatusCode.NOT_FOUND.value[0], "there is none")
    caller = front.told.caller
    assert caller is not None
    assert caller.deadline_ns is not None
    assert 50e9 < caller.deadline_ns - before_ns < 70e9
    await front.call(method)
    assert front.told.caller == ANONYMOUS


async def test_a_full_server_is_told_before_a_mistake_but_what_never_fits_is_refused(
    front: Front,
) -> None:
    stub: Any = index_pb2_grpc.IndexServiceStub(front.channel)
    too_many = index_pb2.GetRequest(ids=["a"] * 9)
    with front.scope.admission.admit(60), pytest.raises(aio.AioRpcError) as failed:
        await stub.Get(too_many)
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(aio.AioRpcError) as failed:
        await stub.Get(too_many)
    assert failed.value.details() == "ids: has 9 items; the limit is 8"
    assert front.scope.admission.pending_items == 0


def test_a_call_without_a_deadline_waits_for_as_long_as_it_takes() -> None:
    def caller(remaining_s: float | None) -> Caller:
        context: Any = SimpleNamespace(time_remaining=lambda: remaining_s)
        return CallContext(context, clock_ns=lambda: 7).caller

    assert caller(None) is caller(1e9) is ANONYMOUS
    assert caller(2.0) == Caller(deadline_ns=2_000_000_007)


@pytest.mark.parametrize(
    ("error", "path", "problem", "message"),
    [
        (InvalidArgument("k", "is 0"), ("k",), "is 0", "k: is 0"),
        (
            NotFound("'a' does not exist", field=("queries", 3, "row_ids")),
            ("queries", 3, "row_ids"),
            "'a' does not exist",
            "queries[3].row_ids: 'a' does not exist",
        ),
        (NotFound("there is none"), (), "there is none", "there is none"),
    ],
)
def test_an_error_keeps_the_path_of_its_field_and_is_spelled_on_the_wire(
    error: RequestError, path: tuple[object, ...], problem: str, message: str
) -> None:
    assert (error.path, error.problem) == (path, problem)
    assert str(error) == wire_message(error) == message
