"""A calibration: learnt from texts, written and read back, the same for both engines."""

from __future__ import annotations

import numpy as np
import pytest

from tests.importing.tiny_families import TINY_FAMILIES, TinyFamily, sequences
from vecserve_server.errors import ModelError
from vecserve_server.importing.families.family import ModelConfigJson, Weights
from vecserve_server.importing.graph.int8 import STEPS, code_range
from vecserve_server.importing.quantise.calibration import (
    Calibration,
    calibrate,
    calibration_bytes,
    read_calibration,
    shipped_calibration,
)


def learnt(family: TinyFamily = TINY_FAMILIES[0]) -> Calibration:
    return calibrate(
        config=ModelConfigJson(family.config),
        weights=Weights(family.tensors()),
        sequences=sequences(),
    )


@pytest.mark.parametrize("family", TINY_FAMILIES, ids=lambda family: family.name)
def test_every_linear_block_and_attention_is_covered(family: TinyFamily) -> None:
    calibration = learnt(family)

    layers = len(calibration.peaks)
    assert layers >= 2
    assert len(calibration.blocks) == 4 * layers
    assert (calibration.peaks > 0).all()
    for block in calibration.blocks.values():
        assert block.low <= 0 < block.high
        assert (block.factors > 0).all()
        assert np.isfinite(block.correction).all()


def test_zero_is_a_code_of_every_range() -> None:
    for low, high in ((-3.1, 7.7), (0.4, 0.5), (-2.0, -1.0), (0.0, 0.0)):
        found_low, found_high = code_range(low, high)
        zero = -found_low / (found_high - found_low) * STEPS

        assert found_low <= min(low, 0) + 1e-2
        assert found_high >= max(high, 0) - 1e-2 * (high - low)
        assert zero == pytest.approx(round(zero), abs=1e-6)


def test_a_calibration_survives_being_written() -> None:
    calibration = learnt()
    found = read_calibration(calibration_bytes(calibration))

    assert list(found.blocks) == list(calibration.blocks)
    np.testing.assert_array_equal(found.peaks, calibration.peaks)
    for name, block in calibration.blocks.items():
        assert (found.blocks[name].low, found.blocks[name].high) == (block.low, block.high)
        for part in ("factors", "correction"):
            read_back, original = getattr(found.blocks[name], part), getattr(block, part)
            np.testing.assert_allclose(read_back, original, rtol=1e-3, atol=1e-4)


def test_no_texts_are_refused() -> None:
    family = TINY_FAMILIES[0]
    with pytest.raises(ModelError, match="no texts"):
        calibrate(
            config=ModelConfigJson(family.config), weights=Weights(family.tensors()), sequences=[]
        )


def test_no_calibration_ships_for_an_unknown_model() -> None:
    assert shipped_calibration("unknown") is None
