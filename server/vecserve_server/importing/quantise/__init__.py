"""Int8: calibration, the builds of both engines, and the proof that they answer alike."""

from __future__ import annotations
