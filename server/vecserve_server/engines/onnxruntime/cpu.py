"""What the processor can do.

Owns the reading of the operating system's description of it. Must not know engines.
"""

from __future__ import annotations

import platform
from pathlib import Path

_VNNI_FLAGS = frozenset({"avx512_vnni", "avx_vnni"})


def int8_products_saturate() -> bool:
    """Return whether this processor's u8 × s8 products overflow 16 bits and are clipped.

    True on x86 without VNNI; False elsewhere, and where the flags cannot be read.
    """
    try:
        description = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        return False
    return saturates(platform.machine(), description)


def saturates(machine: str, cpuinfo: str) -> bool:
    """Judge by the machine's architecture and the text of `/proc/cpuinfo`."""
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    return machine == "x86_64" and bool(flags) and _VNNI_FLAGS.isdisjoint(flags.split())
