"""Texts that arrive at an encoder, and pairs of them that people compared.

Owns where they come from: the test data where it is present, else generated ones with the same
distribution of lengths. Must not know encoders.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_TEXTS = 400
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


def _generated() -> Traffic:
    share = random.Random(0)  # noqa: S311 - not a secret
    words = _WORDS.split()

    def text(count: int) -> str:
        return " ".join(share.choices(words, k=max(1, count)))

    # exp(N(2.7, 1.4)) words has its median at 15 and its 95th percentile at 150.
    mix = [text(min(250, round(share.lognormvariate(2.7, 1.4)))) for _ in range(_TEXTS)]
    short = [text(round(share.lognormvariate(2.4, 0.4))) for _ in range(_TEXTS)]
    return Traffic(source="generated", mix=mix, short=short)
