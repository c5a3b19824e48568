"""The rules by which batches form, sans I/O: time comes in, decisions come out."""

from __future__ import annotations
