"""Fixtures that several test folders share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# First of all: it loads ONNX Runtime, without its uploader, before USearch, after which it crashes.
import vecserve_server.index  # noqa: F401
from vecserve_server.measuring.datasets.stdlib_corpus import Docstring, read_corpus, stdlib_folder
from vecserve_server.model_files.layout import CACHE_FOLDER

DEFAULT_MODEL = "all-MiniLM-L6-v2"

# The machine may be busy; that is no fault.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def model_repository() -> Path:
    """The repository with the built default model; `make models` builds it."""
    default = Path(__file__).parents[1] / "model_repository"
    root = Path(os.environ.get("VECSERVE_TEST_MODEL_REPOSITORY", default))
    card = root / DEFAULT_MODEL / "1" / "card.json"
    if not card.is_file():
        pytest.fail(f"{card} is missing: run `make models`", pytrace=False)
    return root


@pytest.fixture(scope="session")
def serving_repository(tmp_path_factory: pytest.TempPathFactory, model_repository: Path) -> Path:
    """The default model on one engine: quick to start, and measured only once in a session."""
    root = tmp_path_factory.mktemp("models")
    (root / CACHE_FOLDER).mkdir()
    config = (model_repository / DEFAULT_MODEL / "config.pbtxt").read_text("utf-8")
    (root / DEFAULT_MODEL).mkdir()
    named = config.replace('"auto"', '"onnxruntime"')
    (root / DEFAULT_MODEL / "config.pbtxt").write_text(named, encoding="utf-8")
    version = (model_repository / DEFAULT_MODEL / "1").resolve()
    (root / DEFAULT_MODEL / "1").symlink_to(version)
    return root


@pytest.fixture(scope="session")
def stdlib_corpus() -> Sequence[Docstring]:
    """Every docstring of the standard library, which take seconds to read."""
    return tuple(read_corpus(stdlib_folder()))


def share_measurements(root: Path, built: Path) -> None:
    """Have the repository `root` know what was measured for `built`; weights are told apart."""
    (root / CACHE_FOLDER).symlink_to((built / CACHE_FOLDER).resolve())
