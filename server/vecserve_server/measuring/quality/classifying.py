"""How well Classify labels texts: accuracy, calibration, and what a threshold keeps out.

The server runs in a process of its own and is asked over gRPC, one call for each text. Out-of-scope
texts are those of every fifth intent, which the second collection does not hold, and first lines of
docstrings of Python's standard library, which have nothing to do with banking.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vecserve_client import AsyncClient, Classification, Client, Record
from vecserve_server.measuring.datasets.banking77 import Labelled, read_labelled
from vecserve_server.measuring.datasets.stdlib_corpus import read_corpus, stdlib_folder
from vecserve_server.measuring.server_process import serving

LABEL: Final = "intent"
_IN_FLIGHT: Final = 32
_BINS: Final = 15
_THRESHOLDS: Final = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_HELD_OUT_EVERY: Final = 5
_FAR_TEXTS: Final = 1000
_INDEX_S: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyOptions:
    """What is labelled."""

    data: Path
    """The folder of banking77."""
    repository: str = "model_repository"
    k: int = 10
    """Neighbours that vote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InScope:
    """Of texts whose intents are all indexed."""

    accuracy: float
    calibration_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """What a least confidence lets through."""

    min_confidence: float
    in_scope_kept: float
    accuracy_of_kept: float
    held_out_intents_refused: float
    unrelated_texts_refused: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyReport:
    """How well texts were labelled."""

    train: int
    test: int
    k: int
    every_intent: InScope
    held_out_intents: int
    thresholds: Sequence[Threshold]


def measure_classify(options: ClassifyOptions) -> ClassifyReport:
    """Start a server, index the training texts and label the others."""
    train, test = (read_labelled(options.data / f"{part}.csv") for part in ("train", "test"))
    with serving(options.repository) as target:
        return measure(target, train, test, k=options.k)


def measure(target: str, train: Labelled, test: Labelled, *, k: int) -> ClassifyReport:
    """Index the training texts and label the others with a running server."""
    held_out = set(sorted({intent for _, intent in train})[::_HELD_OUT_EVERY])
    with Client(target=target, deadline_s=_INDEX_S) as client:
        index(client, "all", train)
        index(client, "some", [row for row in train if row[1] not in held_out])
    return ClassifyReport(
        train=len(train),
        test=len(test),
        k=k,
        every_intent=in_scope(target, test, k=k),
        held_out_intents=len(held_out),
        thresholds=thresholds(target, test, held_out, k=k),
    )


def index(client: Client, collection: str, rows: Labelled) -> None:
    """Write labelled texts into a new collection."""
    client.create_collection(collection)
    records = (
        Record(id=str(number), text=text, payload={LABEL: intent})
        for number, (text, intent) in enumerate(rows)
    )
    for batch in client.upsert_many(collection, records):
        assert not batch.result.errors


def in_scope(target: str, test: Labelled, *, k: int) -> InScope:
    """Label texts whose intents are all indexed."""
    right, confidence = judged(target, "all", test, k=k)
    return InScope(
        accuracy=round(float(right.mean()), 4),
        calibration_error=round(calibration_error(right, confidence), 4),
    )


def thresholds(target: str, test: Labelled, held_out: set[str], *, k: int) -> list[Threshold]:
    """Tell for each threshold what it lets through of texts in scope, near it and far from it."""
    inside = [row for row in test if row[1] not in held_out]
    near = [row for row in test if row[1] in held_out]
    far = [(line, "") for line in first_lines()]
    right, confidence = judged(target, "some", inside, k=k)
    _, of_near = judged(target, "some", near, k=k)
    _, of_far = judged(target, "some", far, k=k)
    return [
        Threshold(
            min_confidence=threshold,
            in_scope_kept=round(float((confidence >= threshold).mean()), 4),
            accuracy_of_kept=round(float(right[confidence >= threshold].mean()), 4),
            held_out_intents_refused=round(float((of_near < threshold).mean()), 4),
            unrelated_texts_refused=round(float((of_far < threshold).mean()), 4),
        )
        for threshold in _THRESHOLDS
    ]


def first_lines() -> list[str]:
    """Return texts of another world."""
    lines = [docstring.first_line for docstring in read_corpus(stdlib_folder())]
    return lines[:: max(1, len(lines) // _FAR_TEXTS)][:_FAR_TEXTS]


def judged(
    target: str, collection: str, rows: Labelled, *, k: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Label texts; return for each whether it is right and how confident."""
    found = asyncio.run(classified(target, collection, [text for text, _ in rows], k=k))
    best = [one.scores[0] for one in found]
    right = [score.label == intent for score, (_, intent) in zip(best, rows, strict=True)]
    return np.array(right), np.array([score.confidence for score in best])


async def classified(
    target: str, collection: str, texts: Sequence[str], *, k: int
) -> list[Classification]:
    """Label texts, some at the same time."""
    places = asyncio.Semaphore(_IN_FLIGHT)
    async with AsyncClient(target=target) as client:

        async def one(text: str) -> Classification:
            async with places:
                return await client.classify(collection, text, label_field=LABEL, k=k)

        return await asyncio.gather(*map(one, texts))


def calibration_error(right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> float:
    """Return the expected calibration error over bins of equal width."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = [
        abs(confidence[inside].mean() - right[inside].mean()) * inside.mean()
        for inside in (bins == number for number in np.unique(bins))
    ]
    return float(sum(gaps))
