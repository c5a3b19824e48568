"""Encoders: from text to unit vectors, and where their models live."""

from __future__ import annotations
