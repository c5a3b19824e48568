"""What the inference protocol asks of the models that are served.

Owns the seam between the gateway and whatever loads, swaps and counts models. Must not know
either side.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from vecserve_server.observability.model_statistics import VersionStatistics
from vecserve_server.serving.tensor_model import TensorModel

READY, UNAVAILABLE = "READY", "UNAVAILABLE"
LOADING, UNLOADING = "LOADING", "UNLOADING"


class ModelEntry(NamedTuple):
    """One version of a model in the repository."""

    name: str
    version: str
    """Empty where the model has no version that could be named."""
    state: str
    """READY, UNAVAILABLE, LOADING, UNLOADING, or empty where nobody asked for the model yet."""
    reason: str
    """Why it is not ready, or why its last change is not in force."""


class ModelControl(Protocol):
    """Every model by name and version. Loop only.

    An empty version asks for the one that is served by default. The methods raise NotFound for a
    model that nobody knows, FailedPrecondition where the control mode forbids the call, and
    ModelError for one that cannot be loaded.
    """

    async def index(self, ready_only: bool) -> Sequence[ModelEntry]:
        """List the models of the repository, or only those that are ready."""
        ...

    async def load(
        self,
        name: str,
        config_json: str | None = None,
        files: MutableMapping[str, bytes] | None = None,
    ) -> None:
        """Load or reload a model; ends when it is ready.

        `config_json` stands in for its configuration. `files` are its contents by their path below
        the model's folder, such as `1/model.onnx`, and stand in for all of its versions; with them
        comes a configuration. The mapping is emptied once they are no longer needed in memory.
        """
        ...

    async def unload(self, name: str, unload_dependents: bool) -> None:
        """Take a model out of service; its requests in progress are answered."""
        ...

    async def statistics(self, name: str, version: str) -> Sequence[VersionStatistics]:
        """Return what was counted for each version; an empty name asks for all models."""
        ...

    def lease(self, name: str, version: str) -> AbstractContextManager[TensorModel]:
        """Hold a ready version in place while a request uses it."""
        ...

    def is_ready(self, name: str, version: str) -> bool:
        """Tell whether a version takes requests; unknown ones do not."""
        ...
