"""The Chorus products and their rated queries, and how good a ranking of them is.

Owns the reading of the data set's folder and the measures. Must not know servers.
"""

from __future__ import annotations

import csv
import json
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

K = 10
RATINGS = "Broad_Query_Set_rated.csv"
RELEVANT_RATING = 2


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over all queries."""

    mrr: float
    """1 / rank of the first relevant hit among K, 0 if there is none."""
    recall: float
    """Relevant hits among K over how many there could be."""


@dataclass(frozen=True, slots=True)
class Product:
    """One product of the catalogue."""

    id: str
    text: str
    payload: Mapping[str, Any]


def read_products(folder: Path) -> Iterator[Product]:
    """Read the catalogue."""
    for path in sorted(folder.glob("*.json.zip")):
        with zipfile.ZipFile(path) as archive:
            for found in json.loads(archive.read(archive.namelist()[0])):
                title, description = found["title"], found.get("short_description") or ""
                payload = {
                    "title": title,
                    "short_description": description,
                    "supplier": found.get("supplier"),
                    "released": found.get("date_released"),
                }
                if found.get("price"):
                    payload["price"] = float(found["price"])
                yield Product(found["id"], f"{title}. {description}", payload)


def read_relevant(folder: Path, known: set[str]) -> dict[str, set[str]]:
    """Read the relevant products of each query that has any in the catalogue."""
    relevant: dict[str, set[str]] = defaultdict(set)
    path = folder / RATINGS
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if float(row["rating"]) >= RELEVANT_RATING and row["docid"] in known:
                relevant[row["query"]].add(row["docid"])
    return dict(relevant)


def quality(found: Mapping[str, Sequence[str]], relevant: Mapping[str, set[str]]) -> Quality:
    """Measure the ids found for each query, best first."""
    reciprocal, recall = 0.0, 0.0
    for query, wanted in relevant.items():
        hits = [row_id in wanted for row_id in found[query][:K]]
        reciprocal += 1 / (hits.index(True) + 1) if any(hits) else 0
        recall += sum(hits) / min(K, len(wanted))
    return Quality(mrr=reciprocal / len(relevant), recall=recall / len(relevant))
