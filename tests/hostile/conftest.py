"""How the hostile suite is run: `make test-hostile`.

One server with default settings, but that models may be loaded on request; one other client that
measures all the time. VECSERVE_HOSTILE_SECONDS says for how long the attacks go on in turn.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import DEFAULT_MODEL
from tests.e2e.own_repository import Repository
from tests.e2e.server_process import start_server
from tests.hostile.attack_store import BIG
from tests.hostile.attacks import ATTACKS
from tests.hostile.probe import COLLECTION
from tests.hostile.target import Target
from tests.hostile.watching import Probe, Size, probing, size_of
from vecserve.v1 import common_pb2, embedding_pb2, index_pb2
from vecserve_client import Client, Record

BIG_ROWS, BIG_DIM = 120_000, 8
SETTLE_S = 20.0
SLACK = Size(resident_bytes=80_000_000, threads=4, descriptors=10)


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory, serving_repository: Path) -> Iterator[Target]:
    """A server with a small collection to search and a large one."""
    folder = tmp_path_factory.mktemp("repository") / "models"
    repository = Repository(folder, serving_repository)
    repository.add("1")
    add_short_model(repository)
    server = start_server(
        tmp_path_factory.mktemp("hostile"),
        repository=repository.root,
        models_control_mode="explicit",
        models_load=f"{DEFAULT_MODEL},short",
    )
    made = Target(server=server, repository=repository.root)
    try:
        fill(made)
        yield made
        assert server.stop() == 0, server.log
    finally:
        server.kill()


@pytest.fixture(scope="session")
def probe(target: Target) -> Iterator[Probe]:
    with probing(target.server.target) as running:
        running.wait_for(40, 60.0)
        yield running


@pytest.fixture(scope="session")
def quiet(target: Target, probe: Probe) -> Size:
    """What the server takes once it has seen it all: what a second turn adds would be a leak."""
    for attack in ATTACKS.values():
        attack(target)
    probe.wait_for(5, 60.0)
    time.sleep(SETTLE_S)  # until freed memory is given back, and closed connections are noticed
    return size_of(target.pid)


def add_short_model(repository: Repository) -> None:
    """Put a model there that takes 32 tokens of a text."""
    repository.add("1", "short")
    config = repository.config("short")
    text = config.read_text("utf-8").replace(DEFAULT_MODEL, "short")
    config.write_text(text.replace('string_value: "256" } }', 'string_value: "32" } }', 1), "utf-8")


def fill(target: Target) -> None:
    rows = np.random.default_rng(0).standard_normal((BIG_ROWS, BIG_DIM)).astype("<f4")
    with Client(target=target.server.target) as client:
        client.create_collection(COLLECTION)
        client.upsert(COLLECTION, [Record(id=str(n), text=f"row {n}") for n in range(200)])
        client.create_collection(BIG, dim=BIG_DIM)
    with target.stubs() as stubs:
        for first in range(0, BIG_ROWS, 1000):
            stubs.index.Upsert(
                index_pb2.UpsertRequest(
                    collection=BIG,
                    rows=[
                        index_pb2.UpsertRow(
                            id=str(first + number),
                            vector=common_pb2.Vector(data=vector.tobytes()),
                            payload_json=f'{{"field1": "value {number}", "price": {number}}}',
                        )
                        for number, vector in enumerate(rows[first : first + 1000])
                    ],
                ),
                timeout=60.0,
            )
        # As much as an ordinary client sends at once.
        inputs = [embedding_pb2.EmbedInput(text=f"words and words {n} " * 60) for n in range(256)]
        stubs.embedding.Embed(embedding_pb2.EmbedRequest(inputs=inputs), timeout=120.0)
