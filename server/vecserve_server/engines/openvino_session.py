"""A model in OpenVINO, which runs it in place of ONNX Runtime.

Owns the compiled model and the requests that threads share. Must not know configurations, batches
or how OpenVINO is imported.
"""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecserve_server.engines.time_limit import Stop
from vecserve_server.errors import EngineError, InvalidArgument, ModelError
from vecserve_server.model_files.graph import Graph

_INT32 = np.iinfo(np.int32)


class OpenVinoSession:
    """A loaded graph; a thread that finds every stream taken waits for one."""

    def __init__(
        self, model_file: Path, graph: Graph, openvino: Any, *, streams: int, threads: int
    ) -> None:
        """Compile the file for `streams` runs at once, on at most `threads` threads; 0: all cores.

        `graph` is what ONNX Runtime says of it, `openvino` the module. Raises `ModelError`.
        """
        for tensor in (*graph.inputs.values(), *graph.outputs.values()):
            if tensor.datatype.name in ("BYTES", "BF16"):
                problem = f'"{tensor.name}" is {tensor.datatype.name}, not for OpenVINO'
                raise ModelError(f"{model_file}: {problem}")
        try:
            compiled = openvino.Core().compile_model(model_file, "CPU", _settings(streams, threads))
            ports = {name: port for port in compiled.outputs for name in port.get_names()}
            self._ports = {name: ports[name] for name in graph.outputs}
            self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
            for _ in range(streams):
                self._requests.put(compiled.create_infer_request())
        except Exception as error:
            raise ModelError(f"{model_file}: not loadable by OpenVINO ({error})") from error
        needed = {name: each for name, each in graph.inputs.items() if not each.optional}
        self._graph = Graph(inputs=needed, outputs=graph.outputs)

    @property
    def graph(self) -> Graph:
        """The tensors that it takes and gives; initialisers cannot be replaced."""
        return self._graph

    def run(
        self,
        feeds: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        stop: Stop | None = None,
    ) -> list[NDArray[Any]]:
        """Compute the named outputs, until `stop`.

        Raises `InvalidArgument` for whole numbers too large, else `EngineError`.
        """
        for name, array in feeds.items():
            _refuse_large(name, array)
        # OpenVINO reads arrays where they lie, but for scalars wants to write.
        shared = {name: array if array.ndim else array.copy() for name, array in feeds.items()}
        request = self._requests.get()
        try:
            # Only what is started, and not awaited at once, is bound to run in a stream.
            request.start_async(shared, share_inputs=True)
            if stop is not None:
                stop.on_stop(request.cancel)
            request.wait()
            # The request's own buffers are overwritten by its next run.
            return [np.array(request.get_tensor(self._ports[name]).data) for name in outputs]
        except Exception as error:
            raise EngineError(f"OpenVINO failed: {error}") from error
        finally:
            if stop is not None:
                stop.on_stop(_nothing)  # the next run of the request is another's
            self._requests.put(request)


def _nothing() -> None:
    """End nothing."""


def _refuse_large(name: str, array: NDArray[Any]) -> None:
    """Refuse whole numbers beyond 32 bits, of which OpenVINO would keep 32 without a word."""
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 4 or array.dtype == np.int32:
        return
    for value in (array.min(initial=0), array.max(initial=0)):
        if not _INT32.min <= value <= _INT32.max:
            problem = f"holds {value}; OpenVINO takes {_INT32.min} to {_INT32.max}"
            raise InvalidArgument(("inputs", name), problem)


def _settings(streams: int, threads: int) -> dict[str, Any]:
    return {
        "NUM_STREAMS": streams,
        **({"INFERENCE_NUM_THREADS": max(streams, threads)} if threads else {}),
        "ENABLE_CPU_PINNING": False,
        # Else a CPU with bfloat16 computes in it, and gives other values than one without.
        "INFERENCE_PRECISION_HINT": "f32",
    }
