"""Where the data sets lie that are not made here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

VARIABLE: Final = "VECSERVE_TEST_DATA"
_BESIDE: Final = Path("..") / "shared" / "data"
"""Of the working folder, which is that of a checkout."""


def data_folder(name: str = "text") -> Path | None:
    """Return the folder with the test data if it holds `name`: what VECSERVE_TEST_DATA says."""
    folder = Path(os.environ.get(VARIABLE, _BESIDE))
    return folder if (folder / name).is_dir() else None
