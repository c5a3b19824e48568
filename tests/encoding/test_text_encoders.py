"""Both engines: the original's vectors, whatever a text shares its run with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.encoding.conftest import Load, Reference, needs_openvino
from tests.text_models import open_encoder
from vecserve_server.domain.vectors import Encodings, TokenIds, Vectors
from vecserve_server.encoding.text_model import TextModel
from vecserve_server.errors import ModelError


def tokens(model: TextModel, texts: Sequence[str]) -> list[TokenIds]:
    return [item.ids for item in model.tokenizer.encode(texts, max_tokens=256)]


def cosines(a: Vectors, b: Vectors) -> NDArray[np.float64]:
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    return np.asarray((a64 * b64).sum(axis=1) / norms)


@dataclass(frozen=True)
class Case:
    """A model, how close it is to fp32, and how close a text's vector stays in any batch."""

    model: TextModel
    mean_floor: float
    min_floor: float
    batch_floor: float
    alone: Encodings
    """Of each reference text, in a run of its own."""


@pytest.fixture(
    scope="module",
    params=["onnxruntime fp32", "onnxruntime int8", "openvino fp32", "openvino int8"],
)
def case(request: pytest.FixtureRequest, load: Load, reference: Reference) -> Case:
    engine, precision = request.param.split()
    # The texts hold extremes, such as one word 254 times; the benchmark has the usual ones.
    floors = {"fp32": (0.99999, 0.99999, 0.999999), "int8": (0.995, 0.95, 0.999)}
    model = load(engine, precision)
    alone = [model.encoder.run([sequence]) for sequence in tokens(model, reference.texts)]
    vectors, norms = (np.concatenate(parts) for parts in zip(*alone, strict=True))
    return Case(model, *floors[precision], Encodings(vectors, norms))


def test_vectors_are_those_of_the_original(case: Case, reference: Reference) -> None:
    vectors = case.model.encoder.run(tokens(case.model, reference.texts)).vectors

    found = cosines(vectors, reference.embeddings)
    assert len(reference.texts) == 64
    assert found.mean() >= case.mean_floor
    assert found.min() >= case.min_floor


def test_a_text_has_one_vector_in_any_company(case: Case, reference: Reference) -> None:
    encoder = case.model.encoder
    sequences = tokens(case.model, reference.texts)

    for seed in range(3):
        order = random.Random(seed).sample(range(64), 64)
        for size in (2, 7, 64):
            for start in range(0, 64, size):
                chosen = order[start : start + size]
                vectors = encoder.run([sequences[index] for index in chosen]).vectors
                assert cosines(vectors, case.alone.vectors[chosen]).min() >= case.batch_floor


def test_norms_are_what_normalising_took_away(case: Case, reference: Reference) -> None:
    encoder = case.model.encoder
    sequences = tokens(case.model, reference.texts)
    vectors, norms = encoder.run(sequences)

    assert (vectors.shape, norms.shape) == ((64, case.model.config.dim), (64,))
    assert vectors.dtype == norms.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(norms, case.alone.norms, rtol=0.02)
    assert np.all(norms > 1)


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 31, 33, 127, 128, 129, 255, 256])
def test_any_length_up_to_the_longest_can_be_encoded(case: Case, length: int) -> None:
    sequence = np.full(length, 2023)
    vectors, _ = case.model.encoder.run([sequence] * 3)

    assert np.isfinite(vectors).all()
    assert cosines(vectors[:1], vectors[1:2]).min() >= case.batch_floor


def test_threads_share_one_encoder(case: Case, reference: Reference) -> None:
    sequences = tokens(case.model, reference.texts[:16])
    expected = case.model.encoder.run(sequences).vectors

    with ThreadPoolExecutor(4) as pool:
        for encodings in pool.map(lambda _: case.model.encoder.run(sequences), range(12)):
            np.testing.assert_array_equal(encodings.vectors, expected)


def test_no_sequences_give_no_vectors(case: Case) -> None:
    assert case.model.encoder.run([]).vectors.shape == (0, 384)


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_an_unreadable_onnx_model_is_a_model_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)

    with pytest.raises(ModelError, match=r"model\.onnx"):
        open_encoder("onnxruntime", file)


@needs_openvino
@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_an_unreadable_openvino_model_is_a_model_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.xml"
    file.write_bytes(content)

    with pytest.raises(ModelError, match=r"model\.xml"):
        open_encoder("openvino", file)
