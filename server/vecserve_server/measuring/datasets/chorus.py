"""The Chorus products, and which of them people rated as relevant to which query."""

from __future__ import annotations

import csv
import json
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

RATINGS: Final = "Broad_Query_Set_rated.csv"
FOLDER: Final = "text/chorus_icecat"
"""Under the folder of the test data."""
_RELEVANT_RATING: Final = 2


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
            if float(row["rating"]) >= _RELEVANT_RATING and row["docid"] in known:
                relevant[row["query"]].add(row["docid"])
    return dict(relevant)
