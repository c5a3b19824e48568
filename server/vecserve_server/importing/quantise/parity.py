"""Measure built graphs on texts of all lengths: against fp32, alone against in a batch, and speed.

Owns the figures and their floors. Must not know checkpoints or the repository.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.vectors import TokenIds, Vectors
from vecserve_server.errors import ModelError
from vecserve_server.importing.quantise.sample_run import (
    PARITY_TEXTS,
    open_session,
    run_together,
    tokenise,
)
from vecserve_server.model_files.card import LengthParity, Parity

Embed: TypeAlias = Callable[[Sequence[TokenIds]], Vectors]
"""N sequences, as one batch, to float32 [N, D]."""

_TIMED_RUNS = 3
_MEAN_FLOOR, _MIN_FLOOR = 0.99, 0.97
_BAND_ENDS = (16, 64, 128, 192, 256, 384, 512, 1024)
"""The longest are not measured: an encoder's memory grows with the square of the length."""

_LONG_PER_BAND = 4
_COMPANY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the sample texts showed, by precision."""

    parity: Mapping[str, Parity]
    speed_texts_per_s: Mapping[str, float]


def measure(
    embedders: Mapping[str, Embed],
    sequences: Sequence[TokenIds],
    long_sequences: Sequence[TokenIds] = (),
) -> Measured:
    """Compare what every graph gives with what fp32 does, which must be among them.

    Speed is that of `sequences`; long ones are compared only, each in the company of short ones.
    """
    alone: dict[str, Vectors] = {}
    batched: dict[str, Vectors] = {}
    speeds: dict[str, float] = {}
    for name, embed in embedders.items():
        alone[name] = np.concatenate([embed([ids]) for ids in (*sequences, *long_sequences)])
        in_company = [embed([ids, *sequences[:_COMPANY]])[:1] for ids in long_sequences]
        batched[name] = np.concatenate([embed(sequences), *in_company])
        speeds[name] = _texts_per_s(embed, sequences)
    lengths = [len(ids) for ids in (*sequences, *long_sequences)]
    parities = {
        name: _parity(alone[name], batched[name], alone["fp32"], lengths) for name in embedders
    }
    return Measured(parity=parities, speed_texts_per_s=speeds)


def long_parity_sequences(tokenizer_json: bytes, max_tokens: int) -> list[TokenIds]:
    """Return texts of more than 16 tokens and up to `max_tokens`, made of short ones in any order.

    On such texts an int8 graph is as far from fp32 as on paragraphs that people wrote.
    """
    share = np.random.default_rng(1)
    long = []
    for below, end in itertools.pairwise(_BAND_ENDS):
        if below >= max_tokens:
            break
        for length in np.linspace(below + 1, min(end, max_tokens), _LONG_PER_BAND).astype(int):
            orders = [share.permutation(PARITY_TEXTS) for _ in range(1 + length // 128)]
            text = " ".join(np.concatenate(orders))
            long += tokenise(tokenizer_json, [text], max_tokens, longest_tokens=int(length))
    return long


def embed_with(file: Path) -> Embed:
    """Return how to embed with a graph in ONNX Runtime, which stays open as long as the result."""
    session = open_session(file)
    return lambda sequences: run_together(session, sequences)[0]


def _texts_per_s(embed: Embed, sequences: Sequence[TokenIds]) -> float:
    """Return the speed of the fastest of a few runs over all texts."""
    took = []
    for _ in range(_TIMED_RUNS):
        started = time.perf_counter()
        embed(sequences)
        took.append(time.perf_counter() - started)
    return round(len(sequences) / min(took), 1)


def check_parity(parity: Mapping[str, Parity]) -> None:
    """Raise `ModelError` where a precision falls below the floor."""
    for precision, found in parity.items():
        # Written so that a NaN fails too.
        if not (found.cosine_mean >= _MEAN_FLOOR and found.cosine_min >= _MIN_FLOOR):
            raise ModelError(
                f"{precision} is too far from fp32: cosine mean {found.cosine_mean:.4f} "
                f"(at least {_MEAN_FLOOR}), min {found.cosine_min:.4f} (at least {_MIN_FLOOR})"
            )


def _parity(alone: Vectors, batched: Vectors, exact: Vectors, lengths: Sequence[int]) -> Parity:
    to_exact = _cosines(alone, exact)
    return Parity(
        cosine_mean=round(float(to_exact.mean()), 7),
        cosine_min=round(float(to_exact.min()), 7),
        batch_cosine_min=round(float(_cosines(alone, batched).min()), 7),
        by_length=tuple(_by_length(to_exact, np.asarray(lengths))),
    )


def _by_length(to_exact: NDArray[np.float64], lengths: NDArray[np.int64]) -> Iterator[LengthParity]:
    for start, end in zip((0, *_BAND_ENDS), _BAND_ENDS, strict=False):
        found = to_exact[(start < lengths) & (lengths <= end)]
        if len(found):
            yield LengthParity(
                from_tokens=start + 1,
                to_tokens=min(end, int(lengths.max())),
                texts=len(found),
                cosine_mean=round(float(found.mean()), 7),
                cosine_min=round(float(found.min()), 7),
            )


def _cosines(a: Vectors, b: Vectors) -> NDArray[np.float64]:
    """Return row by row cosines, in float64 so that equal rows give 1."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    return np.asarray(np.einsum("nd,nd->n", a64, b64) / norms, np.float64)
