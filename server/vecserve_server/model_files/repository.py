"""Find the versions of models that have cards, by name.

Owns which versions there are. Must not know how versions are loaded.
"""

from __future__ import annotations

from pathlib import Path

from vecserve_server.domain.names import MODEL_CONFIG_FILE, SHIPPED_MODEL
from vecserve_server.errors import ModelError
from vecserve_server.model_files.layout import check_model_name, model_folders, version_folders
from vecserve_server.model_files.version_files import VersionFiles


class ModelRepository:
    """The models under one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        """Return every model that has a configuration, in order."""
        found = model_folders(self._root)
        return [folder.name for folder in found if (folder / MODEL_CONFIG_FILE).is_file()]

    def folder(self, name: str) -> Path:
        """Return a model's folder; raises `InvalidArgument` for a name that no model can have."""
        check_model_name("name", name)
        return self._root / name

    def versions(self, name: str) -> list[str]:
        """Return the model's versions, oldest first; empty where there are none.

        Raises `InvalidArgument` for a name that no model can have.
        """
        folder = self.folder(name)
        if not folder.is_dir():
            return []
        return sorted((path.name for path in version_folders(folder.iterdir())), key=int)

    def files(self, name: str, version: str | None = None) -> VersionFiles:
        """Open a version, the latest when None; raises `ModelError` where it is missing."""
        versions = self.versions(name)
        if not versions:
            source = "default" if name == SHIPPED_MODEL else "SOURCE"
            raise ModelError(
                f"model {name} has no version in {self._root}: run `vecserve models add {source}`"
            )
        if version is not None and version not in versions:
            found = ", ".join(versions)
            raise ModelError(f"model {name} has no version {version} (found: {found})")
        return VersionFiles.open(self.folder(name) / (version or versions[-1]))
