"""Long texts: int8 stays close to fp32, and the card says how close, length by length."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vecserve_server.encoding.openvino_runtime import openvino_is_installed, openvino_module
from vecserve_server.export.calibration import Calibration, long_sequences, shipped_calibration
from vecserve_server.export.card import LengthParity, Parity, read_card
from vecserve_server.export.coding_error import coding_error
from vecserve_server.export.importer import import_model
from vecserve_server.export.openvino_build import embed_with_openvino, write_int8
from vecserve_server.export.parity import embed_with, long_parity_sequences, measure
from vecserve_server.export.sample_run import CALIBRATION_TEXTS

from .tiny_bert import CheckpointFiles

MODEL = "all-MiniLM-L6-v2"
needs_openvino = pytest.mark.skipif(
    not openvino_is_installed(), reason="OpenVINO is not installed (it is for x86-64 only)"
)


@pytest.fixture(scope="module")
def shipped() -> Calibration:
    calibration = shipped_calibration(MODEL)
    assert calibration is not None
    return calibration


@needs_openvino
def test_the_default_model_stays_close_up_to_its_longest_texts(
    model_repository: Path, tmp_path: Path, shipped: Calibration
) -> None:
    version = model_repository / MODEL / "1"
    write_int8(version / "model.onnx", tmp_path, shipped)
    tokenizer = (version / "tokenizer.json").read_bytes()
    long = [ids for ids in long_parity_sequences(tokenizer, 256) if len(ids) > 128]
    assert max(map(len, long)) == 256

    embedders = {
        "fp32": embed_with(version / "model.onnx"),
        "int8-openvino": embed_with_openvino(tmp_path / "model.int8.xml"),
    }
    found = measure(embedders, long).parity["int8-openvino"]

    assert found.cosine_mean >= 0.995
    assert found.cosine_min >= 0.99


@needs_openvino
def test_attention_that_codes_would_cost_much_keeps_float_weights(
    model_repository: Path, tmp_path: Path, shipped: Calibration
) -> None:
    counts = []
    for errors in (shipped.coding_errors, np.zeros(6, np.float32), np.ones(6, np.float32)):
        calibration = replace(shipped, coding_errors=errors)
        write_int8(model_repository / MODEL / "1" / "model.onnx", tmp_path, calibration)
        model = openvino_module().Core().read_model(tmp_path / "model.int8.xml")
        kinds = [node.get_type_name() for node in model.get_ordered_ops()]
        counts.append(kinds.count("FakeQuantize"))

    assert counts[1] - counts[0] == 3
    assert counts[1] - counts[2] == 6


def test_codes_cost_attention_the_more_the_more_evenly_it_is_spread() -> None:
    stream = np.random.default_rng(0)
    found = []
    for tokens in (4, 32, 256):
        states = stream.standard_normal((3, tokens, 16)).astype(np.float32)
        found.append(coding_error(*states, heads=2))

    assert 0 < found[0] < found[1] < found[2] < 1


def test_weights_that_are_codes_already_lose_nothing() -> None:
    value = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    same = np.zeros((5, 8), np.float32)  # every weight is 51 / 255

    assert coding_error(same, same, value, heads=2) < 1e-12


def test_texts_to_calibrate_on_are_as_long_as_the_model_takes(model_repository: Path) -> None:
    tokenizer = (model_repository / MODEL / "1" / "tokenizer.json").read_bytes()

    assert {len(ids) for ids in long_sequences(tokenizer, CALIBRATION_TEXTS, 256)} == {256}
    assert min(len(ids) for ids in long_sequences(tokenizer, CALIBRATION_TEXTS, 8192)) > 250
    assert long_sequences(tokenizer, CALIBRATION_TEXTS, 64) == []


@pytest.mark.parametrize(
    ("max_tokens", "longest"), [(16, 0), (40, 40), (65, 65), (200, 200), (512, 512), (8192, 1024)]
)
def test_texts_to_measure_on_reach_every_length(
    model_repository: Path, max_tokens: int, longest: int
) -> None:
    tokenizer = (model_repository / MODEL / "1" / "tokenizer.json").read_bytes()

    lengths = [len(ids) for ids in long_parity_sequences(tokenizer, max_tokens)]

    assert max(lengths, default=0) == longest
    assert min(lengths, default=17) == 17


def test_the_card_tells_every_band(tmp_path: Path) -> None:
    source = CheckpointFiles().write(tmp_path / "source")

    card = import_model(source=source, repository=tmp_path / "models", name="tiny")

    for parity in card.parity.values():
        bands = [(band.from_tokens, band.to_tokens) for band in parity.by_length]
        assert bands == [(1, 16), (17, 40)]
        means = [band.cosine_mean * band.texts for band in parity.by_length]
        texts = sum(band.texts for band in parity.by_length)
        assert sum(means) / texts == pytest.approx(parity.cosine_mean, abs=1e-6)
        assert min(band.cosine_min for band in parity.by_length) == parity.cosine_min
    assert read_card(tmp_path / "models" / "tiny" / "1") == card


def test_the_length_from_which_texts_are_further_off_is_told() -> None:
    bands = [
        LengthParity(from_tokens=at, to_tokens=at + 15, texts=4, cosine_mean=mean, cosine_min=0.9)
        for at, mean in ((1, 0.999), (16, 0.996), (32, 0.994))
    ]
    parity = Parity(cosine_mean=0.996, cosine_min=0.9, batch_cosine_min=1.0, by_length=tuple(bands))

    assert parity.falls_below(0.995) == 32
    assert parity.falls_below(0.99) is None
    assert replace(parity, by_length=()).falls_below(0.995) is None
