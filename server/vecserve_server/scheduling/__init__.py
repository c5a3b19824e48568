"""Forming batches and running them on model instances."""

from __future__ import annotations
