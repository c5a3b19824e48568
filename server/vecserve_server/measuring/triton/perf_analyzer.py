"""perf_analyzer: its command line, its input data and its figures.

Owns running it against one model and reading its report. Must not know which server answers.
"""

from __future__ import annotations

import csv
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from vecserve_server.measuring.triton.tools import Tools

WINDOWS: Final = 3
"""perf_analyzer reports on three windows that follow each other."""
_ANY_DEVIATION_PERCENT: Final = 999
"""Three windows are measured, however they vary: the rounds show how steady a figure is."""

_RETRIES: Final = 2
_TOO_SHORT: Final = ("No valid requests recorded", "Failed to obtain stable measurement")


class LoadFailed(Exception):
    """perf_analyzer gave up; the message holds what it said."""


class WindowTooShort(LoadFailed):
    """Within a window no request, or hardly one, was answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What perf_analyzer does."""

    model: str
    input_file: Path
    clients: int = 1
    """Requests in flight; without effect where the options name a range."""
    window_ms: int
    options: Sequence[str] = ()
    limit_s: float = 120.0
    """perf_analyzer waits for ever for a stream that broke off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerBreakdown:
    """Averages that the server counted, in microseconds."""

    queue_us: float
    compute_input_us: float
    compute_infer_us: float
    compute_output_us: float

    @property
    def total_us(self) -> float:
        """What a request spent in the queue and in the model."""
        computed_us = self.compute_input_us + self.compute_infer_us + self.compute_output_us
        return self.queue_us + computed_us


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one run of perf_analyzer measured."""

    throughput_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    server: ServerBreakdown | None
    """None where the server keeps no statistics."""
    printed: str

    def as_json(self) -> dict[str, Any]:
        """Return the figures without what was printed."""
        return {key: value for key, value in asdict(self).items() if key != "printed"}


def write_texts(file: Path, texts: Sequence[str]) -> Path:
    """Write input data of one text per request."""
    return _write(file, [{"text": [text]} for text in texts])


def write_tokens(file: Path, sequences: Sequence[Sequence[int]]) -> Path:
    """Write input data of one tokenised text per request, each with its own shape."""

    def tensor(values: Sequence[int]) -> dict[str, Any]:
        return {"content": list(values), "shape": [len(values)]}

    return _write(
        file,
        [{"input_ids": tensor(ids), "attention_mask": tensor([1] * len(ids))} for ids in sequences],
    )


def run(tools: Tools, target: str, load: Load) -> Figures:
    """Put one load on a model; raises LoadFailed where perf_analyzer says so.

    Where a window is too short for the slowest answers, longer ones are tried.
    """
    for _ in range(_RETRIES):
        try:
            (figures,) = sweep(tools, target, load)
        except WindowTooShort:
            load = replace(load, window_ms=load.window_ms * 2)
        else:
            return figures
    (figures,) = sweep(tools, target, load)
    return figures


def sweep(tools: Tools, target: str, load: Load) -> list[Figures]:
    """Return the figures of each step of a range of loads; raises LoadFailed as `run` does."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.csv"
        command = _command(tools, target, load, report)
        done = _run(command, dict(tools.perf_analyzer_environ()), load.limit_s)
        if done.returncode or not report.exists():
            short = any(sign in done.stdout for sign in _TOO_SHORT)
            kind = WindowTooShort if short and "had error" not in done.stdout else LoadFailed
            raise kind(f"perf_analyzer ended with {done.returncode}:\n{done.stdout}")
        with report.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    return [_figures(row, done.stdout) for row in rows]


def _run(
    command: Sequence[str], environ: Mapping[str, str], limit_s: float
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - what `make tools-triton` fetched
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        printed = (expired.output or b"").decode(errors="replace")
        raise LoadFailed(f"perf_analyzer did not end within {limit_s:g} s:\n{printed}") from expired


def _command(tools: Tools, target: str, load: Load, report: Path) -> list[str]:
    command = [str(tools.perf_analyzer), "-i", "grpc", "-u", target, "-m", load.model]
    command += ["--input-data", str(load.input_file), "--percentile=95"]
    if not any("-range=" in option for option in load.options):
        command.append(f"--concurrency-range={load.clients}")
    command += [f"--measurement-interval={load.window_ms}", f"--max-trials={WINDOWS}"]
    command += [f"--stability-percentage={_ANY_DEVIATION_PERCENT}"]
    return [*command, *load.options, "-f", str(report), "--verbose-csv"]


def _figures(row: Mapping[str, str], printed: str) -> Figures:
    return Figures(
        throughput_per_s=float(row["Inferences/Second"]),
        p50_ms=float(row["p50 latency"]) / 1000,
        p95_ms=float(row["p95 latency"]) / 1000,
        p99_ms=float(row["p99 latency"]) / 1000,
        server=_breakdown(row),
        printed=printed,
    )


def _breakdown(row: Mapping[str, str]) -> ServerBreakdown | None:
    if "Server Queue" not in row:
        return None
    return ServerBreakdown(
        queue_us=float(row["Server Queue"]),
        compute_input_us=float(row["Server Compute Input"]),
        compute_infer_us=float(row["Server Compute Infer"]),
        compute_output_us=float(row["Server Compute Output"]),
    )


def _write(file: Path, steps: Sequence[Mapping[str, Any]]) -> Path:
    file.write_text(json.dumps({"data": steps}), encoding="utf-8")
    return file
