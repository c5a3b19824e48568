"""Real vectors to measure the index with: the Chorus products by the default model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from vecserve_client import Client
from vecserve_server.measuring.datasets.chorus import FOLDER, read_products
from vecserve_server.measuring.server_process import serving

_EMBED_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """How many products have a vector."""

    written: int
    products: int


def embed_products(data: Path, file: Path, *, repository: str = "model_repository") -> Embedded:
    """Serve, embed the products of the test data, and write float16 [N, D] as .npy."""
    texts = [product.text for product in read_products(data / FOLDER)]
    with serving(repository) as target, Client(target=target) as client:
        embedded = client.embed(texts, timeout_s=_EMBED_S)
    kept = [row for row in range(len(texts)) if row not in embedded.errors]
    np.save(file, embedded.vectors[kept].astype(np.float16))
    return Embedded(written=len(kept), products=len(texts))
