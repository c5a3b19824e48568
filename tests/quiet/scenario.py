"""One of everything that vecserve runs as, in a network without a way out.

`scenario FOLDER MODEL_REPOSITORY CHECKPOINT STAY_S` prints as JSON, for each step, how it ended and
what it tried to reach.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.quiet.namespace import attempts, enter, more

# Not 127.0.0.1: what has a name in /etc/hosts is not asked of a name server.
HOST = "127.0.0.2"
ROWS, DIM = 260, 16
PATIENCE_S = 240.0
WATCHED = ("home", "cache", "config", "temporary", "here")
"""Folders that are empty before and must be empty after."""


class Scenario:
    """The steps, and what each of them left behind."""

    def __init__(self, folder: Path, stay_s: float) -> None:
        self._folder = folder
        self._stay_s = stay_s
        self._staying: list[subprocess.Popen[bytes]] = []
        self.steps: dict[str, dict[str, Any]] = {}

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a process that knows nothing of this one's environment."""
        with (self._folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, *command],
                env=environ(self._folder),
                cwd=self._folder / "here",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def do(self, name: str, *arguments: str) -> None:
        """Run one thing to its end; its process stays beyond that."""
        before, done = attempts(), self._folder / f"{name}.done"
        module = ("-m", "tests.quiet.lingering", str(self._stay_s), str(done))
        process = self.start(name, *module, *arguments)
        wait_for(lambda: done.exists() or process.poll() is not None)
        self._staying.append(process)
        log = (self._folder / f"{name}.log").read_text(encoding="utf-8")
        code = done.read_text() if done.exists() else str(process.poll())
        self.steps[name] = {"code": code, "tried": more(before), "log": log[-2000:]}

    def end(self) -> None:
        """Wait for whatever stayed."""
        before = attempts()
        codes = [process.wait(self._stay_s + PATIENCE_S) for process in self._staying]
        self.steps["later"] = {"code": str(max(codes)), "tried": more(before), "log": ""}


def environ(folder: Path) -> dict[str, str]:
    """Return an environment without traces of a continuous integration, which quietens some."""
    places = {
        "HOME": "home",
        "XDG_CACHE_HOME": "cache",
        "XDG_CONFIG_HOME": "config",
        "TMPDIR": "temporary",
    }
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.environ["PYTHONPATH"],
        # Whoever obeys it tries to leave the machine.
        "http_proxy": "http://192.0.2.1:3128",
        **{name: str(folder / place) for name, place in places.items()},
    }


def wait_for(condition: Any) -> None:
    """Look until it holds."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def play(folder: Path, repository: str, checkpoint: str, stay_s: float) -> Mapping[str, Any]:
    """Run every command, the builder process and a Python client once."""
    scenario = Scenario(folder, stay_s)
    began = attempts()
    ready, data = folder / "ready.json", folder / "data"
    options = {"host": HOST, "port": "0", "metrics-port": "0", "ready-file": str(ready)}
    options |= {"data-dir": str(data), "model-repository": repository}
    flags = [f"--{name}={value}" for name, value in options.items()]
    server = scenario.start("serve", "-m", "vecserve_server.cli.main", "serve", *flags)
    try:
        wait_for(lambda: ready.exists() or server.poll() is not None)
        facts = json.loads(ready.read_bytes())
        target = f"{HOST}:{facts['port']}"
        rows = folder / "rows.jsonl"
        rows.write_text(
            "".join(json.dumps({"id": str(n), "text": f"row {n}"}) + "\n" for n in range(ROWS))
        )
        scenario.do("index", "index", "docs", str(rows), "--create", "--server", target)
        scenario.do("search", "search", "docs", "row 7", "--server", target)
        scenario.do("embed", "embed", "hello", "--server", target)
        scenario.do("client", "client", target)
        scenario.do("builder", "builder", str(job(folder / "segment")))
        mine = str(folder / "models")
        scenario.do("models add", "models", "add", checkpoint, "--model-repository", mine)
        demo = ("--limit", "20", "--queries", "2", "--model-repository", repository)
        scenario.do("demo", "demo", *demo)
        scrape(facts["metrics_port"])
        scenario.end()
    finally:
        server.terminate()
        code = server.wait(PATIENCE_S)
    log = (folder / "serve.log").read_text(encoding="utf-8")
    scenario.steps["serve"] = {"code": str(code), "tried": more(began), "log": log[-2000:]}
    return scenario.steps


def job(folder: Path) -> Path:
    """Write rows for the builder to seal."""
    # Imported now: they start threads, with which a process may not enter a namespace.
    import numpy as np  # noqa: PLC0415

    from vecserve_server.index.building.build_job import BuildJob, RowFiles, write_job  # noqa: PLC0415

    folder.mkdir()
    vectors = np.random.default_rng(0).standard_normal((ROWS, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    (folder / "seqs").write_bytes(np.arange(1, ROWS + 1, dtype="<i8").tobytes())
    (folder / "vectors").write_bytes(vectors.astype("<f2").tobytes())
    source = RowFiles(seqs=str(folder / "seqs"), vectors=str(folder / "vectors"), left_out="")
    write_job(folder, BuildJob(dim=DIM, sources=(source,)))
    return folder


def scrape(port: int) -> None:
    """Read the metrics."""
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    connection.request("GET", "/metrics")
    assert connection.getresponse().status == 200
    connection.close()


if __name__ == "__main__":
    enter()
    where, models, source_folder, stay = sys.argv[1:]
    for place in WATCHED:
        (Path(where) / place).mkdir()
    print(json.dumps(play(Path(where), models, source_folder, float(stay))))
