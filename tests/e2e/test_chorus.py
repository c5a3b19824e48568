"""Product search end to end: words and vectors together find what people rated as relevant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vecserve_client import Client
from vecserve_server.measuring.datasets.chorus import read_products, read_relevant
from vecserve_server.measuring.quality.searching import (
    CHECKED,
    RANKINGS,
    index,
    is_good_enough,
    measured_quality,
)


@pytest.mark.slow
def test_hybrid_search_of_the_chorus_products(client: Client) -> None:
    named = os.environ.get("VECSERVE_TEST_CHORUS")
    if not named:
        pytest.skip("VECSERVE_TEST_CHORUS does not name the folder of the Chorus products")
    folder = Path(named)
    products = list(read_products(folder))
    relevant = read_relevant(folder, {product.id for product in products})
    index(client, products)
    assert len(relevant) == 113
    found = {name: measured_quality(client, how, relevant) for name, how in RANKINGS.items()}
    print(found)
    assert found["dense"].mrr == pytest.approx(0.705, abs=0.01)
    assert found["lexical"].mrr == pytest.approx(0.793, abs=0.001)
    assert found["hybrid"].mrr > max(found["dense"].mrr, found["lexical"].mrr) + 0.01
    assert is_good_enough(found[CHECKED])
