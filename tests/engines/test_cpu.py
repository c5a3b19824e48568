"""The processor: only x86 without VNNI clips int8 products."""

from __future__ import annotations

import pytest

from vecserve_server.engines.onnxruntime.cpu import saturates


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "fpu sse4_2 avx2 avx512f", True),
        ("x86_64", "fpu avx2 avx_vnni", False),
        ("x86_64", "fpu avx512f avx512_vnni amx_int8", False),
        ("aarch64", "", False),
        ("x86_64", "", False),
    ],
)
def test_vnni_decides_on_x86(machine: str, flags: str, expected: bool) -> None:
    cpuinfo = "processor\t: 0\nvendor_id\t: any\n" + (f"flags\t\t: {flags}\n" if flags else "")

    assert saturates(machine, cpuinfo) is expected
