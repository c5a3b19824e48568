"""OpenVINO on the CPU.

Owns the compiled model's settings, its cache on disk and the requests that threads share. Must
not know texts, layouts or files other than the model's.
"""

from __future__ import annotations

import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vecserve_server.domain import Encodings
from vecserve_server.encoding.engine import EMBEDDING, NORM, Feeds
from vecserve_server.encoding.openvino_runtime import openvino_module
from vecserve_server.errors import ModelError


class OpenVinoEngine:
    """Implement `Engine` over one compiled model and request for each thread.

    Streams of one compiled model would share weights, but OpenVINO binds them to the threads that
    call, in no promised way. A thread that finds every request taken waits for one.
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
        """Compile the model for `threads` runs at once.

        Raises `ModelError` where OpenVINO is missing and where the model is unreadable or not a
        text encoder.
        """
        core = openvino_module().Core()
        settings = _settings(threads_per_run, cache_folder)
        try:
            models = [core.compile_model(model_file, "CPU", settings) for _ in range(threads)]
        except Exception as error:
            raise ModelError(f"{model_file}: not loadable by OpenVINO ({error})") from error
        self._inputs = frozenset(port.get_any_name() for port in models[0].inputs)
        self._dim = _embedding_dim(models[0], model_file)
        self._threads = threads
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for model in models:
            self._requests.put(model.create_infer_request())

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
        request = self._requests.get()
        try:
            return _infer(request, feeds)
        finally:
            self._requests.put(request)

    def warm_up(self, batches: Sequence[Feeds]) -> None:
        """See `Engine`."""

        def run_all(request: Any) -> None:
            for feeds in batches:
                _infer(request, feeds)

        requests = [self._requests.get() for _ in range(self._threads)]
        with ThreadPoolExecutor(self._threads, thread_name_prefix="warm-up") as pool:
            list(pool.map(run_all, requests))
        for request in requests:
            self._requests.put(request)

    def close(self) -> None:
        """See `Engine`."""
        while not self._requests.empty():
            self._requests.get()


def _infer(request: Any, feeds: Feeds) -> Encodings:
    request.infer(feeds, share_inputs=True)
    # The request's own buffers are overwritten by its next run.
    vectors = np.array(request.get_tensor(EMBEDDING).data)
    return Encodings(vectors, np.array(request.get_tensor(NORM).data))


def _settings(threads_per_run: int, cache_folder: Path | None) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads_per_run,
        "ENABLE_CPU_PINNING": False,
        # Else a CPU with bfloat16 computes in it, and gives other vectors than one without.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if cache_folder is not None:
        settings["CACHE_DIR"] = str(cache_folder)
    return settings


def _embedding_dim(compiled: Any, model_file: Path) -> int:
    shapes = {port.get_any_name(): port.get_partial_shape() for port in compiled.outputs}
    shape = shapes.get(EMBEDDING)
    if shape is None or NORM not in shapes or shape[len(shape) - 1].is_dynamic:
        found = {name: str(shape) for name, shape in shapes.items()}
        raise ModelError(
            f"{model_file}: the outputs must be {EMBEDDING} [N, dim] and {NORM} [N]; found {found}"
        )
    return int(shape[len(shape) - 1].get_length())
