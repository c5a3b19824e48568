"""The demo, from the start of its server to the end of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TIMEOUT_S = 240.0


def demo(model_repository: Path, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "vecserve_server.cli.main", "demo"]
    return subprocess.Popen(
        [*command, "--model-repository", str(model_repository), "--limit", "40", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_indexes_asks_and_measures(model_repository: Path) -> None:
    with demo(model_repository, "--queries", "5", "--json") as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, err) == (0, "")
    report = json.loads(out)
    assert report["documents"] == 40
    assert all(hits for hits in report["answers"].values())
    assert {latency["stage"] for latency in report["latency"]} == {
        "embed",
        "search",
        "server",
        "call",
    }
    for latency in report["latency"]:
        assert 0 < latency["p50_ms"] <= latency["p95_ms"] <= latency["p99_ms"]


def test_an_interrupted_demo_takes_its_server_along(
    serving_repository: Path, tmp_path: Path
) -> None:
    with demo(serving_repository, "--data-dir", str(tmp_path)) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Serving"):
                break
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, err) == (130, "vecserve: interrupted\n")
    with demo(
        serving_repository, "--data-dir", str(tmp_path), "--queries", "1", "--json"
    ) as process:
        process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0  # the data folder is free, and what it holds is no hindrance


def test_without_models_it_says_what_to_do(tmp_path: Path) -> None:
    with demo(tmp_path / "nothing") as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out) == (2, "")
    assert "vecserve models add default" in err
