"""Count and time what a model answers.

Owns the classification of failures. Must not know what the model does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vecserve_server.errors import CapacityError, DeadlineExceeded, RequestError
from vecserve_server.observability.metrics import Metrics
from vecserve_server.observability.model_statistics import Failure, ModelStatistics
from vecserve_server.serving.tensor_model import TensorModel, TensorReply, TensorRequest


class CountedModel:
    """A `TensorModel` whose requests are counted, failed ones included."""

    def __init__(
        self,
        model: TensorModel,
        *,
        statistics: ModelStatistics,
        metrics: Metrics,
        clock_ns: Callable[[], int],
    ) -> None:
        self.name, self.version = model.name, model.version
        self.config, self.labels = model.config, model.labels
        self.unlisted_inputs = model.unlisted_inputs
        self._model = model
        self._statistics = statistics
        self._clock_ns = clock_ns
        self._seconds = {
            stage: metrics.inference_seconds.labels(model=model.name, stage=stage)
            for stage in ("total", "queue", "compute_input", "compute_infer", "compute_output")
        }

    async def infer(self, request: TensorRequest) -> TensorReply:
        """See `TensorModel`."""
        started_ns = self._clock_ns()
        try:
            reply = await self._model.infer(request)
        except BaseException as error:
            self._statistics.failed(self._clock_ns() - started_ns, _reason(error))
            raise
        total_ns = self._clock_ns() - started_ns
        self._statistics.succeeded(reply, total_ns)
        self._observe(reply, total_ns)
        return reply

    def _observe(self, reply: TensorReply, total_ns: int) -> None:
        self._seconds["total"].observe(total_ns / 1e9)
        self._seconds["queue"].observe(reply.times.queue_ns / 1e9)
        if not reply.cache_hit:
            for stage in ("compute_input", "compute_infer", "compute_output"):
                self._seconds[stage].observe(getattr(reply.times, f"{stage}_ns") / 1e9)


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
