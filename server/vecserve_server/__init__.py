"""The vecserve server: encoders behind a dynamic batcher, and a durable int8 vector index."""

from __future__ import annotations

import os
import sys
from typing import Final

from vecserve_server.telemetry import turn_off

__version__ = "0.2.0"

# Python runs this before any module of the package, however the process was started.
MAY_REPORT: Final = turn_off(os.environ, sys.modules)
"""Libraries that were imported too early to be told not to report."""
