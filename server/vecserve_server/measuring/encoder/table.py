"""The encoder's report as a table for people."""

from __future__ import annotations

from typing import Final

from vecserve_server.measuring.encoder.comparison import EncoderReport
from vecserve_server.measuring.reports import as_json

_REST: Final = ("waste_percent", "cost_model", "fidelity", "quality", "memory", "start")


def table(report: EncoderReport) -> str:
    """Lay out the speeds by traffic, then every other figure with its path."""
    mix, short, shown = report.mix, report.short, as_json(report)
    lines = [f"{'texts/s':24s} {'mix':>9s} {'short':>9s}"]
    for name, found in mix.texts_per_s.items():
        lines.append(f"{name:24s} {found:9.0f} {short.texts_per_s[name]:9.0f}")
    for name, found in mix.ratios.items():
        lines.append(f"{name:48s} {found:6.2f} {short.ratios[name]:6.2f}")
    for key in _REST:
        lines += _lines(key, shown[key]) if key in shown else []
    return "\n".join(lines)


def _lines(name: str, value: object) -> list[str]:
    if isinstance(value, dict):
        return [line for key, found in value.items() for line in _lines(f"{name} / {key}", found)]
    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    return [f"{name:64s} {shown}"]
