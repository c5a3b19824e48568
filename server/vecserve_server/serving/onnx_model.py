"""Any ONNX model behind the inference protocol.

Owns the way of a request's tensors through the batcher, and which of them may be left out. Must not
know the wire or the threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2

from vecserve_server.domain.timings import Timings
from vecserve_server.engines.onnx_loading import LoadedOnnx
from vecserve_server.errors import InvalidArgument
from vecserve_server.scheduling.tensor_batcher import TensorBatcher
from vecserve_server.scheduling.tensor_run import Part
from vecserve_server.serving.tensor_model import TensorReply, TensorRequest, Tensors


class OnnxModel:
    """A `TensorModel` over one version of an ONNX model. Loop only."""

    def __init__(self, *, version: str, loaded: LoadedOnnx, batcher: TensorBatcher) -> None:
        self._version = version
        self._config = loaded.config
        self._inputs = loaded.inputs
        self._outputs = loaded.outputs
        self._labels = loaded.labels
        self._batcher = batcher

    @property
    def name(self) -> str:
        """See `TensorModel`."""
        return str(self._config.name)

    @property
    def version(self) -> str:
        """See `TensorModel`."""
        return self._version

    @property
    def config(self) -> model_config_pb2.ModelConfig:
        """See `TensorModel`."""
        return self._config

    @property
    def unlisted_inputs(self) -> Sequence[model_config_pb2.ModelInput]:
        """See `TensorModel`: there are none."""
        return ()

    @property
    def labels(self) -> Mapping[str, Sequence[str]]:
        """See `TensorModel`."""
        return self._labels

    async def infer(self, request: TensorRequest) -> TensorReply:
        """See `TensorModel`; raises also what `TensorBatcher.submit` raises."""
        wanted = tuple(request.outputs) or tuple(self._outputs)
        feeds = self._feeds(request.inputs)
        rows = self._rows(request.inputs)
        answer = await self._batcher.submit(
            Part(inputs=feeds, outputs=wanted, rows=rows),
            shape=tuple((name, array.shape[1:]) for name, array in feeds.items()),
            priority=request.priority,
            timeout_us=request.timeout_us,
            deadline_ns=request.deadline_ns,
        )
        return TensorReply(
            outputs={name: self._outputs[name].from_graph(answer.outputs[name]) for name in wanted},
            times=Timings(
                queue_ns=answer.queue_ns,
                compute_input_ns=answer.times.input_ns,
                compute_infer_ns=answer.times.infer_ns,
                compute_output_ns=answer.times.output_ns,
            ),
        )

    def _feeds(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        """Return the tensors as the graph takes them, in the order of the configuration."""
        for name, spec in self._inputs.items():
            if name not in tensors and not spec.optional:
                raise InvalidArgument(f"input {name!r}", "is missing")
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
