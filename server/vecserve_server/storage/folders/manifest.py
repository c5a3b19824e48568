"""The manifest of a collection: what the collection is and which generation serves, on disk.

Owns the file's content. Must not know rows.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast

from vecserve_server.checked_json import find_checked_json, write_checked_json
from vecserve_server.domain.collections import (
    CollectionSpec,
    FieldSpec,
    FieldType,
    TextAnalysis,
    Tokeniser,
)
from vecserve_server.domain.vectors import ModelRef
from vecserve_server.errors import ConfigError, CorruptData

_FILE_NAME = "MANIFEST"
_VERSION = 2
_READABLE = (1, _VERSION)
UNKNOWN = (TypeError, ValueError, KeyError, AttributeError)
"""What reading the content of a newer vecserve raises."""
UNNUMBERED = 0
"""The generation of a collection whose rows lie in its own folder, as format 1 had it."""

T = TypeVar("T")
ReindexState: TypeAlias = Literal["running", "evaluating", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One set of a collection's rows with the vectors of one model."""

    number: int
    model: ModelRef
    dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retired:
    """The generation that served before, kept to go back to."""

    generation: Generation
    retired_unix_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reindex:
    """The last re-index of a collection."""

    id: str
    generation: Generation
    """The one that it builds or built."""
    state: ReindexState = "running"
    message: str = ""
    """Why it failed."""
    self_hit_rate: float = 0.0
    """Share of the sampled rows that their own new vector finds."""
    overlap: float = 0.0
    """Share of common rows among the ten nearest before and after, mean over the sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that is known of a collection beside its rows."""

    spec: CollectionSpec
    """Its model and dim are those of the generation that serves."""
    generation: int = 1
    """The one that serves."""
    previous: Retired | None = None
    reindex: Reindex | None = None

    @property
    def live(self) -> Generation:
        """The generation that serves."""
        return Generation(number=self.generation, model=self.spec.model, dim=self.spec.dim)

    @property
    def needed(self) -> list[Generation]:
        """The generations whose files are in use."""
        needed = [self.live]
        if self.previous is not None:
            needed.append(self.previous.generation)
        if self.reindex is not None and self.reindex.state in ("running", "evaluating"):
            needed.append(self.reindex.generation)
        return needed


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of the collection in `folder`, atomically and durably.

    Raises StorageError.
    """
    content = dataclasses.asdict(manifest)
    content["collection"] = content.pop("spec")
    write_checked_json(folder / _FILE_NAME, {"version": _VERSION, **content})


def has_manifest(folder: Path) -> bool:
    """Tell whether the collection in `folder` would be known to the next start."""
    return (folder / _FILE_NAME).exists()


def read_manifest(folder: Path) -> Manifest:
    """Read and verify the manifest of the collection in `folder`.

    One of format 1 has the generation UNNUMBERED. Raises CorruptData if it is missing or damaged,
    StorageError if it cannot be read, ConfigError if a newer vecserve wrote it.
    """
    path = folder / _FILE_NAME
    content = find_checked_json(path)
    if content is None:
        raise CorruptData(f"{path}: the collection's manifest is missing")
    if content["version"] not in _READABLE:
        raise ConfigError(
            f"{path}: has version {content['version']}, this vecserve reads up to {_VERSION}"
        )
    try:
        return _manifest(content)
    except UNKNOWN as error:
        raise ConfigError(
            f"{path}: holds what this vecserve does not know: {error}; serve it with the vecserve "
            "that wrote it, or a newer one"
        ) from error


def _manifest(content: dict[str, Any]) -> Manifest:
    spec = read_spec(content["collection"])
    if content["version"] == 1:
        return Manifest(spec=spec, generation=UNNUMBERED)
    return Manifest(
        spec=spec,
        generation=content["generation"],
        previous=_retired(content["previous"]),
        reindex=_reindex(content["reindex"]),
    )


def read_spec(content: dict[str, Any]) -> CollectionSpec:
    """Make a spec of what `dataclasses.asdict` wrote of it; format 1 lacks what has a default.

    Raises one of UNKNOWN where another vecserve wrote it.
    """
    decoded = _with_model(content)
    if "fields" in decoded:
        decoded["fields"] = tuple(map(_field, decoded["fields"]))
    if "text_analysis" in decoded:
        decoded["text_analysis"] = _analysis(decoded["text_analysis"])
    return made_of(CollectionSpec, decoded)


def made_of(kind: type[T], content: dict[str, Any]) -> T:
    """Make a dataclass of its fields by name. Raises one of UNKNOWN that names the key."""
    known = {entry.name for entry in dataclasses.fields(cast("Any", kind))}
    if unknown := sorted(content.keys() - known):
        raise ValueError(f"the key {unknown[0]!r}")
    return kind(**content)


def _field(content: dict[str, Any]) -> FieldSpec:
    return made_of(FieldSpec, {**content, "type": FieldType(content["type"])})


def _analysis(content: dict[str, Any]) -> TextAnalysis:
    return made_of(TextAnalysis, {**content, "tokeniser": Tokeniser(content["tokeniser"])})


def _retired(content: dict[str, Any] | None) -> Retired | None:
    if content is None:
        return None
    return made_of(Retired, {**content, "generation": _generation(content["generation"])})


def _reindex(content: dict[str, Any] | None) -> Reindex | None:
    if content is None:
        return None
    return made_of(Reindex, {**content, "generation": _generation(content["generation"])})


def _generation(content: dict[str, Any]) -> Generation:
    return made_of(Generation, _with_model(content))


def _with_model(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "model": made_of(ModelRef, content["model"])}
