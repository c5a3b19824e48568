"""Any ONNX model behind the inference protocol.

Owns the check of a request against the model's tensors. Must not know the wire or the threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2

from vecserve_server.errors import InvalidArgument
from vecserve_server.onnx_models.loading import LoadedOnnx
from vecserve_server.scheduling.tensor_batcher import TensorBatcher
from vecserve_server.scheduling.tensor_run import Part
from vecserve_server.services.tensor_model import StageTimes, TensorReply, TensorRequest, Tensors


class OnnxModel:
    """A `TensorModel` over one version of an ONNX model. Loop only."""

    def __init__(
        self,
        *,
        version: int,
        loaded: LoadedOnnx,
        batcher: TensorBatcher,
    ) -> None:
        self._version = version
        self._config = loaded.config
        self._inputs = loaded.inputs
        self._outputs = loaded.outputs
        self._labels = loaded.labels
        self._digest = loaded.digest
        self._batcher = batcher

    @property
    def name(self) -> str:
        """See `TensorModel`."""
        return str(self._config.name)

    @property
    def version(self) -> str:
        """See `TensorModel`."""
        return str(self._version)

    @property
    def config(self) -> model_config_pb2.ModelConfig:
        """See `TensorModel`."""
        return self._config

    @property
    def unlisted_inputs(self) -> Sequence[model_config_pb2.ModelInput]:
        """See `TensorModel`: there are none."""
        return ()

    @property
    def digest(self) -> str:
        """Two models with the same digest give the same answers."""
        return self._digest

    @property
    def labels(self) -> Mapping[str, Sequence[str]]:
        """Names of the classes of each output that has them."""
        return self._labels

    @property
    def instance_count(self) -> int:
        """Runs that can be in progress at once."""
        return self._batcher.instance_count

    @property
    def queued(self) -> int:
        """Requests that wait for a run."""
        return self._batcher.queued

    async def infer(self, request: TensorRequest) -> TensorReply:
        """See `TensorModel`; raises also what `TensorBatcher.submit` raises."""
        wanted = self._wanted(request.outputs)
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
            rows=max(1, rows),
            times=StageTimes(
                queue_ns=answer.queue_ns,
                compute_input_ns=answer.times.input_ns,
                compute_infer_ns=answer.times.infer_ns,
                compute_output_ns=answer.times.output_ns,
            ),
        )

    async def close(self, timeout_s: float) -> bool:
        """Refuse what waits, stop after the runs in progress; return whether they ended in time."""
        return await self._batcher.close(timeout_s)

    def _wanted(self, names: Sequence[str]) -> Sequence[str]:
        for name in names:
            if name not in self._outputs:
                known = ", ".join(self._outputs)
                raise InvalidArgument(f"output {name!r}", f"is unknown; the model has {known}")
        return tuple(dict.fromkeys(names)) or tuple(self._outputs)

    def _feeds(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        """Return the tensors as the graph takes them, in the order of the configuration."""
        for name in tensors:
            if name not in self._inputs:
                known = ", ".join(self._inputs)
                raise InvalidArgument(f"input {name!r}", f"is unknown; the model takes {known}")
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
        limit = self._config.max_batch_size
        if limit == 0:
            return 0
        sizes = {name: array.shape[0] for name, array in tensors.items()}
        rows = max(sizes.values(), default=1)
        for name, size in sizes.items():
            if not 1 <= size <= limit:
                problem = f"has a batch size of {size}; 1 to {limit} are allowed"
                raise InvalidArgument(f"input {name!r}", problem)
            if size != rows:
                problem = f"has a batch size of {size}, another input has {rows}"
                raise InvalidArgument(f"input {name!r}", problem)
        return rows
