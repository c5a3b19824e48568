"""Measure what arrives when it likes: an idle server, 70 % of its capacity, and three times that.

    make bench-load                                     # some two minutes
    make bench-load ARGS="--seconds 30 --deadline-ms 500 --traffic short"

One text a call. Latencies count from the moment at which a call was due, so a client that falls
behind hides nothing. The client runs on the cores that it measures, so it is a light one:
`client_cores` is its part.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from encoder_texts import data_folder, read_traffic
from light_client import OK, RESOURCE_EXHAUSTED, Call, LightClient
from process_cpu import await_idle, descendants

from vecserve.v1 import embedding_pb2
from vecserve_server.cli.server_process import ServerProcess
from vecserve_server.encoding.measurements import processor

START_TIMEOUT_S = 120.0
WARM_S = 3.0
CLOSED_CLIENTS = 32
STEADY_LOAD, OVERLOAD, AFTERWARDS_LOAD = 0.7, 3.0, 0.5
PATIENCE_S = 30.0
AFTERWARDS_S = 4.0
RECOVERY_WINDOW_S = 0.25
METHOD = "/vecserve.v1.EmbeddingService/Embed"
CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", default="model_repository")
    parser.add_argument("--traffic", choices=["mix", "short"], default="mix")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load")
    parser.add_argument("--deadline-ms", type=float, default=500.0, help="of calls in overload")
    wanted = parser.parse_args()
    traffic = read_traffic(data_folder())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = ServerProcess(
            run_dir=folder, data_dir=folder / "data", model_repository=wanted.repository
        )
        with server:
            target = server.wait_ready(timeout_s=START_TIMEOUT_S)
            await_idle(descendants(os.getpid()), timeout_s=START_TIMEOUT_S)
            report = _measure(target, getattr(traffic, wanted.traffic), wanted)
            server.stop()
    about = {
        "processor": processor(),
        "texts": f"{wanted.traffic}, {traffic.source}",
        "deadline_ms": wanted.deadline_ms,
    }
    print(json.dumps(about | report, indent=1))
    return 0


def _measure(target: str, texts: Sequence[str], wanted: argparse.Namespace) -> dict[str, Any]:
    seconds, deadline_s = wanted.seconds, wanted.deadline_ms / 1000
    requests = [
        embedding_pb2.EmbedRequest(inputs=[embedding_pb2.EmbedInput(text=text)]) for text in texts
    ]
    messages = [request.SerializeToString() for request in requests]
    client = LightClient(target=target, method=METHOD, messages=messages)

    def closed(name: str, clients: int, *, keep_replies: bool = False) -> dict[str, Any]:
        part_s = seconds / 3
        calls = client.closed(clients, part_s, PATIENCE_S, keep_replies=keep_replies)
        return _told(name, calls, part_s)

    client.closed(CLOSED_CLIENTS, WARM_S, PATIENCE_S)
    alone = closed("alone", 1, keep_replies=True)
    full = closed("full", CLOSED_CLIENTS)
    capacity = full["answered_per_s"]
    steady_calls = client.open(_arrivals_s(STEADY_LOAD * capacity, seconds), PATIENCE_S)
    steady = _told("steady", steady_calls, seconds)
    began_s = time.process_time()
    overload_calls = client.open(_arrivals_s(OVERLOAD * capacity, seconds), deadline_s)
    client_cores = (time.process_time() - began_s) / seconds
    overload = _told("overload", overload_calls, seconds)
    overload["client_cores"] = round(client_cores, 2)
    after = client.open(_arrivals_s(AFTERWARDS_LOAD * capacity, AFTERWARDS_S), PATIENCE_S)
    client.close()
    return {
        "alone": alone,
        "full": full,
        "steady": steady,
        "overload": overload,
        "recovery_s": _recovery_s(after, steady["p95_ms"]),
        "steady_p95_over_alone_p50": round(steady["p95_ms"] / alone["p50_ms"], 2),
        "overload_answered_over_capacity": round(overload["answered_per_s"] / capacity, 3),
    }


def _arrivals_s(rate_per_s: float, seconds: float) -> list[float]:
    """Return the times of a Poisson process that begins now."""
    gaps_s = np.random.default_rng(0).exponential(1 / rate_per_s, int(rate_per_s * seconds))
    times_s: list[float] = (time.perf_counter() + np.cumsum(gaps_s)).tolist()
    return times_s


def _recovery_s(calls: Sequence[Call], bound_ms: float) -> float:
    """Tell when the last window began, after the first call, in which a p50 was above the bound."""
    first_s = calls[0].due_s
    windows: dict[int, list[float]] = {}
    for call in calls:
        window = int((call.due_s - first_s) / RECOVERY_WINDOW_S)
        windows.setdefault(window, []).append(call.latency_ms)
    slow = [window for window, found in windows.items() if np.median(found) > bound_ms]
    return (max(slow) + 1) * RECOVERY_WINDOW_S if slow else 0.0


def _summary(calls: Sequence[Call], seconds: float) -> dict[str, Any]:
    answered = [call for call in calls if call.code == OK]
    refused = [call.latency_ms for call in calls if call.code == RESOURCE_EXHAUSTED]
    p50, p95, p99 = np.percentile([call.latency_ms for call in answered], [50, 95, 99])
    found: dict[str, Any] = {
        "answered_per_s": round(len(answered) / seconds, 1),
        "p50_ms": round(float(p50), 2),
        "p95_ms": round(float(p95), 2),
        "p99_ms": round(float(p99), 2),
        "codes": dict(Counter(CODES[call.code] for call in calls)),
    }
    if replies := [call.reply for call in answered if call.reply]:
        found["beyond_encoding_p50_us"] = float(np.median([*map(_beyond_encoding_us, replies)]))
    if refused:
        low, high = np.percentile(refused, [50, 95])
        found |= {
            "refused_p50_ms": round(float(low), 2),
            "refused_p95_ms": round(float(high), 2),
            "refused_longest_ms": round(max(refused), 2),
        }
    return found


def _beyond_encoding_us(reply: bytes) -> int:
    """Tell what the server spent beside tokenising and encoding."""
    timings = embedding_pb2.EmbedResponse.FromString(reply).timings
    return timings.total_us - timings.tokenise_us - timings.encode_us


def _told(phase: str, calls: Sequence[Call], seconds: float) -> dict[str, Any]:
    found = _summary(calls, seconds)
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {phase} {json.dumps(found)}\n")
    return found


if __name__ == "__main__":
    sys.exit(main())
