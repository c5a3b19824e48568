"""tritonclient's system shared memory against a server in another process."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from tests.e2e.server_process import ServerProcess
from tests.e2e.triton_requests import DIM, MODEL, TEXTS, byte_tensor, text_input

SIZE = 1 << 17
AT = 1 << 16


@pytest.fixture
def stock(server: ServerProcess) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.target) as made:
        yield made
        made.unregister_system_shared_memory()


@pytest.fixture
def handle(stock: triton.InferenceServerClient) -> Iterator[Any]:
    """A region that both processes see, registered as `region`."""
    key = f"/vecserve-test-{secrets.token_hex(6)}"
    made = shm.create_shared_memory_region("region", key, SIZE)
    stock.register_system_shared_memory("region", key, SIZE)
    yield made
    shm.destroy_shared_memory_region(made)


def place(tensor: Any, size: int, offset: int = 0) -> Any:
    tensor.set_shared_memory("region", size, offset=offset)
    return tensor


def test_texts_and_vectors_pass_through_memory(
    stock: triton.InferenceServerClient, handle: Any
) -> None:
    raw = serialize_byte_tensor(byte_tensor(TEXTS))
    shm.set_shared_memory_region(handle, [raw])
    given = place(triton.InferInput("text", [len(TEXTS), 1], "BYTES"), len(raw.item()))
    wanted = place(triton.InferRequestedOutput("embedding"), SIZE - AT, AT)
    result = stock.infer(MODEL, [given], outputs=[wanted])
    assert list(result.get_response().raw_output_contents) == [b""]
    vectors = shm.get_contents_as_numpy(handle, np.float32, [len(TEXTS), DIM], offset=AT)
    expected = stock.infer(MODEL, [text_input(TEXTS)]).as_numpy("embedding")
    np.testing.assert_allclose(vectors, expected, 0, 1e-3)


def test_token_ids_pass_through_memory(stock: triton.InferenceServerClient, handle: Any) -> None:
    ids = np.array([[101, 7592, 2088, 102], [101, 7592, 102, 0]], np.int64)
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.int64)
    shm.set_shared_memory_region(handle, [ids, mask])
    inputs = [
        place(triton.InferInput("input_ids", [2, 4], "INT64"), ids.nbytes),
        place(triton.InferInput("attention_mask", [2, 4], "INT64"), mask.nbytes, ids.nbytes),
    ]
    vectors = stock.infer(MODEL, inputs).as_numpy("embedding")
    expected = stock.infer(MODEL, [text_input(["hello world", "hello"])]).as_numpy("embedding")
    np.testing.assert_allclose(vectors, expected, 0, 1e-3)


def test_a_stream_may_use_memory(stock: triton.InferenceServerClient, handle: Any) -> None:
    raw = serialize_byte_tensor(byte_tensor(["x"]))
    shm.set_shared_memory_region(handle, [raw])
    given = place(triton.InferInput("text", [1, 1], "BYTES"), len(raw.item()))
    failures: list[Any] = []
    stock.start_stream(lambda result, error: failures.append(error))
    for slot in range(4):
        wanted = place(triton.InferRequestedOutput("embedding"), DIM * 4, AT + slot * DIM * 4)
        stock.async_stream_infer(MODEL, [given], outputs=[wanted])
    stock.stop_stream()
    assert failures == [None] * 4
    vectors = shm.get_contents_as_numpy(handle, np.float32, [4, DIM], offset=AT)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, 0, 1e-3)


def test_what_perf_analyzer_does_around_a_run_succeeds(
    stock: triton.InferenceServerClient,
) -> None:
    stock.unregister_system_shared_memory()
    stock.unregister_cuda_shared_memory()
    assert not stock.get_system_shared_memory_status().regions
    assert not stock.get_cuda_shared_memory_status().regions


def test_status_and_refusals(stock: triton.InferenceServerClient, handle: Any) -> None:
    region = stock.get_system_shared_memory_status().regions["region"]
    assert (region.byte_size, region.offset) == (SIZE, 0)
    for name, key, size, status in (
        ("region", handle._shm_key, SIZE, "ALREADY_EXISTS"),
        ("b", handle._shm_key, SIZE + 4096, "INVALID_ARGUMENT"),
        ("c", "/../etc/passwd", 10, "INVALID_ARGUMENT"),
        ("d", "/vecserve-test-none", 10, "INVALID_ARGUMENT"),
    ):
        with pytest.raises(InferenceServerException) as refusal:
            stock.register_system_shared_memory(name, key, size)
        assert refusal.value.status() == f"StatusCode.{status}"
    given = place(triton.InferInput("text", [1, 1], "BYTES"), 64, SIZE - 32)
    with pytest.raises(InferenceServerException, match="input 'text': takes bytes"):
        stock.infer(MODEL, [given])
    wanted = place(triton.InferRequestedOutput("embedding"), 100)
    with pytest.raises(InferenceServerException, match="output 'embedding': has 1536 bytes"):
        stock.infer(MODEL, [text_input(["x"])], outputs=[wanted])
