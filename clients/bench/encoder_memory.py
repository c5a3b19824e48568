"""Resident memory of one engine after many requests of random lengths.

Run by `encoder.py` in a process of its own: VERSION_FOLDER ENGINE REQUESTS. Prints JSON.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from encoder_engines import open_encoder
from numpy.typing import NDArray

from vecserve_server.domain.shapes import fixed_shapes, run_shapes
from vecserve_server.encoding.cost_model import UNMEASURED
from vecserve_server.encoding.encoder_session import EncoderSession
from vecserve_server.encoding.loading import sample_batch
from vecserve_server.encoding.planning import RunPlanner
from vecserve_server.encoding.text_encoders import PackedEncoder
from vecserve_server.observability.process import resident_bytes

MAX_TOKENS, ROW_TOKENS, RUN_TOKENS = 256, 128, 256
FIXED_SHAPES, SPECIALISE_TIMEOUT_S = 16, 120.0
FIRST_REQUESTS = 1_000
WORKERS = 2
HELD_BATCHES = 64
"""That exist at a time: thousands would take memory of their own."""


def main() -> None:
    """Run the requests and print the memory after the first thousand and after the last."""
    version, name, requests = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    shapes = run_shapes(run_tokens=RUN_TOKENS, max_tokens=MAX_TOKENS)
    engine = _open(version, name)
    engine.warm_up([sample_batch(engine, shape, MAX_TOKENS) for shape in shapes])
    planner = RunPlanner(shapes=shapes, cost=UNMEASURED.predict, row_tokens=ROW_TOKENS)
    encoder = PackedEncoder(session=engine, planner=planner, on_run=lambda *_: None)
    share = np.random.default_rng(0)
    if name == "openvino":
        shapes = fixed_shapes(run_tokens=RUN_TOKENS, max_tokens=MAX_TOKENS)[:FIXED_SHAPES]
        engine.specialise(shapes)
        if not engine.await_specialised(SPECIALISE_TIMEOUT_S):
            raise TimeoutError(f"no graphs of fixed shapes after {SPECIALISE_TIMEOUT_S} s")
    warm_mb = resident_bytes() / 1e6
    measured = []
    with ThreadPoolExecutor(WORKERS) as pool:
        for count in (FIRST_REQUESTS, max(0, requests - FIRST_REQUESTS)):
            batches = _batches(share, count)
            while some := list(islice(batches, HELD_BATCHES)):
                deque(pool.map(encoder.run, some), maxlen=0)
            measured.append(resident_bytes() / 1e6)
    report = {
        "requests": requests,
        "warm_mb": round(warm_mb, 1),
        "after_1000_mb": round(measured[0], 1),
        "after_all_mb": round(measured[1], 1),
        "growth": round(measured[1] / measured[0], 4),
    }
    print(json.dumps(report))


def _open(version: Path, name: str) -> EncoderSession:
    file = "model.int8.xml" if name == "openvino" else "model.int8.onnx"
    return open_encoder(name, version / file, threads=WORKERS)


def _batches(share: np.random.Generator, requests: int) -> Iterator[list[NDArray[np.int64]]]:
    """Yield requests of random lengths, 1 to 8 of them at a time."""
    while requests > 0:
        count = min(requests, int(share.integers(1, 9)))
        lengths = np.exp(share.uniform(np.log(2), np.log(MAX_TOKENS), count)).astype(int)
        yield [share.integers(1000, 20_000, length) for length in lengths]
        requests -= count


if __name__ == "__main__":
    main()
