"""A model repository that a test may change, and what a server says about it."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tests.conftest import share_measurements
from tests.e2e.server_process import ServerProcess
from tests.e2e.triton_requests import MODEL

PATIENCE_S = 60.0


class Repository:
    """A repository of its own for a test; versions are links to the built one."""

    def __init__(self, root: Path, built: Path) -> None:
        self.root = root
        self._built = built
        root.mkdir()
        share_measurements(root, built)

    def config(self, name: str = MODEL) -> Path:
        return self.root / name / "config.pbtxt"

    def add(self, version: str, name: str = MODEL) -> None:
        """Put a version there at once, as a careful operator does."""
        (self.root / name).mkdir(exist_ok=True)
        if not self.config(name).exists():
            text = (self._built / MODEL / "config.pbtxt").read_text("utf-8")
            self.config(name).write_text(text.replace(MODEL, name), "utf-8")
        (self.root / name / version).symlink_to((self._built / MODEL / "1").resolve())

    def add_other(self, version: str) -> None:
        """Put a version with other weights there: fp32 ones where the card says int8."""
        source, unfinished = self._built / MODEL / "1", self.root / f".{version}"
        unfinished.mkdir()
        card = json.loads((source / "card.json").read_bytes())
        card["files"]["model.int8.onnx"] = card["files"]["model.onnx"]
        (unfinished / "card.json").write_text(json.dumps(card), "utf-8")
        for name, target in (("tokenizer.json",) * 2, ("model.int8.onnx", "model.onnx")):
            (unfinished / name).symlink_to((source / target).resolve())
        unfinished.rename(self.root / MODEL / version)

    def remove(self, version: str) -> None:
        (self.root / MODEL / version).unlink()


def eventually(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def scrape(server: ServerProcess) -> dict[tuple[str, str], float]:
    """Read the metrics that are labelled with a model; those of several labels are summed."""
    url = f"http://127.0.0.1:{server.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as reply:
        lines = reply.read().decode().splitlines()
    found: dict[tuple[str, str], float] = {}
    for line in lines:
        if line.startswith("nv_") and "{" in line:
            name, _, rest = line.partition("{")
            labels, _, value = rest.rpartition(" ")
            model = labels.partition('model="')[2].partition('"')[0]
            found[name, model] = found.get((name, model), 0.0) + float(value)
    return found
