"""Mutated messages against a real server: each is answered or refused, and the server lives on."""

from __future__ import annotations

import random
import secrets
from collections import Counter, deque
from typing import Any

import grpc
import numpy as np
import tritonclient.utils.shared_memory as shm
from tritonclient.grpc import service_pb2

from tests.e2e.server_process import ServerProcess
from tests.e2e.stubs import TIMEOUT_S, Stubs
from tests.e2e.triton_requests import MODEL
from tests.gateway.mutations import COUNT, mutated

METHOD = "/inference.GRPCInferenceService/ModelInfer"
IN_FLIGHT = 32
Code = grpc.StatusCode
ALLOWED = {Code.OK, Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.UNIMPLEMENTED, Code.UNAVAILABLE}
IDS = np.array([[101, 7592, 102]], "<i8").tobytes()
SEEDS = [
    service_pb2.ModelInferRequest(
        model_name=MODEL,
        id="1",
        inputs=[{"name": "text", "datatype": "BYTES", "shape": [2, 1]}],
        outputs=[{"name": "embedding"}],
        raw_input_contents=[b"\x05\x00\x00\x00hello\x00\x00\x00\x00"],
    ),
    service_pb2.ModelInferRequest(
        model_name=MODEL,
        inputs=[
            {"name": "input_ids", "datatype": "INT64", "shape": [1, 3]},
            {"name": "attention_mask", "datatype": "INT64", "shape": [1, 3]},
        ],
        raw_input_contents=[IDS, np.ones(3, "<i8").tobytes()],
    ),
]


def test_mutated_messages_never_hurt_the_server(server: ServerProcess, stubs: Stubs) -> None:
    key = f"/vecserve-test-{secrets.token_hex(6)}"
    handle = shm.create_shared_memory_region("region", key, 4096)
    stubs.inference.SystemSharedMemoryRegister(
        service_pb2.SystemSharedMemoryRegisterRequest(name="region", key=key, byte_size=4096)
    )
    send: Any = stubs.channel.unary_unary(METHOD)
    choose, codes = random.Random(4), Counter[grpc.StatusCode]()
    calls: deque[tuple[bytes, Any]] = deque()
    for number in range(COUNT + IN_FLIGHT):
        if number < COUNT:
            data = mutated(choose, SEEDS)
            calls.append((data, send.future(data, timeout=TIMEOUT_S)))
        if calls and (len(calls) >= IN_FLIGHT or number >= COUNT):
            sent, call = calls.popleft()
            assert call.code() in ALLOWED, (sent, call.code(), call.details())
            codes[call.code()] += 1
    assert not calls
    assert codes[Code.OK] > COUNT / 100
    assert codes[Code.INVALID_ARGUMENT] > COUNT / 10
    assert server.process.poll() is None
    stubs.inference.SystemSharedMemoryUnregister(
        service_pb2.SystemSharedMemoryUnregisterRequest(name="region")
    )
    shm.destroy_shared_memory_region(handle)
    good = stubs.inference.ModelInfer(SEEDS[0], timeout=TIMEOUT_S)
    assert good.outputs[0].shape == [2, 384]
