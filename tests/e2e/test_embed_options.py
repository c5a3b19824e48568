"""Every option of an embed request, end to end, against the plain vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import share_measurements
from tests.e2e.server_process import ServerProcess, start_server
from vecserve.v1 import admin_pb2, admin_pb2_grpc, common_pb2, embedding_pb2, embedding_pb2_grpc

Floats = NDArray[np.float32]
LONG = "one two three four five six seven eight nine ten " * 40
LAYOUTS = {
    common_pb2.VECTOR_ENCODING_F32: "<f4",
    common_pb2.VECTOR_ENCODING_F16: "<f2",
    common_pb2.VECTOR_ENCODING_INT8: "i1",
}


@pytest.fixture(scope="module")
def repository(
    tmp_path_factory: pytest.TempPathFactory, model_repository: Path, serving_repository: Path
) -> Path:
    """The default model with prompts."""
    root = tmp_path_factory.mktemp("models")
    share_measurements(root, serving_repository)
    name = "all-MiniLM-L6-v2"
    (root / name).mkdir()
    config = (model_repository / name / "config.pbtxt").read_text("utf-8")
    for key, text in (("query", "search for: "), ("document", "text: ")):
        entry = f'key: "prompt.{key}" value {{ string_value: "{text}" }}'
        config += f"\nparameters {{ {entry} }}\n"
    (root / name / "config.pbtxt").write_text(config, encoding="utf-8")
    (root / name / "1").symlink_to((model_repository / name / "1").resolve())
    return root


@pytest.fixture(scope="module")
def options_server(
    tmp_path_factory: pytest.TempPathFactory, repository: Path
) -> Iterator[ServerProcess]:
    running = start_server(tmp_path_factory.mktemp("options"), repository=repository)
    yield running
    assert running.stop() == 0, running.log


@pytest.fixture
def channel(options_server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(options_server.target) as opened:
        yield opened


class Embed:
    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)

    def items(
        self, *texts: str, options: embedding_pb2.EmbedOptions | None = None
    ) -> list[embedding_pb2.EmbedItem]:
        request = embedding_pb2.EmbedRequest(
            inputs=[embedding_pb2.EmbedInput(text=text) for text in texts], options=options
        )
        return list(self._stub.Embed(request, timeout=30).items)

    def __call__(self, *texts: str, options: embedding_pb2.EmbedOptions | None = None) -> Floats:
        items = self.items(*texts, options=options)
        assert not [item.error for item in items if item.HasField("error")]
        return np.array([np.frombuffer(item.vector.data, "<f4") for item in items])


@pytest.fixture
def embed(channel: grpc.Channel) -> Embed:
    return Embed(channel)


def cosine(a: Floats, b: Floats) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


Options = embedding_pb2.EmbedOptions


@pytest.mark.parametrize(
    ("options", "before"),
    [
        (Options(prompt_name="query"), "search for: "),
        (Options(prompt_name="document"), "text: "),
        (Options(prompt_text="literally: "), "literally: "),
    ],
)
def test_a_prompt_is_put_before_the_text(embed: Embed, options: Options, before: str) -> None:
    prompted, written, plain = (
        embed("red shoes", options=options),
        embed(f"{before}red shoes"),
        (embed("red shoes")),
    )

    assert cosine(prompted[0], written[0]) >= 0.999
    assert cosine(prompted[0], plain[0]) < 0.999


@pytest.mark.parametrize("dimensions", [1, 64, 383, 384])
def test_dimensions_cut_and_renormalise(embed: Embed, dimensions: int) -> None:
    [whole], [short] = (
        embed("red shoes"),
        embed("red shoes", options=Options(dimensions=dimensions)),
    )

    assert short.shape == (dimensions,)
    assert np.linalg.norm(short) == pytest.approx(1, abs=1e-5)
    assert cosine(short, whole[:dimensions]) >= 0.999


def test_skipping_normalisation_gives_the_pooled_vector(embed: Embed) -> None:
    texts = ("red shoes", "a much longer text about rivers, mountains and the sea")
    unit, raw = embed(*texts), embed(*texts, options=Options(skip_normalise=True))
    cut = embed(*texts, options=Options(skip_normalise=True, dimensions=100))

    lengths = np.linalg.norm(raw, axis=1)
    assert (lengths > 1.5).all(), "MiniLM pools to several times the unit length"
    assert abs(lengths[0] - lengths[1]) > 0.01
    for i in range(2):
        assert cosine(unit[i], raw[i]) >= 0.999
        np.testing.assert_allclose(cut[i], raw[i, :100], rtol=0.05, atol=0.05)


def test_a_long_text_is_cut_on_the_wanted_side_or_refused(embed: Embed) -> None:
    text = f"beginning {LONG} end"
    kinds = ("RIGHT", "LEFT", "ERROR")
    right, left, refused = (
        embed.items(text, options=Options(truncation=f"TRUNCATION_{kind}"))[0]  # type: ignore[arg-type]
        for kind in kinds
    )

    assert right.tokens == left.tokens == 256
    assert right.total_tokens == left.total_tokens == 404
    assert right.vector.data != left.vector.data
    assert refused.WhichOneof("result") == "error"
    assert "404 tokens" in refused.error.message
    assert "256" in refused.error.message


def test_replies_count_tokens(embed: Embed) -> None:
    items = embed.items("hello world", "")

    assert [(item.tokens, item.total_tokens) for item in items] == [(4, 4), (2, 2)]


@pytest.mark.parametrize("encoding", list(LAYOUTS))
def test_vectors_come_in_every_layout(
    embed: Embed, encoding: common_pb2.VectorEncoding.ValueType
) -> None:
    [exact] = embed("red shoes")
    [item] = embed.items("red shoes", options=Options(encoding=encoding))

    found = np.frombuffer(item.vector.data, LAYOUTS[encoding]).astype(np.float32)
    assert found.shape == exact.shape
    assert cosine(found, exact) >= 0.998


def test_binary_vectors_hold_the_signs(embed: Embed) -> None:
    [exact] = embed("red shoes")
    [item] = embed.items("red shoes", options=Options(encoding=common_pb2.VECTOR_ENCODING_BINARY))

    bits = np.unpackbits(np.frombuffer(item.vector.data, np.uint8))
    assert bits.shape == exact.shape
    assert (bits == (exact > 0)).mean() >= 0.98


def test_the_engine_is_said_in_the_list_of_models(channel: grpc.Channel) -> None:
    reply = admin_pb2_grpc.AdminServiceStub(channel).ListModels(
        admin_pb2.ListModelsRequest(), timeout=30
    )

    [model] = reply.models
    assert model.engine in ("onnxruntime", "openvino")
    assert model.prompt_names == ["document", "query"]
