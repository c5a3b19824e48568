"""Measure Classify: accuracy, calibration, and what a threshold keeps out; JSON out.

Needs the files train.csv and test.csv of banking77 (columns text and category). The server runs in
a process of its own and is asked over gRPC, one call for each text. Out-of-scope texts are those of
every fifth intent, which the second collection does not hold, and first lines of docstrings of
Python's standard library, which have nothing to do with banking.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import encoder_texts
import numpy as np
from numpy.typing import NDArray

from vecserve_client import AsyncClient, Classification, Client, Record
from vecserve_server.cli.server_process import ServerProcess
from vecserve_server.cli.stdlib_corpus import read_corpus, stdlib_folder

Labelled: TypeAlias = "list[tuple[str, str]]"
"""Text and intent."""

DATA_VARIABLE = "VECSERVE_TEST_DATA"
LABEL = "intent"
START_TIMEOUT_S = 60.0
IN_FLIGHT = 32
BINS = 15
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
HELD_OUT_EVERY = 5
FAR_TEXTS = 1000


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", default="model_repository")
    parser.add_argument("--data", type=Path, help=f"default: ${DATA_VARIABLE}/text/banking77")
    parser.add_argument("-k", type=int, default=10)
    options = parser.parse_args()
    data = options.data or data_folder()
    if data is None:
        parser.error(f"name the folder of banking77 with --data or ${DATA_VARIABLE}")
    train, test = read(data / "train.csv"), read(data / "test.csv")
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder)
        server = ServerProcess(
            run_dir=run_dir, data_dir=run_dir / "data", model_repository=options.repository
        )
        with server:
            target = server.wait_ready(timeout_s=START_TIMEOUT_S)
            print(json.dumps(measure(target, train, test, k=options.k), indent=2))
            server.stop()
    return 0


def data_folder() -> Path | None:
    """Find banking77 under the folder of the test data."""
    root = encoder_texts.data_folder()
    folder = Path(root) / "text" / "banking77" if root else None
    return folder if folder is not None and folder.is_dir() else None


def read(path: Path) -> Labelled:
    """Read a file of banking77."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def measure(target: str, train: Labelled, test: Labelled, *, k: int) -> dict[str, Any]:
    """Index the training texts and label the others with a running server."""
    held_out = set(sorted({intent for _, intent in train})[::HELD_OUT_EVERY])
    with Client(target=target, deadline_s=300) as client:
        index(client, "all", train)
        index(client, "some", [row for row in train if row[1] not in held_out])
    return {
        "train": len(train),
        "test": len(test),
        "k": k,
        "every_intent": in_scope(target, test, k=k),
        "held_out_intents": len(held_out),
        "thresholds": thresholds(target, test, held_out, k=k),
    }


def index(client: Client, collection: str, rows: Labelled) -> None:
    """Write labelled texts into a new collection."""
    client.create_collection(collection)
    records = (
        Record(id=str(number), text=text, payload={LABEL: intent})
        for number, (text, intent) in enumerate(rows)
    )
    for batch in client.upsert_many(collection, records):
        assert not batch.result.errors


def in_scope(target: str, test: Labelled, *, k: int) -> dict[str, float]:
    """Label texts whose intents are all indexed."""
    right, confidence = judged(target, "all", test, k=k)
    return {
        "accuracy": round(float(right.mean()), 4),
        "calibration_error": round(calibration_error(right, confidence), 4),
    }


def thresholds(
    target: str, test: Labelled, held_out: set[str], *, k: int
) -> list[dict[str, float]]:
    """Tell for each threshold what it lets through of texts in scope, near it and far from it."""
    inside = [row for row in test if row[1] not in held_out]
    near = [row for row in test if row[1] in held_out]
    far = [(line, "") for line in first_lines()]
    right, confidence = judged(target, "some", inside, k=k)
    _, of_near = judged(target, "some", near, k=k)
    _, of_far = judged(target, "some", far, k=k)
    return [
        {
            "min_confidence": threshold,
            "in_scope_kept": round(float((confidence >= threshold).mean()), 4),
            "accuracy_of_kept": round(float(right[confidence >= threshold].mean()), 4),
            "held_out_intents_refused": round(float((of_near < threshold).mean()), 4),
            "unrelated_texts_refused": round(float((of_far < threshold).mean()), 4),
        }
        for threshold in THRESHOLDS
    ]


def first_lines() -> list[str]:
    """Return texts of another world."""
    lines = [docstring.first_line for docstring in read_corpus(stdlib_folder())]
    return lines[:: max(1, len(lines) // FAR_TEXTS)][:FAR_TEXTS]


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
    places = asyncio.Semaphore(IN_FLIGHT)
    async with AsyncClient(target=target) as client:

        async def one(text: str) -> Classification:
            async with places:
                return await client.classify(collection, text, label_field=LABEL, k=k)

        return await asyncio.gather(*map(one, texts))


def calibration_error(right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> float:
    """Return the expected calibration error over bins of equal width."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [
        abs(confidence[inside].mean() - right[inside].mean()) * inside.mean()
        for inside in (bins == number for number in np.unique(bins))
    ]
    return float(sum(gaps))


if __name__ == "__main__":
    sys.exit(main())
