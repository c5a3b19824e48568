"""The manifest of a collection: what the collection is, on disk.

Owns the file's format: a line with the sha256 of the rest, then JSON. Must not know rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from vecserve_server.atomic_files import write_atomically
from vecserve_server.domain import (
    CollectionSpec,
    FieldSpec,
    FieldType,
    ModelRef,
    TextAnalysis,
    Tokeniser,
)
from vecserve_server.errors import ConfigError, CorruptData, StorageError

_FILE_NAME = "MANIFEST"
_VERSION = 2
_READABLE = (1, _VERSION)


def write_manifest(folder: Path, spec: CollectionSpec) -> None:
    """Write the manifest of the collection in `folder`, atomically and durably.

    Raises StorageError.
    """
    content = {"version": _VERSION, "collection": dataclasses.asdict(spec)}
    body = json.dumps(content, indent=2, sort_keys=True).encode() + b"\n"
    write_atomically(folder / _FILE_NAME, _checksum(body) + b"\n" + body)


def read_manifest(folder: Path) -> CollectionSpec:
    """Read and verify the manifest of the collection in `folder`.

    Raises CorruptData if it is missing or damaged, StorageError if it cannot be read, ConfigError
    if a newer vecserve wrote it.
    """
    path = folder / _FILE_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CorruptData(f"{path}: the collection's manifest is missing") from error
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    checksum, _, body = data.partition(b"\n")
    if checksum != _checksum(body):
        raise CorruptData(f"{path}: the checksum does not match the content")
    return _decode(path, json.loads(body))


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def _decode(path: Path, content: dict[str, Any]) -> CollectionSpec:
    if content["version"] not in _READABLE:
        raise ConfigError(
            f"{path}: has version {content['version']}, this vecserve reads up to {_VERSION}"
        )
    collection = content["collection"]
    # Version 1 knew neither fields nor text analysis.
    decoded = {
        "model": ModelRef(**collection["model"]),
        "fields": tuple(map(_decode_field, collection.get("fields", ()))),
        "text_analysis": _decode_analysis(collection.get("text_analysis", {})),
    }
    return CollectionSpec(**{**collection, **decoded})


def _decode_field(content: dict[str, Any]) -> FieldSpec:
    return FieldSpec(name=content["name"], type=FieldType(content["type"]))


def _decode_analysis(content: dict[str, Any]) -> TextAnalysis:
    if not content:
        return TextAnalysis()
    return TextAnalysis(tokeniser=Tokeniser(content["tokeniser"]), porter=content["porter"])
