"""The families of encoders, and how each becomes a graph."""

from __future__ import annotations
