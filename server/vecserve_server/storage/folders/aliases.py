"""The file that says which alias stands for which collection.

Owns the file's content. Must not know whether the collections exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vecserve_server.checked_json import find_checked_json, write_checked_json
from vecserve_server.errors import ConfigError

_VERSION = 1


def write_aliases(path: Path, aliases: Mapping[str, str]) -> None:
    """Replace all aliases (alias to collection) in one durable step. Raises StorageError."""
    write_checked_json(path, {"version": _VERSION, "aliases": dict(aliases)})


def read_aliases(path: Path) -> dict[str, str]:
    """Read all aliases; there are none without the file.

    Raises CorruptData, StorageError, and ConfigError if a newer vecserve wrote the file.
    """
    content = find_checked_json(path)
    if content is None:
        return {}
    if content["version"] != _VERSION:
        raise ConfigError(
            f"{path}: has version {content['version']}, this vecserve reads version {_VERSION}"
        )
    return dict(content["aliases"])
