"""An encoder that runs a packed-rows graph in ONNX Runtime, on the CPU.

Owns the session's settings and the way from sequences to vectors. Must not know texts, queues or
files other than the one it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from vecserve_server.domain import TokenIds, Vectors
from vecserve_server.encoding.cpu import int8_products_saturate
from vecserve_server.encoding.packing import Row, pack, plan_rows, plan_runs
from vecserve_server.errors import ModelError

_OUTPUT = "embedding"
_INPUTS = ("input_ids", "position_ids", "segment_ids", "seqs")


class OnnxEncoder:
    """Implement `Encoder` over one session, which any number of threads may run at once."""

    def __init__(
        self,
        *,
        model_file: Path,
        max_tokens: int,
        row_tokens: int,
        run_tokens: int,
        intra_op_threads: int = 1,
    ) -> None:
        """Load the model; raises `ModelError` where it is unreadable or not a packed-rows graph."""
        self._session = _session(model_file, intra_op_threads)
        self._dim = _embedding_dim(self._session, model_file)
        self._max_tokens = max_tokens
        self._row_tokens = row_tokens
        self._run_tokens = run_tokens

    @property
    def dim(self) -> int:
        """See `Encoder`."""
        return self._dim

    @property
    def max_tokens(self) -> int:
        """See `Encoder`."""
        return self._max_tokens

    def run(self, sequences: Sequence[TokenIds]) -> Vectors:
        """See `Encoder`; more than the run budget is computed in several runs."""
        lengths = [len(ids) for ids in sequences]
        vectors = np.empty((len(sequences), self._dim), np.float32)
        rows = plan_rows(lengths, self._row_tokens)
        for run in plan_runs(rows, lengths, self._run_tokens):
            order = [index for row in run for index in row]
            vectors[order] = self._run_rows(sequences, run)
        return vectors

    def close(self) -> None:
        """See `Encoder`."""
        del self._session

    def _run_rows(self, sequences: Sequence[TokenIds], rows: Sequence[Row]) -> Vectors:
        result: list[Any] = self._session.run([_OUTPUT], pack(sequences, rows))
        vectors: Vectors = result[0]
        return vectors


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
    inputs = {value.name for value in session.get_inputs()}
    shapes = {value.name: value.shape for value in session.get_outputs()}
    if inputs != set(_INPUTS) or not isinstance(shapes.get(_OUTPUT, [None])[-1], int):
        raise ModelError(
            f"{model_file}: inputs must be {', '.join(_INPUTS)} and the output "
            f"{_OUTPUT} [N, dim]; found {sorted(inputs)} and {shapes}"
        )
    return int(shapes[_OUTPUT][-1])
