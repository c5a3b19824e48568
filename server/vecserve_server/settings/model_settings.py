"""The settings of which models are served, and of what they may take.

Owns their names, defaults and limits; `settings.py` reads and checks them. Must not know what the
values are used for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vecserve_server.domain.names import SHIPPED_MODEL


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Which models are served."""

    repository: Path = Path("model_repository")
    default: str = SHIPPED_MODEL
    """Used where a request names no model."""
    load: tuple[str, ...] = ()
    """Names to load. Empty: all of the repository."""
    precision: str = ""
    """Overrides the precision of every model's config.pbtxt. Empty: as configured."""
    control_mode: Literal["none", "explicit", "poll"] = "none"
    """How models change while the server runs: not at all, on request, or as the folder does."""
    poll_s: float = 15.0
    """How often mode poll looks at the repository."""
    response_cache_bytes: int = 0
    """Memory for the replies of models that ask for a response cache; 0: none."""
    max_changes: int = 64
    """Loads and unloads in progress or waiting for others."""
    max_models: int = 1000
    """Models that load requests may bring to be known."""
    max_load_s: float = 600.0
    """Loading that takes longer is given up, and others get their turn."""
    max_load_bytes: int = 0
    """Memory that one load may take. 0: what is free when it begins."""
    max_warm_up_s: float = 120.0
    """A model whose samples take longer together is not loaded."""
    max_run_s: float = 600.0
    """A run of an ONNX model that takes longer is ended."""
    max_threads: int = 0
    """Threads that one model may ask for. 0: four for each CPU, at least 16."""
    delay_scheduler: int = 0
    """Test hook: hold each model's queue until so many requests have waited at once; 0: off."""


RANGES: tuple[tuple[str, float, float], ...] = (
    ("models.poll_s", 0.05, 86400),
    ("models.response_cache_bytes", 0, 1 << 40),
    ("models.max_changes", 1, 4096),
    ("models.max_models", 1, 100_000),
    ("models.max_load_s", 0.1, 86400),
    ("models.max_load_bytes", 0, 1 << 46),
    ("models.max_warm_up_s", 0.1, 86400),
    ("models.max_run_s", 0.1, 86400),
    ("models.max_threads", 0, 1024),
    ("models.delay_scheduler", 0, 1 << 20),
)
CHOICES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("models.precision", ("", "int8", "fp32", "fp16")),
    ("models.control_mode", ("none", "explicit", "poll")),
)
