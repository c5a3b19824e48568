"""The data folder: its lock, collections, generations, manifests, aliases and snapshots."""

from __future__ import annotations
