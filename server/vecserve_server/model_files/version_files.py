"""The files of one version, and whether they are what its card says.

Owns the check. Must not know what the files mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vecserve_server.errors import ModelError
from vecserve_server.model_files.card import IMPORT_AGAIN, ModelCard, read_card, sha256_of
from vecserve_server.model_files.layout import CARD_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """What one engine runs."""

    path: Path
    digest: str
    size_bytes: int
    """Of all its files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFiles:
    """A version's folder and its card."""

    folder: Path
    card: ModelCard

    @classmethod
    def open(cls, folder: Path) -> VersionFiles:
        """Read the card; raises `ModelError` where it is missing or malformed."""
        return cls(folder=folder, card=read_card(folder))

    def holds(self, names: Sequence[str]) -> bool:
        """Tell whether all of the files are on the card."""
        return all(name in self.card.files for name in names)

    def model_file(self, names: Sequence[str]) -> ModelFile:
        """Return what an engine opens by the first name, once all files are known to be the card's.

        The file in which a large model keeps its tensors is one of them.
        """
        data = f"{names[0]}.data"
        every = [*names, *([data] if data in self.card.files else [])]
        digests = [self.verified(name) for name in every]
        joined = hashlib.sha256("".join(digests).encode()).hexdigest()
        return ModelFile(
            path=self.folder / names[0],
            digest=digests[0] if len(digests) == 1 else joined,
            size_bytes=sum((self.folder / name).stat().st_size for name in every),
        )

    def verified(self, name: str) -> str:
        """Return the file's sha256 once it is known to be the card's."""
        path, entry = self.folder / name, self.card.files.get(name)
        try:
            found = sha256_of(path)
        except FileNotFoundError as error:
            raise ModelError(f"{path} is missing: {IMPORT_AGAIN}") from error
        expected = entry.sha256 if entry else None
        if found != expected:
            raise ModelError(
                f"{path}: sha256 is {found}, {CARD_FILE} says {expected}: {IMPORT_AGAIN}"
            )
        return found
