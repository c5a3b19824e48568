"""Stock tritonclient against the text encoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.e2e.server_process import ServerProcess
from tests.e2e.stubs import TIMEOUT_S
from tests.e2e.triton_requests import MODEL, TEXTS, text_input
from vecserve_client import Client


@pytest.fixture
def stock(server: ServerProcess) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.target) as made:
        yield made


@pytest.fixture
def ours(client: Client) -> np.ndarray:
    return client.embed(TEXTS).vectors


def test_the_sync_client_gets_the_same_embeddings(
    stock: triton.InferenceServerClient, ours: np.ndarray
) -> None:
    result = stock.infer(MODEL, [text_input(TEXTS)], request_id="r1")
    assert result.get_response().id == "r1"
    assert result.get_response().model_version == "1"
    theirs = result.as_numpy("embedding")
    assert np.abs(theirs - ours).max() <= 1e-6


async def test_the_asyncio_client_gets_the_same_embeddings(
    server: ServerProcess, ours: np.ndarray
) -> None:
    async with triton_aio.InferenceServerClient(server.target) as stock:
        outputs = [triton_aio.InferRequestedOutput("embedding")]
        result = await stock.infer(MODEL, [text_input(TEXTS)], outputs=outputs)
        assert np.abs(result.as_numpy("embedding") - ours).max() <= 1e-6


def test_token_ids_give_the_same_embedding_as_their_text(
    stock: triton.InferenceServerClient, client: Client
) -> None:
    # [CLS] hello world [SEP] and [CLS] hello [SEP], padded.
    ids = np.array([[101, 7592, 2088, 102], [101, 7592, 102, 0]], np.int64)
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.int64)
    inputs = [triton.InferInput(n, [2, 4], "INT64") for n in ("input_ids", "attention_mask")]
    inputs[0].set_data_from_numpy(ids)
    inputs[1].set_data_from_numpy(mask)
    theirs = stock.infer(MODEL, inputs).as_numpy("embedding")
    ours = client.embed(["hello world", "hello"]).vectors
    assert np.abs(theirs - ours).max() <= 1e-6


def test_server_and_model_describe_themselves(stock: triton.InferenceServerClient) -> None:
    assert stock.is_server_live()
    assert stock.is_server_ready()
    assert stock.is_model_ready(MODEL)
    assert stock.is_model_ready(MODEL, "1")
    assert not stock.is_model_ready("none")
    assert stock.get_server_metadata(as_json=True)["name"] == "vecserve"
    metadata = stock.get_model_metadata(MODEL, as_json=True)
    tensors = {t["name"]: (t["datatype"], t["shape"]) for t in metadata["inputs"]}
    assert tensors == {"text": ("BYTES", ["-1", "1"])}
    assert metadata["outputs"] == [
        {"name": "embedding", "datatype": "FP32", "shape": ["-1", "384"]}
    ]
    config = stock.get_model_config(MODEL, as_json=True)["config"]
    assert config["name"] == MODEL
    assert config["max_batch_size"] > 0


def test_reflection_lists_every_service(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.target) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        (reply,) = stub.ServerReflectionInfo(iter([ask]), timeout=TIMEOUT_S)
    assert {s.name for s in reply.list_services_response.service} == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
        "vecserve.v1.AdminService",
        "vecserve.v1.CollectionService",
        "vecserve.v1.EmbeddingService",
        "vecserve.v1.IndexService",
        "vecserve.v1.SearchService",
    }


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("inference.GRPCInferenceService", "vecserve/inference/service.proto"),
        ("inference.ModelConfig", "vecserve/inference/model_config.proto"),
        ("vecserve.v1.SearchService", "vecserve/v1/search.proto"),
        ("grpc.health.v1.Health", "grpc_health/v1/health.proto"),
        ("google.rpc.BadRequest", "google/rpc/error_details.proto"),
    ],
)
def test_reflection_describes_services_messages_and_errors(
    server: ServerProcess, symbol: str, file: str
) -> None:
    with grpc.insecure_channel(server.target) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        ask = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
        (reply,) = stub.ServerReflectionInfo(iter([ask]), timeout=TIMEOUT_S)
    described = reply.file_descriptor_response.file_descriptor_proto
    assert FileDescriptorProto.FromString(described[0]).name == file


@pytest.mark.parametrize("service", ["", "vecserve.v1.SearchService"])
def test_health_is_serving(server: ServerProcess, service: str) -> None:
    with grpc.insecure_channel(server.target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
