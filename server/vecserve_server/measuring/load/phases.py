"""What the calls of one phase of a load came to. Must not know the connection that they took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import grpc

from vecserve.v1 import embedding_pb2
from vecserve_server.measuring.load.light_client import OK, RESOURCE_EXHAUSTED, Call
from vecserve_server.measuring.statistics import percentile, percentiles

_CODES: Final[Mapping[int, str]] = {code.value[0]: code.name for code in grpc.StatusCode}
_RECOVERY_WINDOW_S: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """The calls of one phase; latencies of those that were answered, from when they were due."""

    answered_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    codes: Mapping[str, int]
    """Calls by the status that they ended with."""
    beyond_encoding_p50_us: float | None = None
    """What the server spent beside tokenising and encoding; None where replies were not kept."""
    refused_p50_ms: float | None = None
    refused_p95_ms: float | None = None
    refused_longest_ms: float | None = None
    client_cores: float | None = None
    """Cores that the client kept busy."""


def summarise(calls: Sequence[Call], seconds: float, *, client_cores: float | None = None) -> Phase:
    """Summarise calls that were due within so many seconds. Raises ValueError if none succeeded."""
    answered = [call for call in calls if call.code == OK]
    refused_ms = [call.latency_ms for call in calls if call.code == RESOURCE_EXHAUSTED]
    beyond_us = [_beyond_encoding_us(call.reply) for call in answered if call.reply]
    return Phase(
        answered_per_s=round(len(answered) / seconds, 1),
        **percentiles([call.latency_ms for call in answered]).as_json("ms", 2),
        codes=Counter(_CODES[call.code] for call in calls),
        beyond_encoding_p50_us=percentile(beyond_us, 50) if beyond_us else None,
        refused_p50_ms=round(percentile(refused_ms, 50), 2) if refused_ms else None,
        refused_p95_ms=round(percentile(refused_ms, 95), 2) if refused_ms else None,
        refused_longest_ms=round(max(refused_ms), 2) if refused_ms else None,
        client_cores=client_cores,
    )


def recovery_s(calls: Sequence[Call], bound_ms: float) -> float:
    """Tell when the last window ended, after the first call, in which a p50 was above the bound."""
    first_s = calls[0].due_s
    windows: dict[int, list[float]] = {}
    for call in calls:
        window = int((call.due_s - first_s) / _RECOVERY_WINDOW_S)
        windows.setdefault(window, []).append(call.latency_ms)
    slow = [window for window, found in windows.items() if percentile(found, 50) > bound_ms]
    return (max(slow) + 1) * _RECOVERY_WINDOW_S if slow else 0.0


def _beyond_encoding_us(reply: bytes) -> int:
    timings = embedding_pb2.EmbedResponse.FromString(reply).timings
    return timings.total_us - timings.tokenise_us - timings.encode_us
