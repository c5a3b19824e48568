"""A checkpoint with settings of its own, from its folder to a running server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.server_process import ServerProcess, start_server
from tests.importing.served_vectors import served
from tests.importing.tiny_bert import CheckpointFiles
from vecserve_client import Client, EmbedOptions, Record
from vecserve_client.types import Truncation
from vecserve_server.domain.vectors import Vectors
from vecserve_server.importing.importer import import_model

TEXT, PROMPT = "The cat sat on the mat while the rain fell", "hello hello "


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that cuts texts on the left to 8 tokens and does not pool its prompts."""
    files = CheckpointFiles(
        sentence_bert={"max_seq_length": 8},
        sentence_transformers={"prompts": {"query": PROMPT, "passage": None}},
    )
    files.pooling["include_prompt"] = False
    folder = tmp_path_factory.mktemp("imported")
    source = files.write(folder / "source")
    (source / "tokenizer_config.json").write_text('{"truncation_side": "left"}', encoding="utf-8")
    import_model(source=source, repository=folder / "models", name="tiny", precisions=("fp32",))
    config = folder / "models" / "tiny" / "config.pbtxt"
    one_engine = config.read_text("utf-8").replace('"auto"', '"onnxruntime"')
    config.write_text(one_engine, encoding="utf-8")
    return folder / "models"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    running = start_server(folder, repository=models, models_default="tiny")
    yield running
    assert running.stop() == 0, running.log


@pytest.fixture
def client(imported: ServerProcess) -> Iterator[Client]:
    with Client(target=imported.target, deadline_s=30.0) as made:
        yield made


def test_long_texts_are_cut_as_the_model_says_unless_the_request_does(client: Client) -> None:
    def embed(text: str, truncation: Truncation | None = None) -> Vectors:
        options = EmbedOptions(truncation=truncation)
        vector: Vectors = client.embed([text], options=options).vectors[0]
        return vector

    end, beginning = embed("the mat while the rain fell"), embed("The cat sat on the mat")

    np.testing.assert_allclose(embed(TEXT), end, atol=1e-6)
    np.testing.assert_allclose(embed(TEXT, "left"), end, atol=1e-6)
    np.testing.assert_allclose(embed(TEXT, "right"), beginning, atol=1e-6)


def test_prompts_are_left_out_of_the_pooling(client: Client, models: Path) -> None:
    [exact] = served(models, ["The cat"], prompt=PROMPT)
    [pooled] = client.embed([f"{PROMPT}The cat"]).vectors

    for options in (EmbedOptions(prompt_name="query"), EmbedOptions(prompt_text=PROMPT)):
        [found] = client.embed(["The cat"], options=options).vectors
        np.testing.assert_allclose(found, exact, atol=1e-6)
        assert abs(float(found @ pooled)) < 0.999
    [plain] = client.embed(["The cat"], options=EmbedOptions(prompt_name="passage")).vectors
    np.testing.assert_allclose(plain, client.embed(["The cat"]).vectors[0], atol=1e-6)


def test_what_is_written_is_found_by_how_it_was_cut(client: Client) -> None:
    client.create_collection("cut")
    client.upsert("cut", [Record(id="long", text=TEXT)])

    [hit] = client.search("cut", "the mat while the rain fell", k=1).hits

    assert hit.id == "long"
    assert hit.score > 0.999
