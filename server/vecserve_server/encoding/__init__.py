"""From an input to unit vectors: tokenising, packing, planning and the encoder."""

from __future__ import annotations
