"""Embed the Chorus products with the default model, for `make bench-index ARGS="--vectors FILE"`.

python clients/bench/index_products.py FILE.npy
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from encoder_texts import data_folder, read_products

from vecserve_client import Client
from vecserve_server.cli.server_process import ServerProcess

START_TIMEOUT_S, EMBED_TIMEOUT_S = 120.0, 3600.0


def main() -> None:
    """Serve, embed, write float16 [N, D]."""
    data = data_folder()
    if data is None:
        sys.exit("the test data is not there: set VECSERVE_TEST_DATA")
    texts = read_products(data).products
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = ServerProcess(
            run_dir=folder, data_dir=folder / "data", model_repository="model_repository"
        )
        with server:
            target = server.wait_ready(timeout_s=START_TIMEOUT_S)
            with Client(target=target) as client:
                embedded = client.embed(texts, timeout_s=EMBED_TIMEOUT_S)
    kept = [row for row in range(len(texts)) if row not in embedded.errors]
    np.save(sys.argv[1], embedded.vectors[kept].astype(np.float16))
    print(f"{len(kept)} of {len(texts)} products")


if __name__ == "__main__":
    main()
