"""Measure what arrives when it likes: an idle server, 70 % of its capacity, and three times that.

    make bench-load                                     # some two minutes
    make bench-load ARGS="--seconds 30 --deadline-ms 500 --traffic short"

One text a call. Latencies count from the moment at which a call was due, so a client that falls
behind hides nothing. The client runs on the cores that it measures: `client_cores` is its part.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from encoder_texts import data_folder, read_traffic
from process_cpu import await_idle, descendants

from vecserve.v1 import embedding_pb2, embedding_pb2_grpc
from vecserve_server.cli.server_process import ServerProcess
from vecserve_server.encoding.measurements import processor

START_TIMEOUT_S = 120.0
WARM_S = 3.0
CLOSED_CLIENTS = 32
STEADY_LOAD, OVERLOAD, AFTERWARDS_LOAD = 0.7, 3.0, 0.5
PATIENCE_S = 30.0
AFTERWARDS_S = 4.0
RECOVERY_WINDOW_S = 0.25
OK, REFUSED = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call; times are those of `time.perf_counter`."""

    due_s: float
    ended_s: float
    code: grpc.StatusCode
    beyond_encoding_us: int = 0
    """What the server spent beside tokenising and encoding."""

    @property
    def latency_ms(self) -> float:
        """From when it was due."""
        return (self.ended_s - self.due_s) * 1000


class Caller:
    """Sends texts, one after the other, over one channel."""

    def __init__(self, channel: grpc.aio.Channel, texts: Sequence[str]) -> None:
        self._embed = embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed
        self._requests = [
            embedding_pb2.EmbedRequest(inputs=[embedding_pb2.EmbedInput(text=text)])
            for text in texts
        ]
        self._number = count()

    async def call(self, due_s: float, timeout_s: float) -> Call:
        """Send the next text; a failure is an outcome as well."""
        request = self._requests[next(self._number) * 7919 % len(self._requests)]
        beyond_us = 0
        try:
            timings = (await self._embed(request, timeout=timeout_s)).timings
            beyond_us = timings.total_us - timings.tokenise_us - timings.encode_us
            code = OK
        except grpc.aio.AioRpcError as error:
            code = error.code()
        return Call(
            due_s=due_s, ended_s=time.perf_counter(), code=code, beyond_encoding_us=beyond_us
        )

    async def closed(self, clients: int, seconds: float) -> list[Call]:
        """Keep so many calls in flight."""
        stop_s = time.perf_counter() + seconds

        async def client() -> list[Call]:
            calls = []
            while (now_s := time.perf_counter()) < stop_s:
                calls.append(await self.call(now_s, PATIENCE_S))
            return calls

        return [
            call
            for each in await asyncio.gather(*(client() for _ in range(clients)))
            for call in each
        ]

    async def open(self, rate_per_s: float, seconds: float, timeout_s: float) -> list[Call]:
        """Send calls as a Poisson process does, whatever became of those before."""
        gaps_s = np.random.default_rng(0).exponential(1 / rate_per_s, int(rate_per_s * seconds))
        began_s = time.perf_counter()
        tasks = []
        for due_s in (began_s + np.cumsum(gaps_s)).tolist():
            if (wait_s := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            tasks.append(asyncio.create_task(self.call(due_s, timeout_s)))
        return await asyncio.gather(*tasks)


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
            report = asyncio.run(_measure(target, getattr(traffic, wanted.traffic), wanted))
            server.stop()
    about = {
        "processor": processor(),
        "texts": f"{wanted.traffic}, {traffic.source}",
        "deadline_ms": wanted.deadline_ms,
    }
    print(json.dumps(about | report, indent=1))
    return 0


async def _measure(target: str, texts: Sequence[str], wanted: argparse.Namespace) -> dict[str, Any]:
    seconds, deadline_s = wanted.seconds, wanted.deadline_ms / 1000
    async with grpc.aio.insecure_channel(target) as channel:
        caller = Caller(channel, texts)
        await caller.closed(CLOSED_CLIENTS, WARM_S)
        alone = _told("alone", await caller.closed(1, seconds / 3), seconds / 3)
        full = _told("full", await caller.closed(CLOSED_CLIENTS, seconds / 3), seconds / 3)
        capacity = full["answered_per_s"]
        arrived = await caller.open(STEADY_LOAD * capacity, seconds, PATIENCE_S)
        steady = _told("steady", arrived, seconds)
        began_s = time.process_time()
        arrived = await caller.open(OVERLOAD * capacity, seconds, deadline_s)
        client_cores = (time.process_time() - began_s) / seconds
        overload = _told("overload", arrived, seconds) | {"client_cores": round(client_cores, 2)}
        after = await caller.open(AFTERWARDS_LOAD * capacity, AFTERWARDS_S, PATIENCE_S)
    return {
        "alone": alone,
        "full": full,
        "steady": steady,
        "overload": overload,
        "recovery_s": _recovery_s(after, steady["p95_ms"]),
        "steady_p95_over_alone_p50": round(steady["p95_ms"] / alone["p50_ms"], 2),
        "overload_answered_over_capacity": round(overload["answered_per_s"] / capacity, 3),
    }


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
    answered = [call for call in calls if call.code is OK]
    refused = [call.latency_ms for call in calls if call.code is REFUSED]
    p50, p95, p99 = np.percentile([call.latency_ms for call in answered], [50, 95, 99])
    found: dict[str, Any] = {
        "answered_per_s": round(len(answered) / seconds, 1),
        "p50_ms": round(float(p50), 2),
        "p95_ms": round(float(p95), 2),
        "p99_ms": round(float(p99), 2),
        "beyond_encoding_p50_us": float(np.median([call.beyond_encoding_us for call in answered])),
        "codes": dict(Counter(call.code.name for call in calls)),
    }
    if refused:
        low, high = np.percentile(refused, [50, 95])
        found |= {
            "refused_p50_ms": round(float(low), 2),
            "refused_p95_ms": round(float(high), 2),
            "refused_longest_ms": round(max(refused), 2),
        }
    return found


def _told(phase: str, calls: Sequence[Call], seconds: float) -> dict[str, Any]:
    found = _summary(calls, seconds)
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {phase} {json.dumps(found)}\n")
    return found


if __name__ == "__main__":
    sys.exit(main())
