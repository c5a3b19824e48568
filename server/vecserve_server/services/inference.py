"""Infer with any model, and say which models serve: the use cases of the inference protocol.

Owns the face that a gateway sees, and what must stand behind it. Must not know protocols, nor how
models come and go.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from vecserve.inference import model_config_pb2
from vecserve_server.domain.caller import Caller
from vecserve_server.domain.models import ModelEntry
from vecserve_server.domain.tensors import Infer
from vecserve_server.observability.model_statistics import VersionStatistics


class TensorModel(Protocol):
    """A version that is ready: tensors in, tensors out. Loop only."""

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

    @property
    def infer(self) -> Infer:
        """Compute an answer."""
        ...


class Models(Protocol):
    """Every model by name and version. Loop only.

    An empty version asks for the one that is served by default. The methods raise UnknownModel for
    a model that nobody knows, FailedPrecondition where the control mode forbids the call, and
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
        Raises InvalidArgument at `("config",)`, `("files",)` or `("files", path)`.
        """
        ...

    async def unload(self, name: str, unload_dependents: bool) -> None:
        """Take a model out of service; its requests in progress are answered."""
        ...

    async def statistics(self, name: str, version: str) -> Sequence[VersionStatistics]:
        """Return what was counted for each version; an empty name asks for all models.

        Raises InvalidArgument at `("name",)` or `("version",)` where none serves.
        """
        ...

    def lease(self, name: str, version: str) -> AbstractContextManager[TensorModel]:
        """Hold a ready version in place while a request uses it.

        Raises UnknownModel, InvalidArgument at `("model_version",)`, or ModelUnavailable.
        """
        ...

    def is_ready(self, name: str, version: str) -> bool:
        """Tell whether a version takes requests; unknown ones do not."""
        ...


class InferenceService:
    """Hold, load, unload and count models for callers. Loop only.

    Whether a caller may, will be asked here; today all are anonymous, and may.
    """

    def __init__(self, *, models: Models) -> None:
        self._models = models

    def lease(
        self,
        name: str,
        version: str,
        caller: Caller,
    ) -> AbstractContextManager[TensorModel]:
        """See `Models.lease`."""
        return self._models.lease(name, version)

    def is_ready(self, name: str, version: str, caller: Caller) -> bool:
        """See `Models.is_ready`."""
        return self._models.is_ready(name, version)

    async def index(self, caller: Caller, *, ready_only: bool) -> Sequence[ModelEntry]:
        """See `Models.index`."""
        return await self._models.index(ready_only)

    async def statistics(
        self,
        name: str,
        version: str,
        caller: Caller,
    ) -> Sequence[VersionStatistics]:
        """See `Models.statistics`."""
        return await self._models.statistics(name, version)

    async def load(
        self,
        name: str,
        config_json: str | None,
        files: MutableMapping[str, bytes],
        caller: Caller,
    ) -> None:
        """See `Models.load`."""
        await self._models.load(name, config_json, files)

    async def unload(self, name: str, caller: Caller, *, unload_dependents: bool) -> None:
        """See `Models.unload`."""
        await self._models.unload(name, unload_dependents)
