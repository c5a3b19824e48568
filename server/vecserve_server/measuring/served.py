"""The served path against the bare encoder, on this machine, in one run.

Throughput of the encoder called directly and of the same texts over gRPC, and latencies of embed
and search calls at several numbers of clients. Compare the ratios; absolute numbers are those of
the machine.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from typing import Final

from vecserve_client import Client, Record
from vecserve_server.measuring.datasets.stdlib_corpus import read_corpus, stdlib_folder, to_record
from vecserve_server.measuring.encoder.speed import run_threads
from vecserve_server.measuring.encoder.subject import Subject, open_subject
from vecserve_server.measuring.load.closed_loop import CallRate, call_rate, sweep
from vecserve_server.measuring.machine import usable_physical_cores
from vecserve_server.measuring.processes import await_idle, descendants
from vecserve_server.measuring.server_process import serving
from vecserve_server.measuring.statistics import median_ratio, paired_ratios, percentile

COLLECTION: Final = "bench"
_PREPARE_TIMEOUT_S: Final = 180.0
_BATCH_TEXTS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedOptions:
    """What is measured."""

    repository: str = "model_repository"
    seconds: float = 5.0
    """Length of each measurement."""
    rounds: int = 5
    """Of encoder and server in turns."""
    clients: Sequence[int] = (1, 8, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoneCalls:
    """One call at a time."""

    calls_per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    beyond_tokenising_and_encoding_p50_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedReport:
    """The server beside its encoder."""

    documents: int
    cores: int
    indexed_rows_per_second: float
    lone_call: LoneCalls
    direct_texts_per_second: float
    streamed_texts_per_second: float
    streamed_over_direct: float
    streamed_over_direct_by_round: Sequence[float]
    embed_calls: Mapping[str, CallRate]
    search_calls: Mapping[str, CallRate]


def measure_served(options: ServedOptions) -> ServedReport:
    """Measure everything with one server and one encoder beside it."""
    records = [to_record(docstring) for docstring in read_corpus(stdlib_folder())]
    subject = open_subject(options.repository, runs_at_once=usable_physical_cores())
    with serving(options.repository) as target:
        await_idle(descendants(os.getpid()), timeout_s=_PREPARE_TIMEOUT_S)
        with Client(target=target) as client:
            return _Served(subject, target, client, records, options).report()


@dataclass(frozen=True, slots=True)
class _Served:
    """A server and its encoder, to be measured in turns."""

    subject: Subject
    target: str
    client: Client
    records: Sequence[Record]
    options: ServedOptions

    def report(self) -> ServedReport:
        rows_per_second = self._index()
        lone = self._lone_call()
        pairs = [(self._direct(), self._streamed()) for _ in range(self.options.rounds)]
        direct, streamed = zip(*pairs, strict=True)
        embedded, searched = asyncio.run(self._calls())
        return ServedReport(
            documents=len(self.records),
            cores=usable_physical_cores(),
            indexed_rows_per_second=rows_per_second,
            lone_call=lone,
            direct_texts_per_second=statistics.median(direct),
            streamed_texts_per_second=statistics.median(streamed),
            streamed_over_direct=median_ratio(streamed, direct),
            streamed_over_direct_by_round=[
                round(ratio, 3) for ratio in paired_ratios(streamed, direct)
            ],
            embed_calls=embedded,
            search_calls=searched,
        )

    @property
    def _texts(self) -> list[str]:
        return [record.text or "" for record in self.records]

    @property
    def _queries(self) -> list[str]:
        return [str(record.payload["first_line"]) for record in self.records]

    def _index(self) -> float:
        """Write every record; return rows per second."""
        self.client.create_collection(COLLECTION)
        started_s = time.perf_counter()
        for batch in self.client.upsert_many(COLLECTION, self.records):
            assert not batch.result.errors
        return len(self.records) / (time.perf_counter() - started_s)

    def _lone_call(self) -> LoneCalls:
        """Return the latency of one call at a time, and the server's part beside its two stages."""
        stop_s = time.perf_counter() + self.options.seconds
        latencies_ms, beyond_us = [], []
        for query in cycle(self._queries):
            if (began_s := time.perf_counter()) > stop_s:
                break
            [spent] = self.client.embed([query]).timings
            latencies_ms.append((time.perf_counter() - began_s) * 1000)
            beyond_us.append(spent.total_us - spent.tokenise_us - spent.encode_us)
        return LoneCalls(
            **asdict(call_rate(latencies_ms, self.options.seconds)),
            beyond_tokenising_and_encoding_p50_us=percentile(beyond_us, 50),
        )

    def _direct(self) -> float:
        """Texts per second of tokeniser and encoder without a server, one thread for each core."""
        texts, stop_s = self._texts, time.perf_counter() + self.options.seconds
        done: list[int] = []

        def work(offset: int) -> None:
            count, source = 0, islice(cycle(texts), offset, None)
            while time.perf_counter() < stop_s:
                count += len(self.subject.embed_texts(list(islice(source, _BATCH_TEXTS))))
            done.append(count)

        cores = usable_physical_cores()
        started_s = time.perf_counter()
        run_threads([partial(work, number * len(texts) // cores) for number in range(cores)])
        return sum(done) / (time.perf_counter() - started_s)

    def _streamed(self) -> float:
        """Texts per second of long embed calls of one client."""
        texts, started_s, count = self._texts, time.perf_counter(), 0
        while time.perf_counter() - started_s < self.options.seconds:
            count += len(self.client.embed(texts).vectors)
        return count / (time.perf_counter() - started_s)

    async def _calls(self) -> tuple[dict[str, CallRate], dict[str, CallRate]]:
        queries, seconds = self._queries, self.options.seconds

        def query(number: int) -> str:
            return queries[number % len(queries)]

        clients = self.options.clients
        embedded = await sweep(
            self.target, clients, seconds, lambda client, n: client.embed([query(n)])
        )
        searched = await sweep(
            self.target, clients, seconds, lambda client, n: client.search(COLLECTION, query(n))
        )
        return embedded, searched
