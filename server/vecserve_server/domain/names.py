"""Names that the operator and callers give: what they may be.

Owns the patterns. Must not know what is named.
"""

from __future__ import annotations

import re

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Names of collections and aliases; fit for a folder."""

MODEL_NAME_PATTERN = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")
"""Names of models, at import, at load and in the index; fit for a folder."""

MODEL_NAME_RULE = "a model's name is 1 to 128 of A-Z a-z 0-9 . _ -, the first not a dot"

MODEL_CONFIG_FILE = "config.pbtxt"
"""What a model's folder calls its configuration: Triton's ModelConfig as text."""

SHIPPED_MODEL = "all-MiniLM-L6-v2"
"""The text encoder that `vecserve models add default` brings, and that is served by default."""
