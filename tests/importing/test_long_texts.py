"""Long texts: the card says how close int8 stays to fp32, length by length."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.importing.tiny_bert import CheckpointFiles
from vecserve_server.importing.importer import import_model
from vecserve_server.importing.quantise.parity import long_parity_sequences
from vecserve_server.model_files.card import LengthParity, Parity, read_card

MODEL = "all-MiniLM-L6-v2"


def test_the_default_model_tells_where_long_texts_are_further_off(model_repository: Path) -> None:
    card = read_card(model_repository / MODEL / "1")

    for name, parity in card.parity.items():
        ends = [band.to_tokens for band in parity.by_length]
        assert ends == [16, 64, 128, 192, 256]
        assert min(band.texts for band in parity.by_length) >= 4
        assert all(band.cosine_mean >= 0.995 for band in parity.by_length[:3]), name
    assert card.parity["int8"].falls_below(0.995) is None
    if "int8-openvino" in card.parity:
        assert card.parity["int8-openvino"].falls_below(0.995) in (129, 193)


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
