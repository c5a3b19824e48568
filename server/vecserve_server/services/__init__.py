"""Protocol-free use cases: embed, upsert, search, collections, models."""

from __future__ import annotations
