"""The text models that are being served.

Owns the look-up by name, version and weights. Must not know how models are loaded or run, nor
when they come and go. Loop only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vecserve_server.domain.inputs import Modality
from vecserve_server.domain.vectors import ModelRef
from vecserve_server.encoding.preprocessor import Preprocessor
from vecserve_server.encoding.text_model import TextModel
from vecserve_server.errors import InvalidArgument, NotFound
from vecserve_server.scheduling.batcher import DynamicBatcher
from vecserve_server.serving.leases import Leases


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A loaded model with its batcher."""

    text: TextModel
    batcher: DynamicBatcher
    preprocessors: Mapping[Modality, Preprocessor]
    """What prepares the inputs that it takes."""
    leases: Leases = field(default_factory=Leases)
    """Hold one while the batcher is in use: the model may be replaced at any time."""


class Catalog:
    """Served models by name and version."""

    def __init__(self, *, default: str) -> None:
        self._versions: dict[str, dict[str, ServedModel]] = {}
        self._default = default
        self._watchers: list[Callable[[ServedModel], None]] = []

    @property
    def default(self) -> str:
        """Name of the model that is used where a request names none."""
        return self._default

    def all(self) -> list[ServedModel]:
        """Return every served version, by name, oldest first."""
        return [
            versions[version]
            for _, versions in sorted(self._versions.items())
            for version in sorted(versions, key=int)
        ]

    def get(self, name: str, version: str = "") -> ServedModel:
        """Find a model; empty strings ask for the default and the latest served version."""
        name = name or self._default
        versions = self._versions.get(name)
        if not versions:
            raise NotFound(f"model: {name!r} is not loaded; loaded are {', '.join(self._versions)}")
        if version and not version.isdecimal():
            raise InvalidArgument("model_version", f"{version!r} is not a decimal number")
        if version and version not in versions:
            raise NotFound(
                f"model_version: version {version} of model {name!r} "
                f"is not loaded; loaded is {', '.join(versions)}"
            )
        return versions[version or max(versions, key=int)]

    def with_weights(self, ref: ModelRef) -> ServedModel:
        """Find the version that made a vector, or the latest where it is not served."""
        versions = self._versions.get(ref.name, {}).values()
        same = [served for served in versions if served.text.ref.digest == ref.digest]
        return same[0] if same else self.get(ref.name)

    def watch(self, watcher: Callable[[ServedModel], None]) -> None:
        """Let a watcher hear of every version that comes to serve, once others can find it."""
        self._watchers.append(watcher)

    def put(self, served: ServedModel) -> None:
        """Serve a version, in place of the one that has its number."""
        ref = served.text.ref
        self._versions.setdefault(ref.name, {})[ref.version] = served
        for watcher in self._watchers:
            watcher(served)

    def remove(self, served: ServedModel) -> None:
        """Stop serving a version, unless another has taken its place."""
        ref = served.text.ref
        versions = self._versions.get(ref.name, {})
        if versions.get(ref.version) is served:
            del versions[ref.version]
        if not versions:
            self._versions.pop(ref.name, None)
