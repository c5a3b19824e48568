"""The default model, loaded once in each precision, and what the original makes of 64 texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vecserve_server.domain import Vectors
from vecserve_server.encoding.model_repository import ModelRepository, TextModel

NAME = "all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Reference:
    texts: list[str]
    embeddings: Vectors


@pytest.fixture(scope="session")
def int8_model(model_repository: Path) -> Iterator[TextModel]:
    model = ModelRepository(model_repository).load(NAME, precision="int8")
    yield model
    model.encoder.close()


@pytest.fixture(scope="session")
def fp32_model(model_repository: Path) -> Iterator[TextModel]:
    model = ModelRepository(model_repository).load(NAME, precision="fp32")
    yield model
    model.encoder.close()


@pytest.fixture(scope="session")
def reference() -> Reference:
    with np.load(Path(__file__).parents[1] / "data" / "minilm_reference.npz") as file:
        texts = file["texts"].tobytes().decode().split("\x1e")
        return Reference(texts=texts, embeddings=file["embeddings"])
