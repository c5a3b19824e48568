"""Where things lie in a model repository, and what they are called.

Owns Triton's layout `<model>/[config.pbtxt]`, `<model>/<version>/…` and the names that models and
versions may have. Must not know what the files hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from vecserve_server.domain.names import MODEL_NAME_PATTERN, MODEL_NAME_RULE
from vecserve_server.errors import InvalidArgument

CARD_FILE = "card.json"
"""In a version's folder: what its other files are."""
TOKENIZER_FILE = "tokenizer.json"
"""In the folder of a text encoder's version."""
CACHE_FOLDER = ".cache"
"""Under the repository: what was measured and compiled on this machine. May be removed."""

_VERSION_PATTERN = re.compile(r"[1-9][0-9]{0,17}")


def is_model_name(name: str) -> bool:
    """Tell whether a folder of this name is a model's."""
    return MODEL_NAME_PATTERN.fullmatch(name) is not None


def check_model_name(field: str, name: str) -> None:
    """Refuse what cannot be the name of a model, and would lead out of the repository."""
    if not is_model_name(name):
        raise InvalidArgument(field, f"{name!r}: {MODEL_NAME_RULE}")


def model_folders(root: Path) -> list[Path]:
    """Return what under `root` has the name of a model, in order; nothing where there is no root.

    The hidden folders of the cache and of unfinished imports have none.
    """
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if is_model_name(path.name))


def is_version(name: str) -> bool:
    """Tell whether a folder of this name is a version."""
    return _VERSION_PATTERN.fullmatch(name) is not None


def version_folders(parts: Iterable[Path]) -> list[Path]:
    """Return which of the entries of a model's folder are versions, in their order."""
    return [path for path in parts if is_version(path.name) and path.is_dir()]
