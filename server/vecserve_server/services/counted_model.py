"""Count what a model answers.

Owns the classification of failures. Must not know what the model does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from tritonclient.grpc import model_config_pb2

from vecserve_server.errors import CapacityError, DeadlineExceeded, RequestError
from vecserve_server.observability.model_statistics import Failure, ModelStatistics
from vecserve_server.services.tensor_model import TensorModel, TensorReply, TensorRequest


class CountedModel:
    """A `TensorModel` whose requests are counted, failed ones included."""

    def __init__(
        self, model: TensorModel, *, statistics: ModelStatistics, clock_ns: Callable[[], int]
    ) -> None:
        self._model = model
        self._statistics = statistics
        self._clock_ns = clock_ns

    @property
    def name(self) -> str:
        """See `TensorModel`."""
        return self._model.name

    @property
    def version(self) -> str:
        """See `TensorModel`."""
        return self._model.version

    @property
    def config(self) -> model_config_pb2.ModelConfig:
        """See `TensorModel`."""
        return self._model.config

    @property
    def labels(self) -> Mapping[str, Sequence[str]]:
        """Names of the classes, by output, where the model has them."""
        return getattr(self._model, "labels", {})

    async def infer(self, request: TensorRequest) -> TensorReply:
        """See `TensorModel`."""
        started_ns = self._clock_ns()
        try:
            reply = await self._model.infer(request)
        except BaseException as error:
            self._statistics.failed(self._clock_ns() - started_ns, _reason(error))
            raise
        self._statistics.succeeded(reply, self._clock_ns() - started_ns)
        return reply


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
