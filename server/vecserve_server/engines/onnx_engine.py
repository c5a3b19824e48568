"""ONNX Runtime on the CPU.

Owns the session's settings. Must not know texts, layouts or files other than the one it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from vecserve_server.domain.shapes import Shape
from vecserve_server.domain.vectors import Encodings
from vecserve_server.engines.cpu import int8_products_saturate
from vecserve_server.engines.engine import EMBEDDING, NORM, Feeds
from vecserve_server.errors import ModelError


class OnnxEngine:
    """Implement `Engine` over one session, which any number of threads may run at once."""

    name = "onnxruntime"

    def __init__(self, *, model_file: Path, intra_op_threads: int = 1) -> None:
        """Load the model; raises `ModelError` where it is unreadable or not a text encoder."""
        self._session = _session(model_file, intra_op_threads)
        self._inputs = frozenset(value.name for value in self._session.get_inputs())
        self._dim = _embedding_dim(self._session, model_file)

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
        result: list[Any] = self._session.run([EMBEDDING, NORM], feeds)
        return Encodings(result[0], result[1])

    def warm_up(self, batches: Sequence[Feeds]) -> None:
        """See `Engine`."""
        for feeds in batches:
            self.run(feeds)

    def specialise(self, shapes: Sequence[Shape]) -> None:
        """See `Engine`; a session finds a shape's buffers at no cost."""

    def await_specialised(self, timeout_s: float) -> bool:  # noqa: ARG002 - at once
        """See `Engine`."""
        return True

    def close(self) -> None:
        """See `Engine`."""
        del self._session


def _session(model_file: Path, intra_op_threads: int) -> onnxruntime.InferenceSession:
    onnxruntime.disable_telemetry_events()
    try:
        return onnxruntime.InferenceSession(
            model_file, _options(intra_op_threads), providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ModelError(f"{model_file}: not loadable by ONNX Runtime ({error})") from error


def _options(intra_op_threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # A pattern is kept for every shape ever seen; packed rows have many shapes. The arena stays on:
    # bounded runs bound it, and runs without it take about 15 % longer.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The u8s8 kernels clip on a CPU without VNNI; this asks for exact ones. It would cost a factor
    # of 1.8 on a CPU that has VNNI and gives the same values without it.
    if int8_products_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _embedding_dim(session: onnxruntime.InferenceSession, model_file: Path) -> int:
    shapes = {value.name: value.shape for value in session.get_outputs()}
    dim = shapes.get(EMBEDDING, [None])[-1]
    if not isinstance(dim, int) or NORM not in shapes:
        raise ModelError(
            f"{model_file}: the outputs must be {EMBEDDING} [N, dim] and {NORM} [N]; found {shapes}"
        )
    return dim
