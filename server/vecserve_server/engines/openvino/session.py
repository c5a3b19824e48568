"""A graph in OpenVINO.

Owns the compiled model, its settings, and the requests that threads share. Must not know
configurations, texts or layouts.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.shapes import Shape
from vecserve_server.engines.engine import Feeds, SessionSettings
from vecserve_server.engines.openvino.branches import with_branches
from vecserve_server.engines.openvino.graph import described_by
from vecserve_server.engines.openvino.runtime import openvino_module
from vecserve_server.engines.time_limit import Stop
from vecserve_server.errors import EngineError, InvalidArgument, ModelError
from vecserve_server.model_files.graph import Graph
from vecserve_server.observability.logging import get_logger, log_event

_INT32 = np.iinfo(np.int32)


class OpenVinoSession:
    """Implement `Session` over a compiled model with a stream for every run that may go on at once.

    At first that is the model as it is: a stream finds kernels and buffers anew for each run whose
    shape is not that of the run before, which takes as long as some 25 tokens of a small model.
    Once it is specialised, runs of the usual shapes are spared that.
    """

    def __init__(self, model_file: Path, settings: SessionSettings) -> None:
        """Compile the file.

        Raises `ModelError` where OpenVINO is missing, and where the file is not loadable.
        """
        self._core = openvino_module().Core()
        self._model_file = model_file
        self._settings = settings
        _refuse_types(model_file, settings.described)
        folder = settings.cache_folder
        cached = {} if folder is None else {"CACHE_DIR": str(folder)}
        try:
            compiled = self._core.compile_model(model_file, "CPU", {**_options(settings), **cached})
            self._graph = _needed(settings.described or described_by(compiled))
            self._requests = _Requests(compiled, self._graph.outputs, settings.runs)
        except Exception as error:
            raise ModelError(f"{model_file}: not loadable by OpenVINO ({error})") from error
        self._warmed_up: Sequence[Feeds] = ()
        self._builder: threading.Thread | None = None
        self._closed = threading.Event()
        self._log = get_logger("encoding")

    @property
    def graph(self) -> Graph:
        """See `Session`; initialisers cannot be replaced."""
        return self._graph

    def run(
        self, feeds: Feeds, outputs: Sequence[str], stop: Stop | None = None
    ) -> list[NDArray[Any]]:
        """See `Session`; whole numbers beyond 32 bits are refused, unless they are token ids."""
        if not self._settings.is_encoder:
            for name, array in feeds.items():
                _refuse_large(name, array)
            # OpenVINO reads arrays where they lie, but for scalars wants to write.
            feeds = {name: array if array.ndim else array.copy() for name, array in feeds.items()}
        return self._requests.run(feeds, outputs, stop)

    def warm_up(self, batches: Sequence[Feeds]) -> None:
        """See `Session`."""
        self._warmed_up = batches
        self._requests.warm_up(batches)

    def specialise(self, shapes: Sequence[Shape]) -> None:
        """See `Session`; takes seconds of one core in a thread of its own."""
        if shapes:
            # Not a daemon: the end of the interpreter must not meet it inside the compiler.
            self._builder = threading.Thread(
                target=self._specialise, args=(shapes,), name="specialise"
            )
            self._builder.start()

    def await_specialised(self, timeout_s: float) -> bool:
        """See `Session`."""
        if self._builder is None:
            return True
        self._builder.join(timeout_s)
        return not self._builder.is_alive()

    def close(self) -> None:
        """See `Session`; what is being compiled is dropped when it is done."""
        self._closed.set()
        self._requests.close()

    def _specialise(self, shapes: Sequence[Shape]) -> None:
        started = time.perf_counter()
        try:
            model = with_branches(self._core.read_model(self._model_file), shapes)
            compiled = self._core.compile_model(model, "CPU", _options(self._settings))
            requests = _Requests(compiled, self._graph.outputs, self._settings.runs)
            if not self._closed.is_set():
                requests.warm_up(self._warmed_up)
        except Exception as error:  # noqa: BLE001 - the general graph goes on
            log_event(self._log, logging.WARNING, "not_specialised", reason=str(error))
            return
        if not self._closed.is_set():
            self._requests = requests
            took_ms = round(1e3 * (time.perf_counter() - started))
            log_event(self._log, logging.INFO, "specialised", shapes=len(shapes), took_ms=took_ms)


class _Requests:
    """A request for each stream of a compiled model.

    A thread that finds every request taken waits for one.
    """

    def __init__(self, compiled: Any, outputs: Mapping[str, Any], streams: int) -> None:
        ports = {name: port for port in compiled.outputs for name in port.get_names()}
        self._ports = {name: ports[name] for name in outputs}
        # The last one first: its buffers are still in the caches.
        self._free: queue.LifoQueue[Any] = queue.LifoQueue()
        self._streams = streams
        for _ in range(streams):
            self._free.put(compiled.create_infer_request())

    def run(self, feeds: Feeds, outputs: Sequence[str], stop: Stop | None) -> list[NDArray[Any]]:
        request = self._free.get()
        try:
            # Only what is started, and not awaited at once, is bound to run in a stream.
            request.start_async(feeds, share_inputs=True)
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
            self._free.put(request)

    def warm_up(self, batches: Sequence[Feeds]) -> None:
        """Run each batch in every stream: none is free for a second one before all have one."""
        requests = [self._free.get() for _ in range(self._streams)]
        for feeds in batches:
            for request in requests:
                request.start_async(feeds, share_inputs=True)
            for request in requests:
                request.wait()
        for request in requests:
            self._free.put(request)

    def close(self) -> None:
        while not self._free.empty():
            self._free.get()


def _nothing() -> None:
    """End nothing."""


def _needed(graph: Graph) -> Graph:
    needed = {name: each for name, each in graph.inputs.items() if not each.optional}
    return Graph(inputs=needed, outputs=graph.outputs)


def _refuse_types(model_file: Path, graph: Graph | None) -> None:
    for tensor in () if graph is None else (*graph.inputs.values(), *graph.outputs.values()):
        if tensor.datatype.name in ("BYTES", "BF16"):
            problem = f'"{tensor.name}" is {tensor.datatype.name}, not for OpenVINO'
            raise ModelError(f"{model_file}: {problem}")


def _refuse_large(name: str, array: NDArray[Any]) -> None:
    """Refuse whole numbers beyond 32 bits, of which OpenVINO would keep 32 without a word."""
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 4 or array.dtype == np.int32:
        return
    for value in (array.min(initial=0), array.max(initial=0)):
        if not _INT32.min <= value <= _INT32.max:
            problem = f"holds {value}; OpenVINO takes {_INT32.min} to {_INT32.max}"
            raise InvalidArgument(("inputs", name), problem)


def _options(settings: SessionSettings) -> dict[str, Any]:
    threads = settings.total_threads
    return {
        "NUM_STREAMS": settings.runs,
        **({"INFERENCE_NUM_THREADS": max(settings.runs, threads)} if threads else {}),
        "ENABLE_CPU_PINNING": False,
        # Else a CPU with bfloat16 computes in it, and gives other values than one without.
        "INFERENCE_PRECISION_HINT": "f32",
    }
