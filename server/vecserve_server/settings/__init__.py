"""Every knob of the server: one module for each section, and the reading of all of them."""

from __future__ import annotations
