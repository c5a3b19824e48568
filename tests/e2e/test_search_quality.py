"""The served answers against brute force over the same vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from vecserve_client import Client
from vecserve_server.measuring.datasets.stdlib_corpus import Docstring, to_record

QUERIES = 500
K = 10
# Two scores closer than float32 can tell apart are one rank.
TIE = 1e-6


@pytest.mark.slow
def test_recall_and_scores_on_the_demo_corpus(
    client: Client, stdlib_corpus: Sequence[Docstring]
) -> None:
    records = [to_record(docstring) for docstring in stdlib_corpus]
    every = len(stdlib_corpus) // QUERIES
    queries = [docstring.first_line for docstring in stdlib_corpus][::every]
    queries = queries[:QUERIES]
    vectors = client.embed([record.text or "" for record in records]).vectors
    asked = client.embed(queries).vectors
    client.create_collection("stdlib")
    ready = (replace(r, text=None, vector=v) for r, v in zip(records, vectors, strict=True))
    for batch in client.upsert_many("stdlib", ready):
        assert not batch.result.errors

    truth = asked @ vectors.T
    place = {record.id: number for number, record in enumerate(records)}
    hits = 0
    for number, result in enumerate(client.search_batch("stdlib", list(asked), k=K)):
        tenth_best = np.sort(truth[number])[-K]
        assert len({hit.id for hit in result.hits}) == K
        scores = [hit.score for hit in result.hits]
        assert scores == sorted(scores, reverse=True)
        for hit in result.hits:
            true_cosine = truth[number, place[hit.id]]
            assert abs(hit.score - true_cosine) <= 1e-3
            hits += true_cosine >= tenth_best - TIE
    recall = hits / (K * len(queries))
    print(f"{len(records)} rows, {len(queries)} queries: Recall@{K} {recall:.4f}")
    assert len(queries) == QUERIES
    assert recall >= 0.9995
