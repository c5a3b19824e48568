"""OpenVINO on the CPU.

Owns the compiled model's settings, its cache on disk, and the requests that threads share. Must
not know texts, layouts or files other than the model's.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vecserve_server.domain.shapes import Shape
from vecserve_server.domain.vectors import Encodings
from vecserve_server.engines.engine import EMBEDDING, NORM, Feeds
from vecserve_server.engines.openvino_branches import with_branches
from vecserve_server.engines.openvino_runtime import openvino_module
from vecserve_server.errors import ModelError
from vecserve_server.observability.logging import get_logger, log_event


class OpenVinoEngine:
    """Implement `Engine` over a compiled model with a stream for every thread.

    At first that is the model as it is: a stream finds kernels and buffers anew for each run whose
    shape is not that of the run before, which takes as long as some 25 tokens of a small model.
    Once it is specialised, runs of the usual shapes are spared that.
    """

    name = "openvino"

    def __init__(
        self,
        *,
        model_file: Path,
        threads: int,
        threads_per_run: int = 1,
        cache_folder: Path | None = None,
    ) -> None:
        """Compile the general graph for `threads` runs at once.

        Raises `ModelError` where OpenVINO is missing and where the model is unreadable or not a
        text encoder.
        """
        self._core = openvino_module().Core()
        self._settings = _settings(threads, threads_per_run)
        self._model_file = model_file
        self._threads = threads
        cached = {} if cache_folder is None else {"CACHE_DIR": str(cache_folder)}
        try:
            model = self._core.compile_model(model_file, "CPU", {**self._settings, **cached})
        except Exception as error:
            raise ModelError(f"{model_file}: not loadable by OpenVINO ({error})") from error
        self._inputs = frozenset(port.get_any_name() for port in model.inputs)
        self._dim = _embedding_dim(model, model_file)
        self._graph = _Graph(model, threads)
        self._warmed_up: Sequence[Feeds] = ()
        self._builder: threading.Thread | None = None
        self._closed = threading.Event()
        self._log = get_logger("encoding")

    @property
    def inputs(self) -> frozenset[str]:
        """See `Engine`."""
        return self._inputs

    @property
    def dim(self) -> int:
        """See `Engine`."""
        return self._dim

    def run(self, feeds: Feeds) -> Encodings:
        """See `Engine`."""
        return self._graph.run(feeds)

    def warm_up(self, batches: Sequence[Feeds]) -> None:
        """See `Engine`."""
        self._warmed_up = batches
        self._graph.warm_up(batches)

    def specialise(self, shapes: Sequence[Shape]) -> None:
        """See `Engine`; takes seconds of one core in a thread of its own."""
        if shapes:
            # Not a daemon: the end of the interpreter must not meet it inside the compiler.
            self._builder = threading.Thread(
                target=self._specialise, args=(shapes,), name="specialise"
            )
            self._builder.start()

    def await_specialised(self, timeout_s: float) -> bool:
        """See `Engine`."""
        if self._builder is None:
            return True
        self._builder.join(timeout_s)
        return not self._builder.is_alive()

    def close(self) -> None:
        """See `Engine`; what is being compiled is dropped when it is done."""
        self._closed.set()
        self._graph.close()

    def _specialise(self, shapes: Sequence[Shape]) -> None:
        started = time.perf_counter()
        try:
            model = with_branches(self._core.read_model(self._model_file), shapes)
            graph = _Graph(self._core.compile_model(model, "CPU", self._settings), self._threads)
            if not self._closed.is_set():
                graph.warm_up(self._warmed_up)
        except Exception as error:  # noqa: BLE001 - the general graph goes on
            log_event(self._log, logging.WARNING, "not_specialised", reason=str(error))
            return
        if not self._closed.is_set():
            self._graph = graph
            took_ms = round(1e3 * (time.perf_counter() - started))
            log_event(self._log, logging.INFO, "specialised", shapes=len(shapes), took_ms=took_ms)


class _Graph:
    """A compiled model, and a request for each of its streams.

    A thread that finds every request taken waits for one.
    """

    def __init__(self, compiled: Any, streams: int) -> None:
        # The last one first: its buffers are still in the caches.
        self._requests: queue.LifoQueue[Any] = queue.LifoQueue()
        self._streams = streams
        for _ in range(streams):
            self._requests.put(compiled.create_infer_request())

    def run(self, feeds: Feeds) -> Encodings:
        request = self._requests.get()
        try:
            # Only what is started, and not awaited at once, is bound to run in a stream.
            request.start_async(feeds, share_inputs=True)
            request.wait()
            # The request's own buffers are overwritten by its next run.
            vectors = np.array(request.get_tensor(EMBEDDING).data)
            return Encodings(vectors, np.array(request.get_tensor(NORM).data))
        finally:
            self._requests.put(request)

    def warm_up(self, batches: Sequence[Feeds]) -> None:
        """Run each batch in every stream: none is free for a second one before all have one."""
        requests = [self._requests.get() for _ in range(self._streams)]
        for feeds in batches:
            for request in requests:
                request.start_async(feeds, share_inputs=True)
            for request in requests:
                request.wait()
        for request in requests:
            self._requests.put(request)

    def close(self) -> None:
        while not self._requests.empty():
            self._requests.get()


def _settings(threads: int, threads_per_run: int) -> dict[str, Any]:
    return {
        "NUM_STREAMS": threads,
        "INFERENCE_NUM_THREADS": threads * threads_per_run,
        "ENABLE_CPU_PINNING": False,
        # Else a CPU with bfloat16 computes in it, and gives other vectors than one without.
        "INFERENCE_PRECISION_HINT": "f32",
    }


def _embedding_dim(compiled: Any, model_file: Path) -> int:
    shapes = {port.get_any_name(): port.get_partial_shape() for port in compiled.outputs}
    shape = shapes.get(EMBEDDING)
    if shape is None or NORM not in shapes or shape[len(shape) - 1].is_dynamic:
        found = {name: str(shape) for name, shape in shapes.items()}
        raise ModelError(
            f"{model_file}: the outputs must be {EMBEDDING} [N, dim] and {NORM} [N]; found {found}"
        )
    return int(shape[len(shape) - 1].get_length())
