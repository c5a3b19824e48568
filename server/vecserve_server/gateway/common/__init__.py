"""What both protocols share: how a call comes in, is admitted, fails and leaves."""

from __future__ import annotations
