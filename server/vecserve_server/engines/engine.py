"""The seam between models and the runtimes that compute them.

Owns what an engine can do, as data, and the interface of a loaded graph; text encoders and ONNX
models use both. Must not know any runtime, texts or configurations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from numpy.typing import NDArray

from vecserve_server.domain.shapes import Shape
from vecserve_server.engines.time_limit import Stop
from vecserve_server.model_files.encoder_config import CPU
from vecserve_server.model_files.graph import Graph

Feeds: TypeAlias = Mapping[str, NDArray[Any]]
"""Arrays by input name."""


class Session(Protocol):
    """A loaded graph. Synchronous; safe to call from several threads."""

    @property
    def graph(self) -> Graph:
        """The tensors that it takes and gives."""
        ...

    def run(
        self, feeds: Feeds, outputs: Sequence[str], stop: Stop | None = None
    ) -> list[NDArray[Any]]:
        """Compute the named outputs, until `stop`; the arrays are the caller's own.

        Raises `RequestError` for values that the graph cannot take, else `EngineError`.
        """
        ...

    def warm_up(self, batches: Sequence[Feeds]) -> None:
        """Run the batches wherever later runs may happen, so that those find all prepared."""
        ...

    def specialise(self, shapes: Sequence[Shape]) -> None:
        """Begin to prepare for runs of these shapes, so that they take less time.

        Returns at once. Runs give the same vectors before and after. An engine that gains nothing
        by it does nothing. At most once.
        """
        ...

    def await_specialised(self, timeout_s: float) -> bool:
        """Return whether specialising is over, after at most that long."""
        ...

    def close(self) -> None:
        """Free the graph. No run may be in progress."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """How a graph is to be loaded. An engine leaves out what it has no use for."""

    runs: int = 1
    """That may go on at once."""
    intra_op_threads: int = 1
    """Of one operator; 0: the engine's default."""
    inter_op_threads: int = 1
    """0: the engine's default."""
    total_threads: int = 0
    """Of all runs together, for an engine that shares them out; 0: its default."""
    device_id: int | None = None
    """The GPU; None: the CPU."""
    cache_folder: Path | None = None
    """Where the engine may keep what it compiles, if it does; None: nowhere."""
    described: Graph | None = None
    """The tensors as ONNX Runtime describes them, where they must be called and typed alike."""
    is_encoder: bool = False
    """Feeds are then token ids, checked before; int8 graphs count on products that do not clip."""
    graph_level: str = "ORT_ENABLE_ALL"
    """Name in `onnxruntime.GraphOptimizationLevel`."""
    parallel: bool = False
    """Whether operators of one run may run side by side."""
    memory_arena: bool = True
    memory_pattern: bool = False
    """Off by default: a pattern is kept for every shape ever seen."""
    session_entries: Mapping[str, str] = field(default_factory=dict)
    run_entries: Mapping[str, str] = field(default_factory=dict)
    cuda_options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSupport:
    """Which text encoders an engine runs."""

    layouts: frozenset[str]
    """`packed`, `padded`."""
    files: Mapping[str, tuple[str, ...]]
    """By precision, in a version's folder: the file to open, and those that it reads."""
    devices: frozenset[str] = frozenset({CPU})


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A runtime, and what it can do."""

    name: str
    """In configurations, in measurements, and in what the server says of a model."""
    is_installed: Callable[[], bool]
    """Tell whether it can be had here."""
    version: Callable[[], str]
    """Return its version, which timings depend on."""
    open: Callable[[Path, SessionSettings], Session]
    """Load a file; raises `ModelError` where the engine is missing or the file not loadable."""
    encoders: EncoderSupport
    devices: Callable[[], frozenset[str]] = lambda: frozenset({CPU})
    """Return where it runs ONNX models here."""
    runs_onnx_models: bool = False
    """Whether a configuration may choose it for any ONNX model."""
    accelerator: Literal["cpu", "gpu"] | None = None
    """Which of Triton's lists of execution accelerators names it; None: the parameter `engine`."""
    compiled_folder: str | None = None
    """Under the repository's cache: where it keeps compiled models, apart from other engines."""
