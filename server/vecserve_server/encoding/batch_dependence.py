"""Whether texts that share a run change each other's vectors.

Owns the trial and its bound. Must not know where a model comes from. Graphs of others may scale
what they quantise by the largest value in the batch, or count padding when they pool; a model
whose texts influence each other runs each text alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.vectors import Encodings, TokenIds
from vecserve_server.encoding.packing import pad
from vecserve_server.engines.engine import Feeds

LEAST_LIKENESS = 0.999999
"""Rounding leaves 1 - 1e-13 in float32 and 1 - 1e-7 in float16; dynamic int8, less than 0.9999."""

TRIAL_TOKENS = 128
"""Longest text of the trial."""

TRIAL_TEXTS = (
    "a",
    "blue cotton shirt",
    "Where is my order? It should have come last week.",
    "!!! ??? ... 3.14159 https://example.org/a?b=c",
    "The committee will publish its report on inflation and interest rates in March, and then the "
    "markets will tell whether anybody had expected what it says about wages.",
    " ".join(f"{number} rivers carry sediment to sea {number}," for number in range(40)),
)
"""Of very different lengths, the last of `TRIAL_TOKENS`."""


def likeness(
    run: Callable[[Feeds], Encodings], inputs: Collection[str], sequences: Sequence[TokenIds]
) -> float:
    """Return how alike the vectors of sequences alone and in one padded batch are; 1: the same.

    `run` computes a batch of a padded graph with these `inputs`. Of vectors x and y the measure is
    2xy / (xx + yy): their cosine, and less where their lengths differ. Returns the least of all.
    """
    alone = [_vectors(run(padded_feeds([ids], inputs))) for ids in sequences]
    together = _vectors(run(padded_feeds(sequences, inputs)))
    x, y = np.concatenate(alone), together
    alike = 2 * (x * y).sum(axis=1) / ((x * x).sum(axis=1) + (y * y).sum(axis=1))
    return float(np.nan_to_num(alike, nan=-1.0).min())


def padded_feeds(sequences: Sequence[TokenIds], inputs: Collection[str]) -> Feeds:
    """Return the inputs of one batch, padded to its longest sequence and no further."""
    shape = (len(sequences), max(map(len, sequences)))
    feeds = pad(sequences, range(len(sequences)), shape)
    return {name: values for name, values in feeds.items() if name in inputs}


def _vectors(encodings: Encodings) -> NDArray[np.float64]:
    return encodings.vectors.astype(np.float64) * encodings.norms.astype(np.float64)[:, None]
