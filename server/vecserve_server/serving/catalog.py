"""Every model that somebody has asked to load, and which of its versions serve.

Owns the records by name, and the look-up of text encoders by name, version and weights. Must not
know how models are loaded or run, nor when they come and go. Loop only.
"""

from __future__ import annotations

from collections.abc import Callable

from vecserve_server.domain.vectors import ModelRef
from vecserve_server.errors import InvalidArgument, NotFound
from vecserve_server.serving.model_record import ModelRecord
from vecserve_server.serving.model_versions import LoadedVersion, ServedModel


class Catalog:
    """Models by name and version: the one place that says what serves."""

    def __init__(self, *, default: str) -> None:
        self._default = default
        self._watchers: list[Callable[[ServedModel], None]] = []
        self.records: dict[str, ModelRecord] = {}
        """By name; only `ModelLifecycle` changes them."""

    @property
    def default(self) -> str:
        """Name of the model that is used where a request names none."""
        return self._default

    def all(self) -> list[ServedModel]:
        """Return every text encoder that serves, by name, oldest first."""
        return [
            texts[version]
            for _, record in sorted(self.records.items())
            for texts in (record.texts(),)
            for version in sorted(texts, key=int)
        ]

    def get(self, name: str, version: str = "") -> ServedModel:
        """Find an encoder; empty strings ask for the default and the latest served version."""
        name = name or self._default
        versions = self._texts(name)
        if not versions:
            loaded = ", ".join(key for key in self.records if self._texts(key))
            raise NotFound(f"model: {name!r} is not loaded; loaded are {loaded}")
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
        versions = self._texts(ref.name).values()
        same = [served for served in versions if served.text.ref.digest == ref.digest]
        return same[0] if same else self.get(ref.name)

    def watch(self, watcher: Callable[[ServedModel], None]) -> None:
        """Let a watcher hear of every encoder that comes to serve, once others can find it."""
        self._watchers.append(watcher)

    def put(self, loaded: LoadedVersion) -> None:
        """Serve a version, in place of the one that has its number."""
        record = self.records.setdefault(loaded.name, ModelRecord(loaded.name))
        record.version(loaded.version).loaded = loaded
        if loaded.text is not None:
            for watcher in self._watchers:
                watcher(loaded.text)

    def _texts(self, name: str) -> dict[str, ServedModel]:
        record = self.records.get(name)
        return record.texts() if record is not None else {}
