"""Embed the Chorus products with the default model, for `make bench-index ARGS="--vectors FILE"`.

python clients/bench/index_products.py FILE.npy
"""

from __future__ import annotations

import sys
from pathlib import Path

from vecserve_server.measuring.datasets.test_data import data_folder
from vecserve_server.measuring.index.products import embed_products


def main() -> None:
    """Serve, embed, write float16 [N, D]."""
    data = data_folder()
    if data is None:
        sys.exit("the test data is not there: set VECSERVE_TEST_DATA")
    found = embed_products(data, Path(sys.argv[1]))
    print(f"{found.written} of {found.products} products")


if __name__ == "__main__":
    main()
