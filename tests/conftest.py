"""Fixtures that several test folders share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DEFAULT_MODEL = "all-MiniLM-L6-v2"


@pytest.fixture(scope="session")
def model_repository() -> Path:
    """The repository with the built default model; `make models` builds it."""
    default = Path(__file__).parents[1] / "model_repository"
    root = Path(os.environ.get("VECSERVE_TEST_MODEL_REPOSITORY", default))
    card = root / DEFAULT_MODEL / "1" / "card.json"
    if not card.is_file():
        pytest.fail(f"{card} is missing: run `make models`", pytrace=False)
    return root
