"""From a checkpoint to a model in the repository."""

from __future__ import annotations
