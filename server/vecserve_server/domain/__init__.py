"""The nouns that every layer shares: plain, frozen data without protocols, threads or files."""

from __future__ import annotations
