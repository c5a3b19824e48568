"""Measure the served path against the bare encoder, on this machine, in one run.

Prints one JSON object: throughput of the encoder called directly and of the same texts over gRPC,
and latencies of embed and search calls at several numbers of clients. Compare the ratios; absolute
numbers are those of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from process_cpu import await_idle, descendants

from vecserve_client import AsyncClient, Client
from vecserve_server.cli.server_process import ServerProcess
from vecserve_server.cli.stdlib_corpus import read_corpus, stdlib_folder, to_record
from vecserve_server.encoding.text_model import TextModel, TextModelLoader
from vecserve_server.engines.registry import shipped_engines
from vecserve_server.observability.process import usable_physical_cores

MODEL = "all-MiniLM-L6-v2"
COLLECTION = "bench"
START_TIMEOUT_S = 60.0
PREPARE_TIMEOUT_S = 180.0
BATCH_TEXTS = 32


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", default="model_repository")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="of encoder and server in turns")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(
            Path(folder), options.repository, options.seconds, options.rounds, options.clients
        )
    print(json.dumps(report, indent=2))
    return 0


def measure(
    folder: Path, repository: str, seconds: float, rounds: int, client_counts: Sequence[int]
) -> dict[str, Any]:
    """Measure everything with one server."""
    records = [to_record(docstring) for docstring in read_corpus(stdlib_folder())]
    texts = [record.text or "" for record in records]
    queries = [str(record.payload["first_line"]) for record in records]
    report: dict[str, Any] = {"documents": len(texts), "cores": usable_physical_cores()}
    model = TextModelLoader(
        Path(repository), engines=shipped_engines(), default_instances=usable_physical_cores()
    ).load(MODEL)
    assert model.encoder.await_specialised(PREPARE_TIMEOUT_S)
    server = ServerProcess(run_dir=folder, data_dir=folder / "data", model_repository=repository)
    with server:
        target = server.wait_ready(timeout_s=START_TIMEOUT_S)
        await_idle(descendants(os.getpid()), timeout_s=PREPARE_TIMEOUT_S)
        with Client(target=target) as client:
            client.create_collection(COLLECTION)
            started_s = time.perf_counter()
            for batch in client.upsert_many(COLLECTION, records):
                assert not batch.result.errors
            report["indexed_rows_per_second"] = len(records) / (time.perf_counter() - started_s)
            report["lone_call"] = lone_call(client, queries, seconds)
            pairs = in_turns(model, client, texts, seconds=seconds, rounds=rounds)
        report["direct_texts_per_second"] = statistics.median(direct for direct, _ in pairs)
        report["streamed_texts_per_second"] = statistics.median(streamed for _, streamed in pairs)
        ratios = [streamed / direct for direct, streamed in pairs]
        report["streamed_over_direct"] = statistics.median(ratios)
        report["streamed_over_direct_by_round"] = [round(ratio, 3) for ratio in ratios]
        report["embed_calls"] = asyncio.run(
            sweep(target, client_counts, seconds, lambda c, n: c.embed([queries[n % len(queries)]]))
        )
        report["search_calls"] = asyncio.run(
            sweep(
                target,
                client_counts,
                seconds,
                lambda c, n: c.search(COLLECTION, queries[n % len(queries)]),
            )
        )
        server.stop()
    return report


def in_turns(
    model: TextModel, client: Client, texts: Sequence[str], *, seconds: float, rounds: int
) -> list[tuple[float, float]]:
    """Texts per second of the encoder and of the server, one after the other in each round."""
    return [
        (direct_throughput(model, texts, seconds), streamed_throughput(client, texts, seconds))
        for _ in range(rounds)
    ]


def direct_throughput(model: TextModel, texts: Sequence[str], seconds: float) -> float:
    """Texts per second of tokeniser and encoder without a server, one thread for each core."""
    done: list[int] = []
    stop_s = time.perf_counter() + seconds

    def work(offset: int) -> None:
        count = 0
        source = islice(cycle(texts), offset, None)
        while time.perf_counter() < stop_s:
            batch = list(islice(source, BATCH_TEXTS))
            tokenised = model.tokenizer.encode(batch, max_tokens=model.config.max_tokens)
            model.encoder.run([item.ids for item in tokenised])
            count += len(batch)
        done.append(count)

    started_s = time.perf_counter()
    threads = [
        threading.Thread(target=work, args=(number * len(texts) // 2,))
        for number in range(usable_physical_cores())
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - started_s)


def streamed_throughput(client: Client, texts: Sequence[str], seconds: float) -> float:
    """Texts per second of long embed calls of one client."""
    started_s = time.perf_counter()
    count = 0
    while time.perf_counter() - started_s < seconds:
        count += len(client.embed(texts).vectors)
    return count / (time.perf_counter() - started_s)


def lone_call(client: Client, queries: Sequence[str], seconds: float) -> dict[str, float]:
    """Return the latency of one call at a time, and the server's part beside its two stages."""
    stop_s = time.perf_counter() + seconds
    latencies_ms, beyond_us = [], []
    for query in cycle(queries):
        if (began_s := time.perf_counter()) > stop_s:
            break
        [spent] = client.embed([query]).timings
        latencies_ms.append((time.perf_counter() - began_s) * 1000)
        beyond_us.append(spent.total_us - spent.tokenise_us - spent.encode_us)
    return summarise(latencies_ms, seconds) | {
        "beyond_tokenising_and_encoding_p50_us": float(np.median(beyond_us))
    }


async def sweep(
    target: str,
    client_counts: Sequence[int],
    seconds: float,
    call: Callable[[AsyncClient, int], Awaitable[object]],
) -> dict[str, dict[str, float]]:
    """Run closed loops of several sizes; returns rate and latencies by number of clients."""
    results = {}
    async with AsyncClient(target=target) as client:
        for clients in client_counts:
            stop_s = time.perf_counter() + seconds
            loops = [closed_loop(client, call, first, stop_s) for first in range(clients)]
            latencies_ms = [ms for each in await asyncio.gather(*loops) for ms in each]
            results[str(clients)] = summarise(latencies_ms, seconds)
    return results


async def closed_loop(
    client: AsyncClient,
    call: Callable[[AsyncClient, int], Awaitable[object]],
    number: int,
    stop_s: float,
) -> list[float]:
    """Call again as soon as the answer is there; returns milliseconds of each call."""
    latencies_ms = []
    while (began_s := time.perf_counter()) < stop_s:
        await call(client, number)
        latencies_ms.append((time.perf_counter() - began_s) * 1000)
        number += 7919
    return latencies_ms


def summarise(latencies_ms: Sequence[float], seconds: float) -> dict[str, float]:
    """Rate and percentiles of one size."""
    p50, p95, p99 = np.percentile(latencies_ms, [50, 95, 99])
    return {
        "calls_per_second": round(len(latencies_ms) / seconds, 1),
        "p50_ms": round(float(p50), 3),
        "p95_ms": round(float(p95), 3),
        "p99_ms": round(float(p99), 3),
    }


if __name__ == "__main__":
    sys.exit(main())
