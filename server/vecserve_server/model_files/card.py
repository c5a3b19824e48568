"""The card: what a model version is, where it came from and what its files must hash to.

Owns `card.json`. Must not know ONNX or how the files are made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from vecserve_server.errors import ModelError
from vecserve_server.model_files.layout import CARD_FILE

EXPORTER_VERSION = 6
"""Rises whenever the same checkpoint would give different files."""

IMPORT_AGAIN = "import it again (`vecserve models add ... --replace`)"
"""What mends a version whose files are not whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigest:
    """What a file of the version must be."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthParity:
    """How close texts of some lengths come to fp32 (cosines)."""

    from_tokens: int
    to_tokens: int
    texts: int
    cosine_mean: float
    cosine_min: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How close a precision comes to fp32, and a text alone to itself in a batch (cosines)."""

    cosine_mean: float
    cosine_min: float
    batch_cosine_min: float
    by_length: tuple[LengthParity, ...] = ()
    """From the shortest texts to the longest that were measured; older cards have none."""

    def falls_below(self, cosine_mean: float) -> int | None:
        """Return the length in tokens from which on texts are further from fp32 on average."""
        below = (band for band in self.by_length if band.cosine_mean < cosine_mean)
        return next((band.from_tokens for band in below), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """The provenance and the contents of one model version."""

    name: str
    version: str
    dim: int
    max_tokens: int
    files: Mapping[str, FileDigest]
    """Every file of the version but the card itself, by name."""
    exporter_version: int = 0
    source: str = ""
    source_sha256: Mapping[str, str] = field(default_factory=dict)
    """Of the checkpoint's files, by name."""
    licence: str | None = None
    architecture: str = ""
    pooling: str = ""
    parity: Mapping[str, Parity] = field(default_factory=dict)
    """By precision."""
    revision: str | None = None
    """The commit of the source, where it has one."""
    layout: str = "packed"
    """Whether the graph takes packed rows or padded batches."""
    normalise: bool = True
    """Whether the checkpoint itself ends in a normalisation."""
    include_prompt: bool = True
    """Whether the graph pools the tokens of a prompt like any others."""
    assumed: str | None = None
    """What the checkpoint does not state and was taken for granted."""
    calibration: str | None = None
    """Which texts int8 was calibrated on."""
    run_alone: bool = False
    """Whether texts that share a run change each other's vectors, so that each runs alone."""
    speed_texts_per_s: Mapping[str, float] = field(default_factory=dict)
    """Of a short run on the importing machine, one thread, by precision."""


def write_card(card: ModelCard, folder: Path) -> None:
    """Write `card.json` into the folder."""
    text = json.dumps(asdict(card), indent=2, sort_keys=True) + "\n"
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def read_card(folder: Path) -> ModelCard:
    """Read the folder's `card.json`; raises `ModelError` where it is missing or malformed.

    A card needs `files`, `max_tokens` and `dim`, which loading goes by. What else an older card
    lacks says nothing, and what a later one adds is left out.
    """
    path = folder / CARD_FILE
    try:
        return _card(folder, json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing: {IMPORT_AGAIN}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{path}: not a model card ({error}): {IMPORT_AGAIN}") from error


def _card(folder: Path, values: Mapping[str, Any]) -> ModelCard:
    known = {"name": folder.parent.name, "version": folder.name, **_known(ModelCard, values)}
    parity, files = values.get("parity", {}), values["files"]
    return ModelCard(
        **known
        | {
            "dim": int(values["dim"]),
            "max_tokens": int(values["max_tokens"]),
            "include_prompt": bool(values.get("include_prompt", True)),
            "parity": {name: _parity(found) for name, found in parity.items()},
            "files": {name: _file(found) for name, found in files.items()},
        }
    )


def _file(values: Mapping[str, Any]) -> FileDigest:
    return FileDigest(sha256=str(values["sha256"]), size_bytes=int(values.get("size_bytes", 0)))


def _parity(values: Mapping[str, Any]) -> Parity:
    bands = (LengthParity(**_known(LengthParity, band)) for band in values.get("by_length", ()))
    return Parity(**{**_known(Parity, values), "by_length": tuple(bands)})


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that have a field, without those of later versions."""
    names = [each.name for each in fields(kind)]
    return {name: values[name] for name in names if name in values}


def digests_of(folder: Path) -> dict[str, FileDigest]:
    """Hash every file of the folder but the card."""
    return {
        path.name: FileDigest(sha256=sha256_of(path), size_bytes=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name != CARD_FILE
    }


def sha256_of(path: Path) -> str:
    """Return the hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
