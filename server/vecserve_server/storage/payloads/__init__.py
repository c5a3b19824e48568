"""What is derived from payloads: declared fields, filters and the word index, as SQL."""

from __future__ import annotations
