"""Any ONNX model behind the inference protocol.

Owns the way of a request's tensors through the queue, and which of them may be left out. Must not
know the wire or the threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from vecserve_server.domain.tensors import TensorReply, TensorRequest, Tensors
from vecserve_server.engines.onnx_loading import LoadedOnnx
from vecserve_server.errors import InvalidArgument
from vecserve_server.scheduling.compute import Compute
from vecserve_server.scheduling.tensor_run import Arrays, Part


class OnnxInference:
    """One version of an ONNX model. Loop only."""

    def __init__(
        self,
        *,
        loaded: LoadedOnnx,
        compute: Compute[Part, Arrays],
        clock_ns: Callable[[], int],
    ) -> None:
        self._config = loaded.config
        self._inputs = loaded.inputs
        self._outputs = loaded.outputs
        self._compute = compute
        self._clock_ns = clock_ns

    async def infer(self, request: TensorRequest) -> TensorReply:
        """Answer; raises what `Compute.submit` raises, and InvalidArgument for a missing input."""
        wanted = tuple(request.outputs) or tuple(self._outputs)
        feeds = self._feeds(request.inputs)
        rows = self._rows(request.inputs)
        answer = await self._compute.submit(
            Part(inputs=feeds, outputs=wanted, rows=rows), request.urgency(self._clock_ns())
        )
        return TensorReply(
            outputs={name: self._outputs[name].from_graph(answer.result[name]) for name in wanted},
            times=answer.timings,
        )

    def _feeds(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        """Return the tensors as the graph takes them, in the order of the configuration."""
        for name, spec in self._inputs.items():
            if name not in tensors and not spec.optional:
                raise InvalidArgument(("inputs", name), "is missing")
        return {
            name: spec.to_graph(tensors[name])
            for name, spec in self._inputs.items()
            if name in tensors
        }

    def _rows(self, tensors: Tensors) -> int:
        """Return the batch size; 0 for a model without batches."""
        if not self._config.max_batch_size:
            return 0
        return next((len(tensor) for tensor in tensors.values()), 1)
