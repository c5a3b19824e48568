"""Whether a new generation answers as the old one does.

Owns the sample and the two figures. Must not know what is done about them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecserve_server.collections.collection import Collection
from vecserve_server.collections.hits.retrieval import Asked
from vecserve_server.domain.rows import Hit
from vecserve_server.domain.searching import Wanted
from vecserve_server.domain.vectors import Vectors

SAMPLE_ROWS = 200
NEAREST = 10
TOGETHER = 8
# Rows with the same text have the same vector: any of them is a hit.
TIE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two generations over a sample of rows; 1 and 1 where they agree in everything."""

    self_hit_rate: float
    """Share of rows that a search with their own vector finds in the new generation."""
    overlap: float
    """Share of common rows among the ten nearest, each found with the generation's own vector."""


async def compare(old: Collection, new: Collection) -> Comparison:
    """Search both generations with the vectors that sampled rows have in each."""
    sample = _spread(await old.seqs())
    before, after = await _vectors(old, sample), await _vectors(new, sample)
    common = [seq for seq in sample if seq in before and seq in after]
    if not common:
        return Comparison(self_hit_rate=1.0, overlap=1.0)
    found_before = await _search(old, [before[seq] for seq in common])
    found_after = await _search(new, [after[seq] for seq in common])
    hits, shares = [], []
    for seq, ours, theirs in zip(common, found_after, found_before, strict=True):
        seqs = {hit.seq for hit in ours}
        hits.append(seq in seqs or bool(ours and ours[-1].score > 1 - TIE))
        wanted = {hit.seq for hit in theirs}
        shares.append(len(seqs & wanted) / max(1, len(wanted)))
    return Comparison(self_hit_rate=float(np.mean(hits)), overlap=float(np.mean(shares)))


def _spread(seqs: NDArray[np.int64]) -> list[int]:
    step = max(1, len(seqs) // SAMPLE_ROWS)
    sample: list[int] = seqs[::step][:SAMPLE_ROWS].tolist()
    return sample


async def _vectors(collection: Collection, seqs: Sequence[int]) -> dict[int, Vectors]:
    rows = await collection.by_seq(seqs)
    return {
        seq: row.vector.astype(np.float32) for seq, row in rows.items() if row.vector is not None
    }


async def _search(collection: Collection, vectors: Sequence[Vectors]) -> list[Sequence[Hit]]:
    hits: list[Sequence[Hit]] = []
    for start in range(0, len(vectors), TOGETHER):  # other searches get their turn in between
        asked = [Asked(vector=vector) for vector in vectors[start : start + TOGETHER]]
        found = await collection.retrieve(asked, Wanted(k=NEAREST, with_payload=False))
        hits += [answer.hits for answer in found.answers.values()]
    return hits
