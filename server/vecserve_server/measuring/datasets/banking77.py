"""banking77: questions to a bank, and the intent of each."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TypeAlias

from vecserve_server.measuring.datasets.test_data import data_folder

Labelled: TypeAlias = list[tuple[str, str]]
"""Text and intent."""

_FOLDER = "text/banking77"


def banking77_folder() -> Path | None:
    """Find it under the folder of the test data."""
    root = data_folder(_FOLDER)
    return root and root / _FOLDER


def read_labelled(path: Path) -> Labelled:
    """Read a file with the columns text and category."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]
