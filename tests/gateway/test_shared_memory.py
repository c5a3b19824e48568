"""System shared memory: registration, tensors in both directions, and what is refused."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
import tritonclient.utils.shared_memory as shm
from grpc import aio
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from tests.gateway.echo_model import EchoServer, echo_regions, echo_scope
from vecserve_server.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unsupported,
)
from vecserve_server.gateway.kserve import shared_memory
from vecserve_server.gateway.kserve.shared_memory import SharedMemoryRegions
from vecserve_server.settings.server_settings import ServerSettings

SIZE = 1 << 16
PATIENCE_S = 60.0
Code = grpc.StatusCode


@pytest.fixture
def handle() -> Iterator[Any]:
    """A shared-memory object of tritonclient's own."""
    name = f"vecserve-test-{secrets.token_hex(6)}"
    made = shm.create_shared_memory_region(name, name, SIZE)
    yield made
    shm.destroy_shared_memory_region(made)


@pytest.fixture
def regions(tmp_path: Path) -> SharedMemoryRegions:
    (tmp_path / "object").write_bytes(bytes(range(256)) * 64)
    return echo_regions(echo_scope(asyncio.Event()), folder=tmp_path)


async def register(client: Any, handle: Any, *, offset: int = 0, size: int = SIZE) -> None:
    await client.register_system_shared_memory("region", handle._shm_key, size, offset)


async def test_tensors_go_both_ways_without_the_wire(echo: EchoServer, handle: Any) -> None:
    tensor = np.arange(6, dtype=np.float32).reshape(2, 3)
    shm.set_shared_memory_region(handle, [tensor], offset=4096 + 8)
    given_ = triton.InferInput("FP32", [2, 3], "FP32")
    given_.set_shared_memory("region", tensor.nbytes, offset=8)
    wanted = triton.InferRequestedOutput("OUT_FP32")
    wanted.set_shared_memory("region", 100, offset=1001)
    async with triton.InferenceServerClient(echo.target) as client:
        await register(client, handle, offset=4096, size=8192)
        result = await client.infer("echo", [given_], outputs=[wanted])
        (output,) = result.get_response().outputs
    assert list(result.get_response().raw_output_contents) == [b""]
    assert list(output.shape) == [2, 3]
    assert output.parameters["shared_memory_byte_size"].int64_param == tensor.nbytes
    written = shm.get_contents_as_numpy(handle, np.float32, [2, 3], offset=4096 + 1001)
    np.testing.assert_array_equal(written, tensor)


async def test_an_input_is_a_copy(echo: EchoServer, handle: Any) -> None:
    shm.set_shared_memory_region(handle, [np.arange(4, dtype=np.int64)])
    given_ = triton.InferInput("INT64", [1, 4], "INT64")
    given_.set_shared_memory("region", 32)
    async with triton.InferenceServerClient(echo.target) as client:
        await register(client, handle)
        await client.infer("echo", [given_], outputs=[triton.InferRequestedOutput("OUT_INT64")])
    seen = echo.model.requests[0].inputs["INT64"]
    shm.set_shared_memory_region(handle, [np.full(4, 9, np.int64)])
    os.truncate(shared_memory.SHARED_MEMORY_FOLDER / handle._shm_key.lstrip("/"), 0)
    assert seen.tolist() == [[0, 1, 2, 3]]


async def test_bytes_and_inputs_on_the_wire_can_be_mixed_with_regions(
    echo: EchoServer, handle: Any
) -> None:
    texts = np.array([[b"one"], [b"two and more"]], object)
    raw = serialize_byte_tensor(texts)
    shm.set_shared_memory_region(handle, [raw])
    in_region = triton.InferInput("BYTES", [2, 1], "BYTES")
    in_region.set_shared_memory("region", len(raw.item()))
    on_wire = triton.InferInput("INT8", [2, 1], "INT8")
    on_wire.set_data_from_numpy(np.array([[1], [2]], np.int8))
    to_region = triton.InferRequestedOutput("OUT_BYTES")
    to_region.set_shared_memory("region", 1000, offset=1000)
    outputs = [triton.InferRequestedOutput("OUT_INT8"), to_region]
    async with triton.InferenceServerClient(echo.target) as client:
        await register(client, handle)
        result = await client.infer("echo", [in_region, on_wire], outputs=outputs)
    assert result.as_numpy("OUT_INT8").tolist() == [[1], [2]]
    written = shm.get_contents_as_numpy(handle, np.object_, [2, 1], offset=1000)
    assert written.tolist() == texts.tolist()


async def test_a_region_in_use_cannot_be_unregistered(echo: EchoServer, handle: Any) -> None:
    echo.model.gate.clear()
    given_ = triton.InferInput("INT8", [1, 4], "INT8")
    given_.set_shared_memory("region", 4)
    outputs = [triton.InferRequestedOutput("OUT_INT8")]
    async with triton.InferenceServerClient(echo.target) as client:
        await register(client, handle)
        running = asyncio.create_task(client.infer("echo", [given_], outputs=outputs))
        async with asyncio.timeout(PATIENCE_S):
            await echo.model.arrived.get()
        for name in ("region", ""):
            with pytest.raises(triton.InferenceServerException, match="in use") as refusal:
                await client.unregister_system_shared_memory(name)
            assert refusal.value.status() == "StatusCode.UNAVAILABLE"
        echo.model.gate.set()
        await running
        await client.unregister_system_shared_memory("region")
        assert not (await client.get_system_shared_memory_status()).regions


@pytest.mark.parametrize(
    ("tensor", "offset", "size", "code", "problem"),
    [
        ("input", SIZE - 2, 4, Code.INVALID_ARGUMENT, "takes bytes 65534 to 65538"),
        ("input", 2**62, 4, Code.INVALID_ARGUMENT, "which has 65536"),
        ("input", 0, 5, Code.INVALID_ARGUMENT, "has 5 bytes; its shape [1, 4] takes 4"),
        ("input", -1, 4, Code.INVALID_ARGUMENT, "'shared_memory_offset' must be"),
        ("output", 0, 3, Code.INVALID_ARGUMENT, "has 4 bytes; shared_memory_byte_size is 3"),
        ("output", SIZE, 4, Code.INVALID_ARGUMENT, "takes bytes 65536 to 65540"),
        ("unknown", 0, 4, Code.NOT_FOUND, "region 'other' is not registered"),
    ],
)
async def test_overruns_are_refused_with_the_tensors_name(
    echo: EchoServer, stub: Any, handle: Any, tensor: str, offset: int, size: int, code: Any,
    problem: str,
) -> None:  # fmt: skip
    region = "other" if tensor == "unknown" else "region"
    place = {
        "shared_memory_region": service_pb2.InferParameter(string_param=region),
        "shared_memory_offset": service_pb2.InferParameter(int64_param=offset),
        "shared_memory_byte_size": service_pb2.InferParameter(int64_param=size),
    }
    request = service_pb2.ModelInferRequest(
        model_name="echo",
        inputs=[{"name": "INT8", "datatype": "INT8", "shape": [1, 4]}],
        outputs=[{"name": "OUT_INT8"}],
        raw_input_contents=[b"abcd"] if tensor == "output" else [],
    )
    target = request.outputs[0] if tensor == "output" else request.inputs[0]
    for name, value in place.items():
        target.parameters[name].CopyFrom(value)
    async with triton.InferenceServerClient(echo.target) as client:
        await register(client, handle)
    with pytest.raises(aio.AioRpcError) as refusal:
        await stub.ModelInfer(request)
    details = refusal.value.details() or ""
    assert refusal.value.code() == code
    assert details.startswith("output 'OUT_INT8'" if tensor == "output" else "input 'INT8'")
    assert problem in details


async def test_status_describes_what_is_registered(echo: EchoServer, handle: Any) -> None:
    async with triton.InferenceServerClient(echo.target) as client:
        await register(client, handle, offset=16, size=32)
        status = await client.get_system_shared_memory_status("region")
        region = status.regions["region"]
        assert (region.key, region.offset, region.byte_size) == (handle._shm_key, 16, 32)
        with pytest.raises(triton.InferenceServerException, match="not registered"):
            await client.get_system_shared_memory_status("other")


async def test_cuda_regions_are_never_there(echo: EchoServer) -> None:
    async with triton.InferenceServerClient(echo.target) as client:
        assert not (await client.get_cuda_shared_memory_status()).regions
        await client.unregister_cuda_shared_memory()
        with pytest.raises(triton.InferenceServerException, match="not offered") as refusal:
            await client.register_cuda_shared_memory("c", b"eHg=", 0, 64)
        assert refusal.value.status() == "StatusCode.UNIMPLEMENTED"


@pytest.mark.parametrize(
    "key", ["", "/", ".", "..", "/..", "../object", "/../object", "a/b", "//object", "x" * 300]
)
def test_keys_that_leave_the_folder_are_refused(regions: SharedMemoryRegions, key: str) -> None:
    with pytest.raises(InvalidArgument, match=r"key: .* is not the name"):
        regions.register("r", key, offset=0, size_bytes=1)


def test_keys_of_other_things_are_refused(regions: SharedMemoryRegions, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "object")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for key in ("link", "folder", "pipe", "missing", "nul\0"):
        with pytest.raises(InvalidArgument, match="key: "):
            regions.register("r", key, offset=0, size_bytes=1)


@given(offset=st.integers(0, 2**64 - 1), size=st.integers(0, 2**64 - 1), near=st.booleans())
def test_only_ranges_inside_the_object_are_registered(
    tmp_path_factory: pytest.TempPathFactory, offset: int, size: int, near: bool
) -> None:
    folder = tmp_path_factory.getbasetemp() / "ranges"
    folder.mkdir(exist_ok=True)
    content = bytes(range(256)) * 64
    (folder / "object").write_bytes(content)
    regions = echo_regions(echo_scope(asyncio.Event()), folder=folder)
    if near:
        offset, size = offset % 20_000, size % 20_000
    inside = size > 0 and offset + size <= len(content)
    if not inside:
        with pytest.raises(InvalidArgument, match="byte_size: "):
            regions.register("r", "/object", offset=offset, size_bytes=size)
        return
    regions.register("r", "/object", offset=offset, size_bytes=size)
    with regions.hold({"input 'x'": "r"}) as held:
        data = held["input 'x'"].read("input 'x'", offset=size // 2, size_bytes=size - size // 2)
        assert data == content[offset + size // 2 : offset + size]
    regions.unregister("")


def test_names_are_taken_once_and_bounded(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(b"x")
    regions = echo_regions(echo_scope(asyncio.Event()), folder=tmp_path, max_regions=2)
    regions.register("a", "object", offset=0, size_bytes=1)
    with pytest.raises(AlreadyExists):
        regions.register("a", "object", offset=0, size_bytes=1)
    regions.register("b", "object", offset=0, size_bytes=1)
    with pytest.raises(FailedPrecondition, match=r"server\.max_shared_memory_regions"):
        regions.register("c", "object", offset=0, size_bytes=1)
    for name in ("", "x" * 256):
        with pytest.raises(InvalidArgument, match="name: "):
            regions.register(name, "object", offset=0, size_bytes=1)
    regions.unregister("never there")
    regions.unregister("")
    assert regions.list("") == []


def test_an_object_that_was_cut_is_not_touched(
    regions: SharedMemoryRegions, tmp_path: Path
) -> None:
    regions.register("r", "object", offset=0, size_bytes=16384)
    os.truncate(tmp_path / "object", 0)
    with regions.hold({"f": "r"}) as held, pytest.raises(InvalidArgument, match="was cut"):
        held["f"].read("f", offset=0, size_bytes=1)


async def test_an_object_that_is_cut_during_the_run_is_not_written(
    echo: EchoServer, handle: Any
) -> None:
    echo.model.gate.clear()
    given_ = triton.InferInput("INT8", [1, 4], "INT8")
    given_.set_data_from_numpy(np.ones((1, 4), np.int8))
    wanted = triton.InferRequestedOutput("OUT_INT8")
    wanted.set_shared_memory("region", 100)
    async with triton.InferenceServerClient(echo.target) as client:
        await register(client, handle)
        asked = asyncio.create_task(client.infer("echo", [given_], outputs=[wanted]))
        async with asyncio.timeout(PATIENCE_S):
            await echo.model.arrived.get()
        os.truncate(shared_memory.SHARED_MEMORY_FOLDER / handle._shm_key.lstrip("/"), 0)
        echo.model.gate.set()
        with pytest.raises(InferenceServerException, match=r"output 'OUT_INT8'.*was cut"):
            await asked


def test_holding_twice_is_released_twice(regions: SharedMemoryRegions) -> None:
    regions.register("r", "object", offset=0, size_bytes=1)
    with regions.hold({"a": "r", "b": "r"}):
        with regions.hold({"a": "r"}):
            pass
        with pytest.raises(FailedPrecondition, match="in use"):
            regions.unregister("r")
    regions.unregister("r")
    with pytest.raises(NotFound), regions.hold({"a": "r"}):
        pass


def test_regions_of_one_object_share_a_descriptor(
    regions: SharedMemoryRegions, tmp_path: Path
) -> None:
    (tmp_path / "other").write_bytes(b"other")
    before = descriptors()
    for number in range(30):
        regions.register(str(number), "object", offset=number, size_bytes=1)
    regions.register("other", "other", offset=0, size_bytes=5)
    for name in ("wide", "absent"):
        with pytest.raises(InvalidArgument):
            regions.register(
                name, "object" if name == "wide" else name, offset=0, size_bytes=1 << 20
            )
    assert len(descriptors() - before) == 2
    (tmp_path / "object").unlink()
    with regions.hold({"f": "29"}) as held:
        assert held["f"].read("f", offset=0, size_bytes=1) == bytes([29])
    regions.unregister("")
    assert descriptors() <= before  # what other tests left behind may go meanwhile


def test_the_bytes_of_all_regions_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(bytes(100))
    regions = echo_regions(echo_scope(asyncio.Event()), folder=tmp_path, max_bytes=150)
    regions.register("a", "object", offset=0, size_bytes=100)
    with pytest.raises(FailedPrecondition, match=r"server\.max_shared_memory_bytes = 150"):
        regions.register("b", "object", offset=0, size_bytes=51)


def test_where_it_is_not_offered_nothing_is_registered(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(bytes(100))
    regions = echo_regions(echo_scope(asyncio.Event()), folder=tmp_path, offered=False)
    with pytest.raises(Unsupported, match=r"server\.client_shared_memory"):
        regions.register("a", "object", offset=0, size_bytes=100)
    regions.unregister("")
    assert regions.list("") == []


@pytest.mark.parametrize(
    ("host", "reached_from_here_alone"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("localhost", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("[::]", False),
        ("10.0.0.1", False),
        ("example.com", False),
    ],
)
def test_it_is_offered_where_only_this_machine_connects(
    host: str, reached_from_here_alone: bool
) -> None:
    assert ServerSettings(host=host).offers_shared_memory == reached_from_here_alone
    assert ServerSettings(host=host, client_shared_memory="on").offers_shared_memory
    assert not ServerSettings(host=host, client_shared_memory="off").offers_shared_memory


async def test_copies_count_as_pending_bytes(echo: EchoServer, tmp_path: Path) -> None:
    name = f"vecserve-test-{secrets.token_hex(6)}"
    size = (1 << 24) + 8  # more than may be pending, and a hole, which takes no memory
    place = shared_memory.SHARED_MEMORY_FOLDER / name
    place.touch()
    os.truncate(place, size)
    given_ = triton.InferInput("INT8", [1, size], "INT8")
    given_.set_shared_memory("region", size)
    try:
        async with triton.InferenceServerClient(echo.target) as client:
            await client.register_system_shared_memory("region", name, size)
            with pytest.raises(InferenceServerException, match="max_pending_bytes"):
                await client.infer("echo", [given_])
    finally:
        place.unlink()


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}
