"""A sealed segment: its files, the mapped memory and the search of its graph."""

from __future__ import annotations
