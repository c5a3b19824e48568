"""The models that are being served.

Owns the look-up by name and version. Must not know how models are loaded or run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vecserve_server.encoding.model_repository import TextModel
from vecserve_server.errors import InvalidArgument, NotFound
from vecserve_server.scheduling.batcher import DynamicBatcher


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A loaded model with its batcher."""

    text: TextModel
    batcher: DynamicBatcher


class Catalog:
    """Served models by name."""

    def __init__(self, *, models: Iterable[ServedModel], default: str) -> None:
        self._models = {served.text.ref.name: served for served in models}
        self._default = default

    @property
    def default(self) -> str:
        """Name of the model that is used where a request names none."""
        return self._default

    def all(self) -> list[ServedModel]:
        """Return every served model, by name."""
        return [self._models[name] for name in sorted(self._models)]

    def get(self, name: str, version: str = "") -> ServedModel:
        """Find a model; empty strings ask for the default and the served version."""
        served = self._models.get(name or self._default)
        if served is None:
            raise NotFound(f"model: {name!r} is not loaded; loaded are {', '.join(self._models)}")
        if version and not version.isdecimal():
            raise InvalidArgument("model_version", f"{version!r} is not a decimal number")
        if version and version != served.text.ref.version:
            raise NotFound(
                f"model_version: version {version} of model {served.text.ref.name!r} "
                f"is not loaded; loaded is {served.text.ref.version}"
            )
        return served
