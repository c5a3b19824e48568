"""From queries to hits within one collection: filter, both searches, fusion, grouping."""

from __future__ import annotations
