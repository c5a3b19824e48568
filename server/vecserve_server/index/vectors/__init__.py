"""Vectors, codes and their exact comparison, and every decision about them."""

from __future__ import annotations
