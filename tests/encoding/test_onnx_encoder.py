"""The encoder: the original's vectors, whatever a text shares its run with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vecserve_server.domain import TokenIds, Vectors
from vecserve_server.encoding.model_repository import TextModel
from vecserve_server.encoding.onnx_encoder import OnnxEncoder
from vecserve_server.errors import ModelError

from .conftest import Reference


def tokens(model: TextModel, texts: Sequence[str]) -> list[TokenIds]:
    return [item.ids for item in model.tokenizer.encode(texts, max_tokens=256)]


def cosines(a: Vectors, b: Vectors) -> NDArray[np.float64]:
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    return np.asarray((a64 * b64).sum(axis=1) / norms)


@pytest.fixture(scope="module", params=["fp32", "int8"])
def case(
    request: pytest.FixtureRequest, fp32_model: TextModel, int8_model: TextModel
) -> tuple[TextModel, float]:
    """A model, and how close a text's vector has to stay in any batch."""
    return {"fp32": (fp32_model, 0.999999), "int8": (int8_model, 0.999)}[request.param]


def test_fp32_gives_the_vectors_of_the_original(
    fp32_model: TextModel, reference: Reference
) -> None:
    vectors = fp32_model.encoder.run(tokens(fp32_model, reference.texts))

    assert len(reference.texts) == 64
    assert cosines(vectors, reference.embeddings).min() >= 0.99999


def test_int8_stays_close_to_the_original(int8_model: TextModel, reference: Reference) -> None:
    vectors = int8_model.encoder.run(tokens(int8_model, reference.texts))

    found = cosines(vectors, reference.embeddings)
    assert found.mean() >= 0.99
    assert found.min() >= 0.97


def test_a_text_has_one_vector_in_any_company(
    case: tuple[TextModel, float], reference: Reference
) -> None:
    model, floor = case
    sequences = tokens(model, reference.texts)
    alone = np.concatenate([model.encoder.run([sequence]) for sequence in sequences])

    for seed in range(3):
        order = random.Random(seed).sample(range(64), 64)
        for size in (2, 7, 64):
            for start in range(0, 64, size):
                chosen = order[start : start + size]
                vectors = model.encoder.run([sequences[index] for index in chosen])
                assert cosines(vectors, alone[chosen]).min() >= floor


def test_vectors_have_norm_one(case: tuple[TextModel, float], reference: Reference) -> None:
    model, _ = case
    vectors = model.encoder.run(tokens(model, reference.texts))

    assert vectors.shape == (64, model.encoder.dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_threads_share_one_encoder(int8_model: TextModel, reference: Reference) -> None:
    sequences = tokens(int8_model, reference.texts[:16])
    expected = int8_model.encoder.run(sequences)

    with ThreadPoolExecutor(2) as pool:
        for vectors in pool.map(lambda _: int8_model.encoder.run(sequences), range(6)):
            np.testing.assert_array_equal(vectors, expected)


def test_no_sequences_give_no_vectors(int8_model: TextModel) -> None:
    assert int8_model.encoder.run([]).shape == (0, 384)


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_an_unreadable_model_is_a_model_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)

    with pytest.raises(ModelError, match=r"model\.onnx"):
        OnnxEncoder(model_file=file, max_tokens=256, row_tokens=128, run_tokens=256)
