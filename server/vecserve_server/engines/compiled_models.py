"""Compiled models that an engine keeps on disk, sealed against damage.

Owns a folder for each model file and the digest of what lies in it: an engine maps a compiled
model as it is, and would compute wrong vectors from a flipped bit. Must not know engines.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

_SEAL = "sha256"


class CompiledModels:
    """Folders by model digest, under one that may be None: then nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def open(self, model_digest: str) -> Path | None:
        """Return the model's folder: as it was sealed, or empty; None where none can be had."""
        if self._folder is None:
            return None
        folder = self._folder / model_digest[:32]
        try:
            if folder.is_dir() and not _is_whole(folder):
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return None
        return folder

    def seal(self, model_digest: str) -> None:
        """Note what the engine has put into the folder, unless that is known already."""
        if self._folder is None:
            return
        folder = self._folder / model_digest[:32]
        try:
            if folder.is_dir() and not (folder / _SEAL).exists():
                (folder / _SEAL).write_text(_digest(folder), encoding="ascii")
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    try:
        return (folder / _SEAL).read_text("ascii") == _digest(folder)
    except (OSError, UnicodeDecodeError):
        return False


def _digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name != _SEAL:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            found.update(f"{path.name} {content}\n".encode())
    return found.hexdigest()
