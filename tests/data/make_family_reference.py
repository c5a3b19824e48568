"""Write family_reference.npz: what `transformers` makes of the tiny checkpoint of every family.

Run it from the repository's root where torch and transformers are installed:

    PYTHONPATH=server python -m tests.data.make_family_reference
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from tests.importing.tiny_families import TINY_FAMILIES, sequences
from tests.importing.transformers_reference import expected_vectors


def main() -> None:
    """Write the file beside this script."""
    vectors = {}
    for family in TINY_FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            vectors[family.name] = expected_vectors(family, sequences(), Path(folder))
    target = Path(__file__).with_name("family_reference.npz")
    np.savez_compressed(target, allow_pickle=False, **vectors)


if __name__ == "__main__":
    main()
