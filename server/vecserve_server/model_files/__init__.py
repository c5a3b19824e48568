"""The model repository on disk: its layout, names, versions, cards and configurations."""

from __future__ import annotations
