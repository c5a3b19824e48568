"""What can be said of a model in the repository.

Owns the states of a version. Pure data; must not know who loads models or asks for them.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class ModelState(Enum):
    """Where one version stands."""

    READY = "ready"
    LOADING = "loading"
    UNLOADING = "unloading"
    """It takes no requests; some are still being answered."""
    UNAVAILABLE = "unavailable"


class ModelEntry(NamedTuple):
    """One version of a model in the repository."""

    name: str
    version: str
    """Empty where the model has no version that could be named."""
    state: ModelState | None
    """None where nobody asked for the model yet."""
    reason: str
    """Why it is not ready, or why its last change is not in force."""
