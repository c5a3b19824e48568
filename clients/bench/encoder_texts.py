"""The texts that the encoder benchmark runs on.

Owns where they come from: the test data of DESIGN section 2 where it is present, else generated
ones with the same distribution of lengths. Must not know encoders.
"""

from __future__ import annotations

import csv
import json
import os
import random
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_TEXTS = 400
_RELEVANT_FROM = 2
_WORDS = """
red blue large small order parcel screen cable printer laptop battery shipping refund card account
payment password network storage memory kitchen garden river mountain engine report market science
history music theatre because however between during without the a of and to
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Texts as they arrive."""

    source: str
    mix: Sequence[str]
    """Median 16 tokens, 95th percentile 154."""
    short: Sequence[str]
    """Queries and questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPairs:
    """STS-B: pairs of sentences and how alike people found them."""

    left: Sequence[str]
    right: Sequence[str]
    scores: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedProducts:
    """Chorus: products, queries, and the places of the products that answer each query."""

    products: Sequence[str]
    queries: Sequence[str]
    relevant: Sequence[frozenset[int]]


def data_folder() -> Path | None:
    """Return the folder with the test data, if it is there."""
    default = Path(__file__).parents[2] / ".." / "shared" / "data"
    folder = Path(os.environ.get("VECSERVE_TEST_DATA", default))
    return folder if (folder / "text").is_dir() else None


def read_traffic(folder: Path | None) -> Traffic:
    """Return the traffic texts."""
    if folder is None:
        return _generated()
    files = folder / "text" / "traffic"
    mix, short = (json.loads((files / f"{name}.json").read_bytes()) for name in ("mix", "short"))
    return Traffic(source="text/traffic of the test data", mix=mix, short=short)


def read_pairs(folder: Path) -> ScoredPairs:
    """Return STS-B's test set."""
    with (folder / "text" / "stsb" / "stsb-en-test.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return ScoredPairs(
        left=[row[0] for row in rows],
        right=[row[1] for row in rows],
        scores=[float(row[2]) for row in rows],
    )


def read_products(folder: Path) -> RatedProducts:
    """Return the Chorus products and the queries that at least one product answers."""
    base = folder / "text" / "chorus_icecat"
    records = [record for path in sorted(base.glob("*.json.zip")) for record in _zipped(path)]
    place = {str(record["id"]): index for index, record in enumerate(records)}
    wanted: dict[str, set[int]] = {}
    with (base / "Broad_Query_Set_rated.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if int(row["rating"]) >= _RELEVANT_FROM and row["docid"] in place:
                wanted.setdefault(row["query"], set()).add(place[row["docid"]])
    return RatedProducts(
        products=[f"{r.get('title', '')}. {r.get('short_description', '')}" for r in records],
        queries=list(wanted),
        relevant=[frozenset(found) for found in wanted.values()],
    )


def _zipped(path: Path) -> list[dict[str, str]]:
    with zipfile.ZipFile(path) as archive:
        records: list[dict[str, str]] = json.loads(archive.read(archive.namelist()[0]))
        return records


def _generated() -> Traffic:
    share = random.Random(0)  # noqa: S311 - not a secret
    words = _WORDS.split()

    def text(count: int) -> str:
        return " ".join(share.choices(words, k=max(1, count)))

    # exp(N(2.7, 1.4)) words has its median at 15 and its 95th percentile at 150.
    mix = [text(min(250, round(share.lognormvariate(2.7, 1.4)))) for _ in range(_TEXTS)]
    short = [text(round(share.lognormvariate(2.4, 0.4))) for _ in range(_TEXTS)]
    return Traffic(source="generated", mix=mix, short=short)
