"""Calls that arrive when they like: an idle server, 70 % of its capacity, and three times that.

One text a call. Latencies count from the moment at which a call was due, so a client that falls
behind hides nothing. The client runs on the cores that it measures, so it is a light one:
`client_cores` is its part.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from vecserve.v1 import embedding_pb2
from vecserve_server.measuring.datasets.test_data import data_folder
from vecserve_server.measuring.datasets.texts import read_traffic
from vecserve_server.measuring.load.arrivals import poisson_arrivals_s
from vecserve_server.measuring.load.light_client import LightClient
from vecserve_server.measuring.load.phases import Phase, recovery_s, summarise
from vecserve_server.measuring.machine import processor
from vecserve_server.measuring.processes import await_idle, descendants
from vecserve_server.measuring.reports import tell
from vecserve_server.measuring.server_process import START_S, serving

EMBED: Final = "/vecserve.v1.EmbeddingService/Embed"
CLOSED_CLIENTS: Final = 32
PATIENCE_S: Final = 30.0
_WARM_S: Final = 3.0
_STEADY_LOAD, _OVERLOAD, _AFTERWARDS_LOAD = 0.7, 3.0, 0.5
_AFTERWARDS_S: Final = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What is put on the server."""

    repository: str = "model_repository"
    traffic: Literal["mix", "short"] = "mix"
    seconds: float = 30.0
    """Of each open load; a third of it for each closed one."""
    deadline_ms: float = 500.0
    """Of calls in overload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What the server made of each load."""

    processor: str
    texts: str
    deadline_ms: float
    alone: Phase
    full: Phase
    steady: Phase
    overload: Phase
    recovery_s: float
    steady_p95_over_alone_p50: float
    overload_answered_over_capacity: float


def measure_load(options: LoadOptions) -> LoadReport:
    """Start a server and put every load on it."""
    traffic = read_traffic(data_folder())
    texts = traffic.mix if options.traffic == "mix" else traffic.short
    with serving(options.repository) as target:
        await_idle(descendants(os.getpid()), timeout_s=START_S)
        return measure_target(target, texts, options, source=traffic.source)


def measure_target(
    target: str, texts: Sequence[str], options: LoadOptions, *, source: str
) -> LoadReport:
    """Put every load on a server that runs."""
    load = _Load(client=light_client(target, texts), seconds=options.seconds)
    alone, full = load.lone(), load.full()
    capacity_per_s = full.answered_per_s
    steady = load.steady(_STEADY_LOAD * capacity_per_s)
    overload = load.flood(_OVERLOAD * capacity_per_s, options.deadline_ms / 1000)
    after_s = load.recovered_s(_AFTERWARDS_LOAD * capacity_per_s, steady.p95_ms)
    load.client.close()
    return LoadReport(
        processor=processor(),
        texts=f"{options.traffic}, {source}",
        deadline_ms=options.deadline_ms,
        alone=alone,
        full=full,
        steady=steady,
        overload=overload,
        recovery_s=after_s,
        steady_p95_over_alone_p50=round(steady.p95_ms / alone.p50_ms, 2),
        overload_answered_over_capacity=round(overload.answered_per_s / capacity_per_s, 3),
    )


def light_client(target: str, texts: Sequence[str]) -> LightClient:
    """Connect to a server; each call embeds one of the texts. Raises OSError."""
    requests = (
        embedding_pb2.EmbedRequest(inputs=[embedding_pb2.EmbedInput(text=text)]) for text in texts
    )
    messages = [request.SerializeToString() for request in requests]
    return LightClient(target=target, method=EMBED, messages=messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Load:
    """The phases of a load on one connection."""

    client: LightClient
    seconds: float

    def lone(self) -> Phase:
        """One call at a time, on a server that is warm."""
        self.client.closed(CLOSED_CLIENTS, _WARM_S, PATIENCE_S)
        calls = self.client.closed(1, self.seconds / 3, PATIENCE_S, keep_replies=True)
        return tell("alone", summarise(calls, self.seconds / 3))

    def full(self) -> Phase:
        """As many calls in flight as keep the server busy."""
        calls = self.client.closed(CLOSED_CLIENTS, self.seconds / 3, PATIENCE_S)
        return tell("full", summarise(calls, self.seconds / 3))

    def steady(self, rate_per_s: float) -> Phase:
        """Arrivals that the server keeps up with."""
        calls = self.client.open(_due_s(rate_per_s, self.seconds), PATIENCE_S)
        return tell("steady", summarise(calls, self.seconds))

    def flood(self, rate_per_s: float, deadline_s: float) -> Phase:
        """Arrivals that the server cannot keep up with."""
        began_s = time.process_time()
        calls = self.client.open(_due_s(rate_per_s, self.seconds), deadline_s)
        cores = round((time.process_time() - began_s) / self.seconds, 2)
        return tell("overload", summarise(calls, self.seconds, client_cores=cores))

    def recovered_s(self, rate_per_s: float, bound_ms: float) -> float:
        """Tell how long latencies stay above the bound after a flood."""
        calls = self.client.open(_due_s(rate_per_s, _AFTERWARDS_S), PATIENCE_S)
        return recovery_s(calls, bound_ms)


def _due_s(rate_per_s: float, seconds: float) -> list[float]:
    """Return the times of a Poisson process that begins now; the same one in each run."""
    began_s = time.perf_counter()
    arrivals_s = poisson_arrivals_s(rate_per_s, seconds, np.random.default_rng(0))
    return [began_s + at_s for at_s in arrivals_s]
