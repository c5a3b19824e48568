"""A graph in ONNX Runtime.

Owns the session and its options. Must not know configurations, batches or requests.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from vecserve_server.domain.shapes import Shape
from vecserve_server.engines.engine import Feeds, SessionSettings
from vecserve_server.engines.onnxruntime.byte_strings import ByteStrings
from vecserve_server.engines.onnxruntime.cpu import int8_products_saturate
from vecserve_server.engines.onnxruntime.providers import CPU_PROVIDER, CUDA_PROVIDER
from vecserve_server.engines.time_limit import Stop
from vecserve_server.errors import EngineError, ModelError, RequestError
from vecserve_server.model_files.graph import Graph, read_graph

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class OnnxRuntimeSession:
    """Implement `Session`: any number of threads may run it at once."""

    def __init__(self, model_file: Path, settings: SessionSettings) -> None:
        """Load the file, onto a GPU where one is named; raises `ModelError`."""
        self._session = _open(model_file, settings)
        if settings.device_id is not None and CUDA_PROVIDER not in self._session.get_providers():
            problem = f"GPU {settings.device_id} cannot be used by ONNX Runtime"
            raise ModelError(f"{model_file}: {problem}")
        self._graph = _graph(self._session, model_file)
        tensors = (*self._graph.inputs.values(), *self._graph.outputs.values())
        names = {each.datatype.name for each in tensors}
        self._takes_values = bool({"BF16", "BYTES"} & names)
        self._strings = ByteStrings() if "BYTES" in names else None
        self._run_entries = settings.run_entries

    @property
    def graph(self) -> Graph:
        """See `Session`."""
        return self._graph

    def run(
        self, feeds: Feeds, outputs: Sequence[str], stop: Stop | None = None
    ) -> list[NDArray[Any]]:
        """See `Session`; BYTES are object arrays of bytes. A run ends between two nodes."""
        options = self._options(stop)
        try:
            return self._compute(feeds, outputs, options)
        except InvalidArgument as error:
            raise RequestError(f"the model refuses the inputs: {error}") from error
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed: {error}") from error

    def warm_up(self, batches: Sequence[Feeds]) -> None:
        """See `Session`."""
        for feeds in batches:
            self.run(feeds, list(self._graph.outputs))

    def specialise(self, shapes: Sequence[Shape]) -> None:
        """See `Session`; the arena finds a shape's buffers at no cost."""

    def await_specialised(self, timeout_s: float) -> bool:  # noqa: ARG002 - at once
        """See `Session`."""
        return True

    def close(self) -> None:
        """See `Session`."""
        del self._session

    def _options(self, stop: Stop | None) -> onnxruntime.RunOptions | None:
        if stop is None and not self._run_entries:
            return None
        options = onnxruntime.RunOptions()
        if stop is not None:
            stop.on_stop(partial(setattr, options, "terminate", True))
        for key, value in self._run_entries.items():
            options.add_run_config_entry(key, value)
        return options

    def _compute(
        self,
        feeds: Feeds,
        outputs: Sequence[str],
        options: onnxruntime.RunOptions | None,
    ) -> list[NDArray[Any]]:
        if not self._takes_values:
            return cast("list[NDArray[Any]]", self._session.run(list(outputs), feeds, options))
        values = {name: self._to_value(array) for name, array in feeds.items()}
        found = self._session.run_with_ort_values(list(outputs), values, options)
        return [self._to_array(value) for value in found]

    def _to_value(self, array: NDArray[Any]) -> onnxruntime.OrtValue:
        if array.dtype == object and self._strings is not None:
            return self._strings.write(array)
        return _to_value(array)

    def _to_array(self, value: onnxruntime.OrtValue) -> NDArray[Any]:
        if value.data_type() == "tensor(string)" and self._strings is not None:
            return self._strings.read(value)
        return _to_array(value)


def _open(model_file: Path, settings: SessionSettings) -> onnxruntime.InferenceSession:
    onnxruntime.disable_telemetry_events()
    cuda = [(CUDA_PROVIDER, {**settings.cuda_options, "device_id": str(settings.device_id)})]
    try:
        return onnxruntime.InferenceSession(
            model_file,
            _options(settings),
            providers=[*(cuda if settings.device_id is not None else ()), CPU_PROVIDER],
        )
    except Exception as error:
        raise ModelError(f"{model_file}: not loadable by ONNX Runtime ({error})") from error


def _options(settings: SessionSettings) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    mode = onnxruntime.ExecutionMode
    options.graph_optimization_level = getattr(level, settings.graph_level)
    options.execution_mode = mode.ORT_PARALLEL if settings.parallel else mode.ORT_SEQUENTIAL
    options.intra_op_num_threads = settings.intra_op_threads
    options.inter_op_num_threads = settings.inter_op_threads
    # The arena stays on for encoders: bounded runs bound it, and runs without it take about 15 %
    # longer.
    options.enable_cpu_mem_arena = settings.memory_arena
    options.enable_mem_pattern = settings.memory_pattern
    options.log_severity_level = 3
    # Threads that spin between runs would take the cores from the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # The u8s8 kernels clip on a CPU without VNNI; this asks for exact ones. It would cost a factor
    # of 1.8 on a CPU that has VNNI and gives the same values without it.
    if settings.is_encoder and int8_products_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
    for key, value in settings.session_entries.items():
        options.add_session_config_entry(key, value)
    return options


# ONNX Runtime's Python interface knows no NumPy type for bfloat16: its bits go in as uint16 that
# are said to be bfloat16, and come out by their address.
def _to_value(array: NDArray[Any]) -> onnxruntime.OrtValue:
    if array.dtype != _BFLOAT16:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    bits = np.ascontiguousarray(array).view(np.uint16)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, onnx.TensorProto.BFLOAT16)


def _to_array(value: onnxruntime.OrtValue) -> NDArray[Any]:
    if value.data_type() != "tensor(bfloat16)":
        return cast("NDArray[Any]", value.numpy())
    shape = tuple(value.shape())
    size_bytes = math.prod(shape) * _BFLOAT16.itemsize
    memory = ctypes.string_at(value.data_ptr(), size_bytes) if size_bytes else b""
    return np.frombuffer(memory, _BFLOAT16).reshape(shape)


def _graph(session: onnxruntime.InferenceSession, model_file: Path) -> Graph:
    try:
        return read_graph(
            session.get_inputs(),
            session.get_overridable_initializers(),
            session.get_outputs(),
            scalars=lambda: _scalars(model_file),
        )
    except ModelError as error:
        raise ModelError(f"{model_file}: {error}") from error


def _scalars(model_file: Path) -> frozenset[str]:
    """Return the tensors that the file says have no dimensions; ONNX Runtime does not tell."""
    try:
        graph = onnx.load(model_file, load_external_data=False).graph
    except Exception:  # noqa: BLE001 - ONNX Runtime knows formats that this library does not
        return frozenset()
    shaped = [
        (each.name, each.type.tensor_type)
        for each in (*graph.input, *graph.output)
        if each.type.tensor_type.HasField("shape")
    ]
    return frozenset(name for name, kind in shaped if not kind.shape.dim)
