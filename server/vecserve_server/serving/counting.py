"""Count and time what a version answers.

Owns the classification of failures. Must not know what the version does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vecserve_server.domain.tensors import Infer, TensorReply, TensorRequest
from vecserve_server.errors import CapacityError, DeadlineExceeded, RequestError
from vecserve_server.observability.metrics import Metrics
from vecserve_server.observability.model_statistics import Failure, ModelStatistics

COMPUTE = ("compute_input", "compute_infer", "compute_output")


def counted(
    infer: Infer,
    *,
    model: str,
    statistics: ModelStatistics,
    metrics: Metrics,
    clock_ns: Callable[[], int],
) -> Infer:
    """Return what infers and counts every request, failed ones included."""
    seconds = {
        stage: metrics.inference_seconds.labels(model=model, stage=stage)
        for stage in ("total", "queue", *COMPUTE)
    }

    async def infer_and_count(request: TensorRequest) -> TensorReply:
        started_ns = clock_ns()
        try:
            reply = await infer(request)
        except BaseException as error:
            statistics.failed(clock_ns() - started_ns, _reason(error))
            raise
        total_ns = clock_ns() - started_ns
        statistics.succeeded(reply, total_ns)
        seconds["total"].observe(total_ns / 1e9)
        seconds["queue"].observe(reply.times.queue_ns / 1e9)
        if not reply.cache_hit:
            for stage in COMPUTE:
                seconds[stage].observe(getattr(reply.times, f"{stage}_ns") / 1e9)
        return reply

    return infer_and_count


def _reason(error: BaseException) -> Failure:
    match error:
        case asyncio.CancelledError():
            return Failure.CANCELED
        case CapacityError() | DeadlineExceeded():
            return Failure.REJECTED
        case RequestError():
            return Failure.OTHER
        case _:
            return Failure.BACKEND
