"""What is known of one model and its versions.

Owns their states. Must not know how versions are loaded, nor what happens to retired ones. Loop
only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from vecserve_server.domain.models import ModelEntry, ModelState
from vecserve_server.errors import InvalidArgument, ModelUnavailable, UnknownModel
from vecserve_server.model_files.model_folders import Signature
from vecserve_server.serving.model_versions import LoadedVersion, ServedModel


@dataclass(slots=True)
class VersionRecord:
    """One version that somebody has asked to load."""

    loaded: LoadedVersion | None = None
    """What serves."""
    attempted: Signature | None = None
    """What its files were when it was last loaded, with success or without."""
    loading: bool = False
    draining: int = 0
    """Retired loads of it that are still in use."""
    reason: str = ""
    """Why it does not serve, or why its last change is not in force."""

    @property
    def state(self) -> ModelState:
        """Where it stands."""
        if self.loaded is not None:
            return ModelState.READY
        if self.loading:
            return ModelState.LOADING
        return ModelState.UNLOADING if self.draining else ModelState.UNAVAILABLE


@dataclass(slots=True)
class ModelRecord:
    """One model that somebody has asked to load."""

    name: str
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever changes which versions are loaded."""
    versions: dict[str, VersionRecord] = field(default_factory=dict)
    found: Mapping[str, Signature] | None = None
    """What the repository held when the model was last loaded."""
    chosen: frozenset[str] = frozenset()
    """The versions that its policy admits."""
    reason: str = ""
    """Why not even its versions are known."""
    is_listed: bool = False
    """Whether it lay in the repository when it was last loaded."""
    config_json: str | None = None
    """What stands in for the configuration in its folder until it is unloaded."""

    def version(self, version: str) -> VersionRecord:
        """Return a version's record, made where there is none."""
        return self.versions.setdefault(version, VersionRecord())

    def serving(self) -> dict[str, LoadedVersion]:
        """Return the versions that serve, oldest first."""
        return {
            number: record.loaded
            for number, record in sorted(self.versions.items(), key=_number)
            if record.loaded is not None
        }

    def texts(self) -> dict[str, ServedModel]:
        """Return the versions that serve and embed texts, in no order."""
        return {
            number: record.loaded.text
            for number, record in self.versions.items()
            if record.loaded is not None and record.loaded.text is not None
        }

    def find(self, version: str) -> LoadedVersion:
        """Return a version that serves, the latest when empty.

        Raises UnknownModel where there is none, ModelUnavailable for one that does not serve now,
        and InvalidArgument.
        """
        ready = (number for number, record in self.versions.items() if record.loaded is not None)
        number = version or max(ready, key=int, default="")
        record = self.versions.get(number)
        if record is not None and record.loaded is not None:
            return record.loaded
        if version and not (version.isascii() and version.isdecimal()):
            raise InvalidArgument("model_version", f"{version!r} is not a decimal number")
        if not version:
            raise UnknownModel(self.name, "has no available versions")
        if record is None:
            raise UnknownModel(self.name, f"version {version} is not found")
        raise ModelUnavailable(self.name, version, record.state.value)

    def entries(self) -> list[ModelEntry]:
        """Return the model's lines of the index, oldest version first."""
        if not self.versions:
            return [
                ModelEntry(
                    self.name, "", ModelState.UNAVAILABLE if self.reason else None, self.reason
                )
            ]
        return [
            ModelEntry(self.name, number, record.state, record.reason)
            for number, record in sorted(self.versions.items(), key=_number)
        ]

    def forget(self, version: str) -> bool:
        """Drop a version that neither serves nor lies in the repository; tell whether it did."""
        record = self.versions.get(version)
        if (
            record is None
            or record.state is not ModelState.UNAVAILABLE
            or version in (self.found or ())
        ):
            return False
        del self.versions[version]
        return True


def _number(item: tuple[str, VersionRecord]) -> int:
    return int(item[0])
