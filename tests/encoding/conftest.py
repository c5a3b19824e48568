"""The default model, loaded once for each engine and precision, and what the original makes of 64
texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.text_models import text_models
from vecserve_server.domain.vectors import Vectors
from vecserve_server.encoding.text_model import TextModel
from vecserve_server.engines.openvino.runtime import openvino_is_installed

NAME = "all-MiniLM-L6-v2"

needs_openvino = pytest.mark.skipif(
    not openvino_is_installed(), reason="OpenVINO is not installed (it is for x86-64 only)"
)


@dataclass(frozen=True)
class Reference:
    texts: list[str]
    embeddings: Vectors


Load = Callable[[str, str], TextModel]


@pytest.fixture(scope="session")
def load(model_repository: Path) -> Iterator[Load]:
    """Return the default model by engine and precision."""
    repository = text_models(model_repository, default_instances=2)
    loaded: dict[tuple[str, str], TextModel] = {}

    def get(engine: str, precision: str) -> TextModel:
        if engine == "openvino" and not openvino_is_installed():
            pytest.skip("OpenVINO is not installed (it is for x86-64 only)")
        key = (engine, precision)
        if key not in loaded:
            loaded[key] = repository.load(NAME, engine=engine, precision=precision)
        return loaded[key]

    yield get
    for model in loaded.values():
        model.encoder.close()


@pytest.fixture(scope="session")
def int8_model(load: Load) -> TextModel:
    return load("onnxruntime", "int8")


@pytest.fixture(scope="session")
def fp32_model(load: Load) -> TextModel:
    return load("onnxruntime", "fp32")


@pytest.fixture(scope="session")
def reference() -> Reference:
    with np.load(Path(__file__).parents[1] / "data" / "minilm_reference.npz") as file:
        texts = file["texts"].tobytes().decode().split("\x1e")
        return Reference(texts=texts, embeddings=file["embeddings"])
