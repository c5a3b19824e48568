"""Shared memory that is registered without end, and cut while it is read and written."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.hostile.target import Target
from tests.hostile.watching import size_of

FOLDER = Path("/dev/shm")
MODEL = "all-MiniLM-L6-v2"
LARGE_BYTES, ROWS, TOKENS = 1 << 20, 512, 256


def many_regions(target: Target) -> None:
    """One object of 64 bytes registered a thousand times, and a thousand objects once."""
    before = size_of(target.pid).descriptors
    with triton.InferenceServerClient(target.server.target) as client:
        with _object(64) as name:
            refused = sum(_refused(client, f"one-{number}", name, 64) for number in range(1024))
            assert refused >= 1024 - 256
            assert size_of(target.pid).descriptors <= before + 16
            client.unregister_system_shared_memory()
        for number in range(1024):
            with _object(64) as name:
                _refused(client, f"own-{number}", name, 64)
        assert size_of(target.pid).descriptors <= before + 300
        client.unregister_system_shared_memory()


def cut_objects(target: Target) -> None:
    """An object that is cut and made long again all the time while it is used both ways."""
    with triton.InferenceServerClient(target.server.target) as client, _object(LARGE_BYTES) as name:
        client.register_system_shared_memory("cut", name, LARGE_BYTES)
        ends = []
        with _cutting(FOLDER / name):
            for number in range(300):
                given = triton.InferInput("input_ids", [ROWS, TOKENS], "INT64")
                given.set_shared_memory("cut", ROWS * TOKENS * 8)
                small = triton.InferInput("input_ids", [1, 4], "INT64")
                small.set_shared_memory("cut", 32)
                wanted = triton.InferRequestedOutput("embedding")
                wanted.set_shared_memory("cut", 4096, offset=LARGE_BYTES - 4096)
                try:
                    client.infer(MODEL, [given if number % 2 else small], outputs=[wanted])
                except InferenceServerException as refusal:
                    ends.append(refusal.status())
        client.unregister_system_shared_memory()
    assert set(ends) == {"StatusCode.INVALID_ARGUMENT"}


@contextmanager
def _object(size_bytes: int) -> Iterator[str]:
    name = f"vecserve-test-{secrets.token_hex(6)}"
    place = FOLDER / name
    place.touch()
    os.truncate(place, size_bytes)
    try:
        yield name
    finally:
        place.unlink()


@contextmanager
def _cutting(place: Path) -> Iterator[None]:
    done = threading.Event()

    def cut() -> None:
        while not done.wait(0.0002):
            os.truncate(place, 0)
            os.truncate(place, LARGE_BYTES)

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _refused(client: triton.InferenceServerClient, name: str, key: str, size: int) -> bool:
    try:
        client.register_system_shared_memory(name, key, size)
    except InferenceServerException as refusal:
        return "max_shared_memory" in str(refusal.message())
    return False
