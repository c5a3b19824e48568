"""A server that seals its rows: searches before, while and after, and through kill -9."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.own_repository import eventually
from tests.e2e.server_process import Launch, ServerProcess
from vecserve_client import Client, Record
from vecserve_server.domain.vectors import Vectors

ROWS, DIM = 300, 384


def gauge(server: ServerProcess, name: str) -> float:
    url = f"http://127.0.0.1:{server.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    [line] = [line for line in lines if line.startswith(f'vecserve_index_{name}{{collection="c"}}')]
    return float(line.split()[-1])


def vectors(seed: int) -> Vectors:
    made = np.random.default_rng(seed).standard_normal((ROWS, DIM)).astype(np.float32)
    unit: Vectors = made / np.linalg.norm(made, axis=1, keepdims=True)
    return unit


def write(client: Client, seed: int) -> None:
    records = [
        Record(id=f"r{number}", vector=vector, payload={"turn": seed})
        for number, vector in enumerate(vectors(seed))
    ]
    for batch in client.upsert_many("c", records):
        assert not batch.result.errors


def check(client: Client, seed: int) -> None:
    for number, vector in list(enumerate(vectors(seed)))[::17]:
        hits = client.search("c", vector, k=3).hits
        assert hits[0].id == f"r{number}"
        assert hits[0].score > 0.999


@pytest.mark.slow
def test_sealed_rows_are_found_before_and_after_a_kill(launch: Launch, tmp_path: Path) -> None:
    settings = {"index_first_rows": 200, "index_delta_rows": 100}
    server = launch(name="first", **settings)
    with Client(target=server.target, deadline_s=30.0) as client:
        client.create_collection("c")
        write(client, 1)
        check(client, 1)
        eventually(lambda: gauge(server, "segments") > 0)
        check(client, 1)
        write(client, 2)
        check(client, 2)
    server.kill()
    server = launch(name="second", **settings)
    with Client(target=server.target, deadline_s=30.0) as client:
        assert gauge(server, "sealed_rows") > 0
        assert client.get_collection("c").row_count == ROWS
        check(client, 2)
    assert server.stop() == 0, server.log
    assert "Traceback" not in server.log
