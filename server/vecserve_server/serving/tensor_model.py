"""A model as the inference protocol sees it: tensors in, tensors out.

Owns the seam between the protocol and whatever computes. Must not know either side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2

from vecserve_server.domain.timings import Timings
from vecserve_server.domain.urgency import Urgency

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
"""Arrays by name, the batch dimension included; BYTES are object arrays of bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRequest:
    """What a caller asks of a model: tensors that its configuration has, and fit it.

    Whoever asks has checked names, datatypes, shapes and batch sizes against the configuration.
    """

    inputs: Tensors
    outputs: Sequence[str] = ()
    """The outputs that are wanted, in that order, each once; none: all."""
    priority: int = 0
    """1 is the highest; 0: the model's default."""
    timeout_us: int = 0
    """How long the request may wait in the queue, where the model lets a request say so; 0: as the
    model is configured."""
    deadline_ns: int | None = None
    """Monotonic time at which the caller stops waiting."""

    def urgency(self, now_ns: int) -> Urgency:
        """Say how soon it wants to be served, if it comes to the queue now."""
        timeout_ns = self.timeout_us * 1000
        return Urgency(
            priority=self.priority,
            deadline_ns=self.deadline_ns,
            start_by_ns=now_ns + timeout_ns if timeout_ns else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorReply:
    """What a model answers."""

    outputs: Tensors
    times: Timings
    cache_hit: bool = False


class TensorModel(Protocol):
    """One loaded version of a model. Loop only."""

    @property
    def name(self) -> str:
        """Name of the model."""
        ...

    @property
    def version(self) -> str:
        """Version, a decimal number."""
        ...

    @property
    def config(self) -> model_config_pb2.ModelConfig:
        """The configuration in force."""
        ...

    @property
    def unlisted_inputs(self) -> Sequence[model_config_pb2.ModelInput]:
        """Inputs that it takes although its configuration does not list them."""
        ...

    @property
    def labels(self) -> Mapping[str, Sequence[str]]:
        """Names of the classes, by output, where the model has them."""
        ...

    async def infer(self, request: TensorRequest) -> TensorReply:
        """Compute; raises the errors of `errors.py`, naming the tensor at fault."""
        ...
