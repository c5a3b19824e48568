"""The vecserve server: encoders behind a dynamic batcher, and a durable int8 vector index."""

from __future__ import annotations

__version__ = "0.1.0"
