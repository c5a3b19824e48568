"""A loaded version of a model, and what it takes to get one.

Owns the seam between the control of models and the kinds of models that there are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vecserve.inference import model_config_pb2
from vecserve_server.domain.inputs import Modality
from vecserve_server.domain.tensors import Infer
from vecserve_server.domain.vectors import Encodings, TokenIds
from vecserve_server.encoding.preprocessor import Preprocessor
from vecserve_server.encoding.text_model import TextModel
from vecserve_server.observability.model_statistics import ModelStatistics
from vecserve_server.scheduling.compute import Compute
from vecserve_server.serving.leases import Leases


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSource:
    """What to load."""

    root: Path
    """A folder laid out as a model repository."""
    name: str
    version: str
    proto: model_config_pb2.ModelConfig
    """The configuration to load it with, which need not be the one in the folder."""

    @property
    def folder(self) -> Path:
        """The model's folder."""
        return self.root / self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """What embeds inputs: a loaded encoder, and what computes for it."""

    text: TextModel
    compute: Compute[Sequence[TokenIds], Encodings]
    preprocessors: Mapping[Modality, Preprocessor]
    """What prepares the inputs that it takes."""
    leases: Leases = field(default_factory=Leases)
    """Hold one while it computes: the model may be replaced at any time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedVersion:
    """A version that is warm and ready to answer; `TensorModel` of services/inference.py."""

    name: str
    version: str
    config: model_config_pb2.ModelConfig
    """The configuration in force."""
    infer: Infer
    digest: str
    """Two versions with the same digest give the same answers."""
    queued: Callable[[], int] = lambda: 0
    """Tells what waits for a run at this moment."""
    close: Callable[[float], Awaitable[bool]]
    """Free it, within so many seconds; nobody uses it any more."""
    unlisted_inputs: Sequence[model_config_pb2.ModelInput] = ()
    """Inputs that it takes although its configuration does not list them."""
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of the classes, by output, where the model has them."""
    text: ServedModel | None = None
    """What embeds texts with it; None for a model that is no text encoder."""
    leases: Leases = field(default_factory=Leases)
    """Who uses it; the same as those of `text`."""


class VersionLoader(Protocol):
    """One kind of model. Loop only."""

    def accepts(self, proto: model_config_pb2.ModelConfig) -> bool:
        """Tell whether the configuration asks for this kind."""
        ...

    async def load(self, source: VersionSource, statistics: ModelStatistics) -> LoadedVersion:
        """Load and warm up; runs are counted in `statistics`.

        Raises ModelError for a configuration or a file that is wrong.
        """
        ...
