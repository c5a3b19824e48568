"""Each call that the documents offer does its work; each other one says UNIMPLEMENTED."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import message_factory

from tests.e2e.server_process import ServerProcess
from tests.e2e.stubs import TIMEOUT_S, Stubs
from vecserve.v1 import admin_pb2, collection_pb2, embedding_pb2, index_pb2, search_pb2
from vecserve_client import AlreadyExists, Client, NotFound, Record

ROOT = Path(__file__).parents[2]
METHODS = [
    method
    for module in (admin_pb2, collection_pb2, embedding_pb2, index_pb2, search_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
OFFERED = {
    "Embed EmbedStream CreateCollection GetCollection ListCollections DropCollection Upsert "
    "UpsertStream Delete Get Scan Count Search SearchBatch ListModels GetStats "
    "SetAlias ListAliases DeleteAlias Classify StartReindex "
    "GetReindex CancelReindex CreateSnapshot RestoreSnapshot CompactCollection VerifyCollection"
}
OFFERED_NAMES = set(" ".join(OFFERED).split())


def call_empty(stubs: Stubs, method: Any) -> grpc.StatusCode:
    """Call a method with an empty request; returns the status."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    request = message_factory.GetMessageClass(method.input_type)().SerializeToString()
    channel: Any = stubs.channel
    try:
        if method.client_streaming:
            list(channel.stream_stream(path)(iter([request]), timeout=TIMEOUT_S))
        else:
            channel.unary_unary(path)(request, timeout=TIMEOUT_S)
    except grpc.RpcError as failure:
        return failure.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_what_is_offered_is_answered(stubs: Stubs, method: Any) -> None:
    offered = call_empty(stubs, method) is not grpc.StatusCode.UNIMPLEMENTED
    assert offered == (method.name in OFFERED_NAMES)


def test_the_documents_name_the_same_calls() -> None:
    table = (ROOT / "docs" / "API.md").read_text().partition("## Errors")[0]
    offered = set()
    for line in re.findall(r"^\| \w+Service \| ([^|]+) \|", table, re.MULTILINE):
        offered |= set(re.findall(r"[A-Z]\w+", line))
    assert offered == OFFERED_NAMES


def test_a_collection_from_creation_to_drop(client: Client) -> None:
    created = client.create_collection("tour")
    assert (created.name, created.dim, created.row_count) == ("tour", 384, 0)
    with pytest.raises(AlreadyExists):
        client.create_collection("tour")
    texts = {"car": "a red car", "apple": "a green apple", "zip": "reading zip archives"}
    rows = [Record(id=key, text=text, payload={"n": len(key)}) for key, text in texts.items()]
    assert client.upsert("tour", rows).seqs == (1, 2, 3)
    assert client.upsert("tour", rows[:1]).seqs == (4,)
    assert client.count("tour") == 3
    hits = client.search("tour", "fruit", k=2).hits
    assert (hits[0].id, hits[0].payload) == ("apple", {"n": 5})
    assert client.search("tour", "fruit", min_score=0.99).hits == ()
    found = client.get("tour", ["zip", "none"], include_vector=True)
    assert found.missing_ids == ("none",)
    vector = found.rows[0].vector
    assert vector is not None
    assert client.search("tour", vector, k=1).hits[0].id == "zip"
    assert abs(client.search("tour", vector, k=1).hits[0].score - 1) < 1e-3
    assert [row.id for row in client.scan("tour", page_size=2)] == ["apple", "zip", "car"]
    assert client.delete("tour", ["car", "none"]) == 1
    assert client.get_collection("tour").row_count == 2
    assert [c.name for c in client.list_collections()] == ["tour"]
    assert client.drop_collection("tour") == 2
    with pytest.raises(NotFound):
        client.count("tour")


def test_collections_are_listed_in_pages(client: Client, stubs: Stubs) -> None:
    names = [f"page-{number}" for number in range(5)]
    for name in names:
        client.create_collection(name)
    listed, token = [], ""
    for _ in names:
        request = collection_pb2.ListCollectionsRequest(page_size=2, page_token=token)
        page = stubs.collection.ListCollections(request, timeout=TIMEOUT_S)
        listed += [collection.name for collection in page.collections]
        token = page.next_page_token
        if not token:
            break
    assert listed == names
    for name in names:
        client.drop_collection(name)


def test_a_smaller_dim_keeps_the_first_components(client: Client) -> None:
    client.create_collection("short", dim=64)
    client.upsert("short", [Record(id="a", text="a red car")])
    row = client.get("short", ["a"], include_vector=True).rows[0]
    whole = client.embed(["a red car"]).vectors[0]
    assert row.vector is not None
    np.testing.assert_allclose(row.vector, whole[:64] / np.linalg.norm(whole[:64]), atol=2e-3)
    assert client.search("short", "car", k=1).hits[0].id == "a"
    client.drop_collection("short")


def test_the_server_describes_itself(client: Client, server: ServerProcess) -> None:
    (model,) = client.list_models()
    assert (model.ref.name, model.dim, model.is_default) == ("all-MiniLM-L6-v2", 384, True)
    assert client.health() == "SERVING"


def test_listing_and_dropping_do_not_get_in_each_others_way(client: Client) -> None:
    failures: list[Exception] = []
    stop = threading.Event()

    def list_all() -> None:
        while not stop.is_set():
            try:
                client.list_collections()
            except Exception as failure:  # noqa: BLE001 - whatever it is, the test names it
                failures.append(failure)

    lister = threading.Thread(target=list_all)
    lister.start()
    for _ in range(20):
        client.create_collection("brief")
        client.drop_collection("brief")
    stop.set()
    lister.join(TIMEOUT_S)
    assert failures == []
